from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from app.bundle.input_spec import InputSpec
from app.domain import Radiograph
from app.imaging.phantom import phantom
from app.preprocessing import prepare
from training.fitting.augment import augment, network_input, standardise
from training.fitting.spec import Augmentation, RadiographAugmentation, TorchvisionAugmentation

SPEC = InputSpec.model_validate(
    {
        "size": 96,
        "channels": 1,
        "resize": "stretch",
        "sixteen_bit": "significant_bits",
        "normalisation": {"kind": "per_image", "std_floor": 8.0},
    }
)
OFF = RadiographAugmentation(
    tone_share=0, gamma=1, window=0, curve=0, rotation=0, scale=1, aspect=1, shift=0, illumination=0, sharpness=0,
    coarse=0, noise=0, erase=0,
)  # fmt: skip


def _films(n: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.stack([phantom(i, height=96, width=96, opacity=i % 2 == 1) for i in range(n)]))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


NOTED_MEANS = [137.917, 72.509, 104.559, 119.691, 75.108, 133.053]
NOTED_STDS = [90.94, 41.724, 79.666, 48.092, 47.74, 61.154]
NORMALISATIONS = [
    {"channels": 1, "normalisation": {"kind": "per_image", "std_floor": 8.0}},
    {"channels": 3, "normalisation": {"kind": "per_image", "std_floor": 8.0}},
    {"channels": 1, "normalisation": {"kind": "fixed", "mean": [0.5], "std": [0.25]}},
    {"channels": 3, "normalisation": {"kind": "fixed", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}},
]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("values", NORMALISATIONS)
def test_the_networks_input_is_the_services_normalisation(values: dict[str, object], flat: bool) -> None:
    spec = InputSpec.model_validate(SPEC.model_dump() | values)
    films = [phantom(seed, height=120, width=100, opacity=seed % 2 == 0) for seed in range(8)]
    if flat:  # below the floor of the standard deviation
        films = [np.clip(film // 40 + 100, 0, 255).astype(np.uint8) for film in films]
    prepared = [prepare(Radiograph(pixels=film, sha256="0" * 64, format="png"), spec) for film in films]
    ours = network_input(torch.from_numpy(np.stack([p.resized for p in prepared])).float()[:, None], spec).numpy()
    theirs = np.stack([p.tensor for p in prepared])
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("level", "spread"), [(0, 0), (128, 90), (250, 5), (240, 8.2), (20, 40)])
def test_standardising_in_float32_loses_nothing(level: float, spread: float) -> None:
    gray = (level + spread * torch.randn((4, 1, 224, 224), generator=_generator())).clamp(0, 255)
    gray[3] = level  # a blank film
    wide = gray.double()
    std = wide.std(dim=(1, 2, 3), keepdim=True, correction=0).clamp_min(8.0)
    wanted = (wide - wide.mean(dim=(1, 2, 3), keepdim=True)) / std
    torch.testing.assert_close(standardise(gray, 8.0).double(), wanted, rtol=1e-6, atol=1e-6)


def test_the_same_generator_shows_the_same_films_as_in_earlier_versions() -> None:
    """Means and spreads of six films, noted with the version that fitted the first shipped bundle."""
    changed = augment(_films(), RadiographAugmentation(), 64, _generator(5))[:, 0]
    assert changed.mean((1, 2)).tolist() == pytest.approx(NOTED_MEANS, abs=0.01)
    assert changed.std((1, 2)).tolist() == pytest.approx(NOTED_STDS, abs=0.01)


def test_with_everything_off_the_film_comes_through() -> None:
    films = _films()
    same = augment(films, OFF, 96, _generator())
    assert same.shape == (6, 1, 96, 96)
    assert same.dtype == torch.float32
    torch.testing.assert_close(same[:, 0], films.float(), rtol=0, atol=0.01)


def test_the_generator_is_the_only_source_of_chance() -> None:
    films, part = _films(), RadiographAugmentation()
    torch.manual_seed(1)
    first = augment(films, part, 64, _generator(5))
    torch.manual_seed(2)
    assert torch.equal(first, augment(films, part, 64, _generator(5)))
    assert not torch.equal(first, augment(films, part, 64, _generator(6)))
    assert first.shape == (6, 1, 64, 64)


def test_gray_levels_stay_in_range_and_films_differ_from_each_other() -> None:
    films = _films(1).expand(32, -1, -1)
    changed = augment(films, RadiographAugmentation(), 96, _generator())
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert len({round(float(f.mean()), 3) for f in changed}) == 32


def test_no_film_is_ever_mirrored() -> None:
    """A film that is bright on its left half stays so under every geometry that is drawn."""
    films = torch.zeros((64, 96, 96), dtype=torch.uint8)
    films[:, :, :48] = 200
    changed = augment(films, RadiographAugmentation(erase=0, illumination=0, tone_share=0), 96, _generator())[:, 0]
    assert (changed[:, 30:66, 20:36].mean((1, 2)) > changed[:, 30:66, 60:76].mean((1, 2)) + 50).all()


@pytest.mark.parametrize("part", ["gamma", "window", "curve"])
def test_tone_curves_never_turn_the_order_of_grays(part: str) -> None:
    ramp = torch.arange(256, dtype=torch.uint8).repeat(256, 1)[None].expand(16, -1, -1)
    setting = {"gamma": 2.5, "window": 0.3, "curve": 1.0}[part]
    only = OFF.model_copy(update={"tone_share": 1.0, part: setting})
    changed = augment(ramp, only, 256, _generator())[:, 0]
    assert (changed.diff(dim=2) >= -0.01).all()
    assert (changed - ramp.float()).abs().amax() > 5


def _mild(**values: float) -> TorchvisionAugmentation:
    return TorchvisionAugmentation.model_validate(values)


def test_torchvision_with_everything_off_is_the_film() -> None:
    films = _films()
    same = augment(films, _mild(), 96, _generator())
    assert same.shape == (6, 1, 96, 96)
    assert same.dtype == torch.float32
    torch.testing.assert_close(same[:, 0], films.float(), rtol=0, atol=0.01)
    assert augment(films, _mild(), 48, _generator()).shape == (6, 1, 48, 48)


@pytest.mark.parametrize(
    "values",
    [
        {"rotation": 10},
        {"shift": 0.1},
        {"scale": 0.1},
        {"brightness": 0.2},
        {"contrast": 0.2},
        {"blur": 1.0},
        {"noise": 5},
    ],
)
def test_each_torchvision_change_draws_for_each_film(values: dict[str, float]) -> None:
    films = _films(1).expand(8, -1, -1)
    state = torch.random.get_rng_state()
    changed = augment(films, _mild(**values), 96, _generator(3))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len({round(float(((f - films[0]) ** 2).mean()), 4) for f in changed}) == 8
    assert changed.min() >= 0
    assert changed.max() <= 255
    torch.manual_seed(99)
    assert torch.equal(changed, augment(films, _mild(**values), 96, _generator(3)))
    assert not torch.equal(changed, augment(films, _mild(**values), 96, _generator(4)))


@pytest.mark.parametrize(
    ("part", "mirrored"), [(_mild(rotation=10, shift=0.1), 0), (_mild(flip=1.0), 32), (_mild(flip=0.5), None)]
)
def test_torchvision_mirrors_only_where_asked(part: Augmentation, mirrored: int | None) -> None:
    films = torch.zeros((32, 96, 96), dtype=torch.uint8)
    films[:, :, :48] = 200
    changed = augment(films, part, 96, _generator())[:, 0]
    found = int((changed[:, 30:66, 60:76].mean((1, 2)) > 150).sum())
    assert found == mirrored if mirrored is not None else 6 <= found <= 26


@pytest.mark.parametrize(
    "values", [{"rotation": 16}, {"shift": 0.2}, {"scale": 0.2}, {"brightness": 0.4}, {"contrast": 0.4}]
)
def test_limits_that_no_chest_film_exceeds(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        _mild(**values)
