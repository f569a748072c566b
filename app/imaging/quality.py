"""Is the picture fit to be judged? Refusal of blank images; notices where exposure or contrast leave the model's experience."""

from __future__ import annotations

from app.bundle.manifest import QualityRule
from app.domain import InputStatistics, Notice
from app.errors import RefusedError

BLANK_STD_BELOW = 2.0
"""Gray levels. The flattest of 8,109 real films has a standard deviation of 16.3."""
BLANK_EXTREME_FRACTION = 0.995
"""Share of pixels that are nearly black or nearly white from which on nothing of a film can be left."""


def refuse_blank(statistics: InputStatistics) -> None:
    """Refuse an image without a picture.

    Raises:
        RefusedError: `blank_image` when the gray values hardly differ, or all but 0.5 % are nearly black or nearly white.
    """
    extreme = max(statistics.dark_fraction, statistics.bright_fraction)
    if statistics.std < BLANK_STD_BELOW or extreme > BLANK_EXTREME_FRACTION:
        raise RefusedError("blank_image")


def quality_notices(statistics: InputStatistics, rule: QualityRule) -> tuple[Notice, ...]:
    """What the reader should know about exposure and contrast, by the limits in the manifest; empty for an ordinary film."""
    notices = []
    if statistics.mean < rule.under_exposed_mean_below:
        notices.append(_notice("under_exposed", "The image is darker", statistics.mean))
    if statistics.mean > rule.over_exposed_mean_above:
        notices.append(_notice("over_exposed", "The image is brighter", statistics.mean))
    if statistics.std < rule.low_contrast_std_below:
        notices.append(_notice("low_contrast", "The image has less contrast", statistics.std))
    return tuple(notices)


def _notice(code: str, what: str, level: float) -> Notice:
    kind = "standard deviation" if code == "low_contrast" else "mean"
    return Notice(code, f"{what} than the films the model was measured on ({kind} {level:.0f} of 255); read with care.")
