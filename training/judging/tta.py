"""Does it help to show the network several views of a film and average the logits? Measured, with its price.

Views are ones the recipe's augmentation could have made, so that the network has been asked for them: the film as it is, small
rotations where it was trained with rotation, brighter and darker where it was trained with changes of tone, and the mirror image
only where it was trained with flips (a flip swaps the heart's side).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from app.imaging.views import PLAIN, ROTATION, STOPS, Gray, View, exposures, rotations
from training.fitting.spec import Augmentation
from training.judging.answers import Index, Rule, above, answer, below, figures_at, intervals
from training.judging.figures import nll
from training.judging.reading import Read
from training.judging.scored import Scored


def views(augmentation: Augmentation) -> dict[str, View]:
    """Name -> view, the plain film first. Those that the service shows (`app.imaging.views`), turned no further than the recipe turns."""
    found: dict[str, View] = {PLAIN: lambda film: film}
    turn = min(ROTATION, augmentation.rotation)
    if turn > 0:
        found |= rotations(turn)
    toned = augmentation.tone_share if augmentation.kind == "radiograph" else augmentation.brightness
    if toned > 0:
        found |= exposures(STOPS)
    if augmentation.kind == "torchvision" and augmentation.flip > 0:
        found["flip"] = lambda film: np.ascontiguousarray(film[:, ::-1])
    return found


def tta_gain(
    films: Gray,
    scored: Scored,
    read: Read,
    rule: Rule,
    shown_as: Mapping[str, View],
    *,
    bootstraps: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of the mean logit over the views beside those of the single view, differences paired by patients.

    Args:
        films: uint8 [N, S, S], in the order of `scored`, whose logits are those of the plain films.
        shown_as: of `views`.

    Returns:
        n, views, cost (passes a film), single and mean figures, gain (auroc, accuracy, balanced_accuracy, nll; nll falls when it is
        better) and `helps`: AUROC's gain excludes 0 from below and NLL does not get worse.
    """
    shown = [read(np.stack([view(film) for film in films])).logits for name, view in shown_as.items() if name != PLAIN]
    averaged = replace(scored, name="tta", logits=np.mean([scored.logits, *shown], axis=0))
    single, mean = answer(scored, rule), answer(averaged, rule)

    def losses(chosen: Index) -> tuple[float, float]:
        known = np.isfinite(scored.targets[chosen])
        truth = scored.targets[chosen][known].astype(np.int64)
        return nll(truth, single.probability[chosen][known]), nll(truth, mean.probability[chosen][known])

    def figures(chosen: Index) -> dict[str, float]:
        one, many = figures_at(single, chosen), figures_at(mean, chosen)
        before, after = losses(chosen)
        gain = {f"gain_{n}": many[n] - one[n] for n in ("auroc", "accuracy", "balanced_accuracy")}
        return (
            {f"single_{n}": v for n, v in one.items()}
            | {f"mean_{n}": v for n, v in many.items()}
            | gain
            | {"gain_nll": after - before}
        )

    measured = intervals(figures, scored.patients, bootstraps=bootstraps, seed=seed)
    result: dict[str, Any] = {"n": len(scored), "views": list(shown_as), "cost": len(shown_as)}
    for group in ("single", "mean", "gain"):
        result[group] = {n.removeprefix(f"{group}_"): e for n, e in measured.items() if n.startswith(f"{group}_")}
    better = "auroc" in result["gain"] and above(result["gain"]["auroc"], 0.0)
    result["helps"] = better and not above(result["gain"]["nll"], 0.0)
    result["harms"] = "auroc" in result["gain"] and below(result["gain"]["auroc"], 0.0)
    return result
