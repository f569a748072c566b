from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.fitting.losses import Loss, build_loss
from training.fitting.spec import LossPart

CPU = torch.device("cpu")
LOGITS = torch.tensor([[2.0, -1.0, 0.3], [-0.5, 0.1, 1.7], [0.2, 0.4, -2.2], [-3.0, 1.0, 0.0]])
ONE_HOT = functional.one_hot(torch.tensor([0, 2, 2, 1]), 3).float()
LABELS = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]])
WEIGHTS = torch.tensor([0.5, 2.0, 3.0])


def _plain(kind: str = "bce", **values: object) -> LossPart:
    return LossPart.model_validate({"kind": kind, "class_weights": "none", **values})


def test_bce_is_torchs_with_the_old_smoothing_towards_one_half() -> None:
    target = torch.tensor([[1.0], [0.0], [1.0], [1.0]])
    loss = Loss(_plain(label_smoothing=0.1), False, torch.tensor([0.37]))
    smooth = target * 0.9 + 0.05
    wanted = functional.binary_cross_entropy_with_logits(LOGITS[:, :1], smooth, pos_weight=torch.tensor(0.37))
    torch.testing.assert_close(loss(LOGITS[:, :1], target), wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs_with_weights_and_smoothing(smoothing: float) -> None:
    loss = Loss(_plain("cross_entropy", label_smoothing=smoothing), True, WEIGHTS)
    wanted = functional.cross_entropy(LOGITS, ONE_HOT.argmax(1), weight=WEIGHTS, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, ONE_HOT), wanted)


def test_focal_without_focus_is_the_weighted_cross_entropy() -> None:
    ours = Loss(_plain("focal", gamma=0.0), True, WEIGHTS)(LOGITS, ONE_HOT)
    torch.testing.assert_close(ours, functional.cross_entropy(LOGITS, ONE_HOT.argmax(1), weight=WEIGHTS))
    ours = Loss(_plain("focal", gamma=0.0), False, WEIGHTS)(LOGITS, LABELS)
    torch.testing.assert_close(ours, functional.binary_cross_entropy_with_logits(LOGITS, LABELS, pos_weight=WEIGHTS))


def _focal(p: float, y: int, alpha: float, gamma: float) -> float:
    """Lin et al. 2017, equation 5: FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t)."""
    p_t, alpha_t = (p, alpha) if y else (1 - p, 1 - alpha)
    return -alpha_t * math.pow(1 - p_t, gamma) * math.log(p_t)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_sigmoid_focal_is_lins_formula(gamma: float) -> None:
    loss = Loss(_plain("focal", alpha=0.25, gamma=gamma), False, torch.ones(3))
    pairs = zip(LOGITS.flatten().tolist(), LABELS.flatten().tolist(), strict=True)
    terms = [_focal(1 / (1 + math.exp(-z)), int(y), 0.25, gamma) for z, y in pairs]
    assert float(loss(LOGITS, LABELS)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_softmax_focal_is_the_formula_with_class_weights() -> None:
    loss = Loss(_plain("focal", gamma=2.0), True, WEIGHTS)
    total = weight = 0.0
    for z, y in zip(LOGITS.tolist(), ONE_HOT.argmax(1).tolist(), strict=True):
        p = math.exp(z[y]) / sum(map(math.exp, z))
        total += -float(WEIGHTS[y]) * (1 - p) ** 2 * math.log(p)
        weight += float(WEIGHTS[y])
    assert float(loss(LOGITS, ONE_HOT)) == pytest.approx(total / weight, rel=1e-5)


def test_alpha_is_one_factor_of_a_softmax_and_class_weights_stand() -> None:
    plain = Loss(_plain("focal", gamma=2.0), True, WEIGHTS)(LOGITS, ONE_HOT)
    torch.testing.assert_close(
        Loss(_plain("focal", gamma=2.0, alpha=0.25), True, WEIGHTS)(LOGITS, ONE_HOT), 0.25 * plain
    )
    three = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    weights = build_loss(LossPart(kind="focal", alpha=0.25), "multiclass", three, CPU).weights
    assert weights.tolist() == pytest.approx([6 / 9, 1.0, 2.0])


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_films_have_a_finite_gradient(softmax: bool, gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0, -200.0], [-200.0, 200.0, 200.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    Loss(_plain("focal", gamma=gamma), softmax, torch.ones(3))(logits, target).backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_unknown_labels_say_nothing(kind: str) -> None:
    loss = Loss(_plain(kind, label_smoothing=0.1), False, WEIGHTS)
    target = LABELS.clone()
    target[0, 1] = target[3] = torch.nan
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()  # type: ignore[no-untyped-call]  # torch's stub
    known = target.isfinite()
    each = [
        loss(LOGITS[i : i + 1], torch.where(_only(i, k), target, torch.nan)[i : i + 1])
        for i, k in known.nonzero().tolist()
    ]
    torch.testing.assert_close(value, torch.stack(each).mean())
    assert logits.grad is not None
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()


def _only(i: int, k: int) -> Tensor:
    held = torch.zeros(LABELS.shape, dtype=torch.bool)
    held[i, k] = True
    return held


def test_nothing_known_is_no_loss() -> None:
    assert float(Loss(_plain(), False, WEIGHTS)(LOGITS, torch.full((4, 3), torch.nan))) == 0


@pytest.mark.parametrize("softmax", [False, True])
def test_parts_of_a_batch_add_up_to_the_whole(softmax: bool) -> None:
    loss = Loss(_plain("focal", label_smoothing=0.1), softmax, WEIGHTS)
    target = ONE_HOT.clone()
    if not softmax:
        target[0, 0] = torch.nan
    parts = [loss.total(LOGITS[rows], target[rows]) / loss.denominator(target) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(parts[0] + parts[1], loss(LOGITS, target))


def test_balanced_weights() -> None:
    shown = np.array([[1.0], [1.0], [1.0], [0.0]], dtype=np.float32)
    assert build_loss(LossPart(), "binary", shown, CPU).weights.tolist() == [pytest.approx(1 / 3)]
    three = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 2]]
    weights = build_loss(LossPart(kind="cross_entropy"), "multiclass", three, CPU).weights
    assert weights.tolist() == pytest.approx([6 / 9, 1.0, 2.0])
    labels = np.array([[1, 0], [0, np.nan], [0, 0], *[[0, 0]] * 30], dtype=np.float32)
    weights = build_loss(LossPart(max_weight=20), "multilabel", labels, CPU).weights
    assert weights.tolist() == [20.0, 20.0]
    assert build_loss(_plain(), "binary", shown, CPU).weights.tolist() == [1.0]
    assert build_loss(LossPart(kind="focal", alpha=0.25), "binary", shown, CPU).weights.tolist() == [1.0]
    # alpha is the focal loss's own: left over from a base or a study, it takes no weights from another loss
    assert build_loss(LossPart(kind="bce", alpha=0.25), "binary", shown, CPU).weights.tolist() == [pytest.approx(1 / 3)]
