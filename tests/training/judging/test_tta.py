from __future__ import annotations

import numpy as np

from tests.training.judging.made import network, pixels, scored, threshold_rule, truth
from training.fitting.spec import RadiographAugmentation, TorchvisionAugmentation
from training.judging.tta import tta_gain, views


def test_views_are_those_the_recipe_trained_with() -> None:
    names = ["identity", "rotation +5", "rotation -5", "brightness +0.15 stops", "brightness -0.15 stops"]
    assert list(views(RadiographAugmentation())) == names
    assert list(views(RadiographAugmentation(rotation=2.0, tone_share=0.0))) == [
        "identity",
        "rotation +2",
        "rotation -2",
    ]
    assert list(views(TorchvisionAugmentation())) == ["identity"]
    assert list(views(TorchvisionAugmentation(flip=0.5))) == ["identity", "flip"]
    film = pixels(1).plain[0]
    made = views(TorchvisionAugmentation(flip=0.5, brightness=0.1, rotation=10))
    np.testing.assert_array_equal(made["flip"](film), film[:, ::-1])
    assert made["brightness +0.15 stops"](film).mean() > film.mean() > made["brightness -0.15 stops"](film).mean()


def test_a_gain_is_found_and_paid_for() -> None:
    """The answer depends on where a film is dark by chance; its mirror image errs the other way."""
    part = pixels(60)
    y = np.array(truth(part))
    films = np.array(part.plain)
    rng = np.random.default_rng(0)
    noise = rng.integers(-60, 60, 60)
    films[:, 0, 0] = 128 + np.where(y == 1, 20, -20) + noise
    films[:, 0, -1] = 128 + np.where(y == 1, 20, -20) - noise
    read = network(lambda film: (float(film[0, 0]) - 128) / 10)
    clean = scored(read(films).logits[:, 0], y.tolist())
    flipped = views(TorchvisionAugmentation(flip=0.5))
    found = tta_gain(films, clean, read, threshold_rule(), flipped, bootstraps=60)
    assert found["cost"] == 2
    assert found["mean"]["auroc"]["value"] == 1.0
    assert found["gain"]["auroc"]["ci"][0] > 0
    assert found["gain"]["nll"]["value"] < 0
    assert found["helps"]
    assert not found["harms"]


def test_one_view_gains_nothing() -> None:
    part = pixels(20)
    read = network(lambda film: float(film.mean()) - 90)
    clean = scored(read(part.plain).logits[:, 0], truth(part))
    found = tta_gain(part.plain, clean, read, threshold_rule(), views(TorchvisionAugmentation()), bootstraps=10)
    assert found["gain"]["auroc"] == {"value": 0.0, "ci": [0.0, 0.0]}
    assert not found["helps"]
    assert not found["harms"]
