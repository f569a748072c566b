from __future__ import annotations

import numpy as np
import torch

from training.fitting.mixup import mixup


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(6.0)[:, None, None, None].expand(6, 1, 4, 4).contiguous(), torch.eye(6)


def test_off_changes_and_draws_nothing() -> None:
    image, target = _batch()
    rng = np.random.default_rng(0)
    same = mixup(image, target, 0.0, rng)
    assert same == (image, target)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_images_and_labels_are_blended_alike() -> None:
    image, target = _batch()
    mixed, labels = mixup(image, target, 0.4, np.random.default_rng(3))
    assert not torch.equal(mixed, image)
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    torch.testing.assert_close(mixed[:, 0, 0, 0], labels @ torch.arange(6.0))


def test_a_label_that_one_film_does_not_know_is_unknown() -> None:
    image, target = _batch()
    target[2, 1] = torch.nan
    _, labels = mixup(image, target, 1.0, np.random.default_rng(1))
    unknown = labels.isnan()
    assert unknown[2, 1]
    assert unknown.sum() == 2  # itself, and the film that it was blended into
    assert unknown[:, 1].sum() == 2
