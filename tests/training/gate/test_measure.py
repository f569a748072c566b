"""Rates and their intervals, and that a picture's answer is the one a request would get."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from app.bundle.gate_spec import GateSpec, HeaderGate, PictureGate
from app.domain import EngineInfo, NetworkOutput
from app.gate import PictureReference
from training.gate.build import ACTIONS
from training.gate.fit import INPUT
from training.gate.measure import Answer, Gatekeeper, figure, figure_lines, wilson
from training.gate.poses import POSES
from training.gate.scores import Eye


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (1, 200), (50, 100), (7, 7), (3, 1962)])
def test_intervals_are_scipys(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_figure_counts() -> None:
    found = figure("refusal", "pages of text", [True, True, False, True])
    assert (found.value, found.n) == (0.75, 4)
    assert found.ci == wilson(3, 4)
    assert figure_lines([found]) == ["refusal             75.0%  (30.1% to 95.4%)  n =    4  pages of text"]


@dataclass(frozen=True)
class Told:
    """An engine that answers what it is told to."""

    logits: tuple[float, ...]
    features: tuple[float, ...]

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("told", "1", "fp32", 1)

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        assert tensor.shape == (1, 96, 96)
        return NetworkOutput(np.array(self.logits, np.float32), np.array(self.features, np.float32)[:, None, None])

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return [self.run(tensor) for tensor in tensors]


def keeper(pose: str = "upright", distance: float = 1.0, network: float = 1.0) -> Gatekeeper:
    """Of a film in that pose at those distances; both limits are 2."""
    picture = PictureGate(
        input=INPUT, poses=POSES, temperature=1.0, pose_probability_at_least=0.9, distance_above=2.0,
        network_distance_above=2.0, features=(1, 1, 1), false_refusal=(),
    )  # fmt: skip
    header = HeaderGate(modalities=("CR",), body_parts=("CHEST",), views=("AP",))
    known = PictureReference(np.zeros((len(POSES), 1)), np.ones((1, 1)), np.zeros(1), np.ones((1, 1)))
    gate = Told(tuple(9.0 if p == pose else 0.0 for p in POSES), (distance,))
    return Gatekeeper(
        Eye(INPUT, gate), Eye(INPUT, Told((0.0,), (network,))), GateSpec(header=header, picture=picture, actions=dict(ACTIONS)),
        picture, known,
    )  # fmt: skip


FILM = np.tile(np.arange(120, dtype=np.uint8), (100, 1))


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (keeper(), Answer(False, "")),
        (keeper("rotated_90"), Answer(True, "rotated_image", 90)),
        (keeper("inverted"), Answer(True, "inverted_image")),
        (keeper("inverted_rotated_270"), Answer(True, "inverted_image")),
        (keeper("cropped"), Answer(False, "cropped_image")),
        (keeper("rotated_90", distance=2.1), Answer(True, "not_a_chest_radiograph")),
        (keeper(network=2.1), Answer(True, "not_a_chest_radiograph")),
    ],
)
def test_answers(kept: Gatekeeper, expected: Answer) -> None:
    assert kept.answers([FILM]) == [expected]


def test_a_blank_picture_never_reaches_the_gate() -> None:
    assert keeper().answers([np.full((90, 90), 128, np.uint8)]) == [Answer(True, "blank_image")]
