from __future__ import annotations

import numpy as np
import pytest
import torch

from app.bundle.input_spec import InputSpec
from app.domain import Radiograph
from app.imaging.phantom import phantom
from app.preprocessing import prepare
from training.fitting.augment import augment, standardise
from training.recipe import AugmentationPart

SPEC = InputSpec.model_validate(
    {
        "size": 96,
        "channels": 1,
        "resize": "stretch",
        "sixteen_bit": "significant_bits",
        "normalisation": {"kind": "per_image", "std_floor": 8.0},
    }
)
OFF = AugmentationPart(
    tone_share=0, gamma=1, window=0, curve=0, rotation=0, scale=1, aspect=1, shift=0, illumination=0, sharpness=0,
    coarse=0, noise=0, erase=0,
)  # fmt: skip


def _films(n: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.stack([phantom(i, height=96, width=96, opacity=i % 2 == 1) for i in range(n)]))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("flat", [False, True])
def test_standardise_is_the_services_normalisation(flat: bool) -> None:
    films = [phantom(seed, height=120, width=100, opacity=seed % 2 == 0) for seed in range(8)]
    if flat:  # below the floor of the standard deviation
        films = [np.clip(film // 40 + 100, 0, 255).astype(np.uint8) for film in films]
    prepared = [prepare(Radiograph(pixels=film, sha256="0" * 64, format="png"), SPEC) for film in films]
    ours = standardise(torch.from_numpy(np.stack([p.resized for p in prepared])).float()[:, None], 8.0).numpy()
    theirs = np.stack([p.tensor for p in prepared])
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_with_everything_off_the_film_comes_through() -> None:
    films = _films()
    same = augment(films, OFF, 96, _generator())
    assert same.shape == (6, 1, 96, 96)
    assert same.dtype == torch.float32
    torch.testing.assert_close(same[:, 0], films.float(), rtol=0, atol=0.01)


def test_the_generator_is_the_only_source_of_chance() -> None:
    films, part = _films(), AugmentationPart()
    torch.manual_seed(1)
    first = augment(films, part, 64, _generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, augment(films, part, 64, _generator(5)))
    assert not torch.equal(first, augment(films, part, 64, _generator(6)))
    assert first.shape == (6, 1, 64, 64)


def test_gray_levels_stay_in_range_and_films_differ_from_each_other() -> None:
    films = _films(1).expand(32, -1, -1)
    changed = augment(films, AugmentationPart(), 96, _generator())
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert len({round(float(f.mean()), 3) for f in changed}) == 32


def test_no_film_is_ever_mirrored() -> None:
    """A film that is bright on its left half stays so under every geometry that is drawn."""
    films = torch.zeros((64, 96, 96), dtype=torch.uint8)
    films[:, :, :48] = 200
    changed = augment(films, AugmentationPart(erase=0, illumination=0, tone_share=0), 96, _generator())[:, 0]
    assert (changed[:, 30:66, 20:36].mean((1, 2)) > changed[:, 30:66, 60:76].mean((1, 2)) + 50).all()


@pytest.mark.parametrize("part", ["gamma", "window", "curve"])
def test_tone_curves_never_turn_the_order_of_grays(part: str) -> None:
    ramp = torch.arange(256, dtype=torch.uint8).repeat(256, 1)[None].expand(16, -1, -1)
    setting = {"gamma": 2.5, "window": 0.3, "curve": 1.0}[part]
    only = OFF.model_copy(update={"tone_share": 1.0, part: setting})
    changed = augment(ramp, only, 256, _generator())[:, 0]
    assert (changed.diff(dim=2) >= -0.01).all()
    assert (changed - ramp.float()).abs().amax() > 5
