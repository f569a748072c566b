from __future__ import annotations

import copy
import math
import tomllib

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from torch.nn import functional

from app.imaging.phantom import phantom
from tests.training.phantom_data import TINY
from training.fitting.augment import augment, standardise
from training.fitting.average import Average
from training.fitting.checkpoint import State
from training.fitting.distributed import Processes
from training.fitting.loop import Session, TrainingSet, batches, run_epoch
from training.fitting.losses import build_loss
from training.fitting.optimise import Arithmetic, build_optimiser
from training.networks.network import TriageNetwork, build_network
from training.recipe import Recipe, parse_recipe

CPU = torch.device("cpu")


def _recipe() -> Recipe:
    loss = {"kind": "bce", "label_smoothing": 0.1, "class_weights": "balanced"}
    return parse_recipe(tomllib.loads(TINY), "test").changed({"training.loss": loss})


def _films(n: int = 27) -> TrainingSet:
    images = np.stack([phantom(i, height=64, width=64, opacity=i % 3 > 0) for i in range(n)])
    target = np.array([[float(i % 3 > 0)] for i in range(n)], dtype=np.float32)
    return TrainingSet(np.stack([images, 255 - images], axis=1), target, ["one"] * n)


def _network(recipe: Recipe) -> TriageNetwork:
    return build_network(recipe.network, outputs=1, channels=1, seed=recipe.seed)


def _written_out(recipe: Recipe, films: TrainingSet) -> tuple[TriageNetwork, TriageNetwork]:
    """The loop that fitted the first shipped bundle, in one piece: AdamW in two groups, warm-up and cosine, clipping, smoothing towards
    one half, positives weighted, a moving average whose youth forgets faster. Returns the network and its average."""
    part, network = recipe.training, _network(recipe)
    average = copy.deepcopy(network)
    wide = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": wide, "weight_decay": part.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=part.learning_rate)
    labels = films.target[:, 0]
    weight = torch.tensor(float((labels == 0).sum() / (labels == 1).sum()))
    network.train()
    for epoch in range(part.epochs):
        rng = np.random.default_rng([recipe.seed, epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(len(labels))
        steps = len(order) // part.batch
        torch.manual_seed(int(rng.integers(2**62)))
        for step in range(steps):
            chosen = order[step * part.batch : (step + 1) * part.batch]
            gray = torch.from_numpy(films.images[chosen, rng.integers(2, size=len(chosen))])
            image = standardise(augment(gray, recipe.augmentation, part.size_of(epoch), generator), 8.0)
            done = epoch * steps + step
            position, share = done / (part.epochs * steps), part.schedule.warmup_share
            rising = (position + 1e-3) / (share + 1e-3)
            falling = 0.5 * (1 + math.cos(math.pi * (position - share) / (1 - share)))
            for group in optimiser.param_groups:
                group["lr"] = part.learning_rate * (rising if position < share else falling)
            smooth = torch.from_numpy(labels[chosen]) * 0.9 + 0.05
            loss = functional.binary_cross_entropy_with_logits(network(image)[0][:, 0], smooth, pos_weight=weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            decay = min(part.average.decay, (1 + done) / (10 + done))
            with torch.no_grad():
                for ours, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    ours.copy_(torch.lerp(ours, theirs, 1 - decay) if ours.dtype.is_floating_point else theirs)
    return network, average


def test_the_defaults_are_the_arithmetic_written_out() -> None:
    recipe, films = _recipe(), _films()
    network = _network(recipe)
    loss = build_loss(recipe.training.loss, "binary", films.target, CPU)
    average = Average(recipe.training.average, network)
    state = State(network, average, build_optimiser(network, recipe.training), Arithmetic(recipe.training, CPU))
    with Progress(console=Console(quiet=True)) as progress:
        entries = [run_epoch(Session(recipe, films, loss, Processes(0, 1, CPU)), state, progress) for _ in range(2)]
    assert [entry["size"] for entry in entries] == [32, 64]
    for ours, theirs in zip((network, average.network), _written_out(recipe, films), strict=True):
        fresh = _network(recipe).state_dict()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=2e-6, msg=name)
        assert not torch.allclose(theirs.state_dict()["head.weight"], fresh["head.weight"], atol=1e-3)


def test_an_epoch_can_be_told_again_and_no_two_are_alike() -> None:
    recipe, films = _recipe(), _films()
    first, again, other = (
        [batch.image.mean().item() for batch in batches(recipe, films, epoch, CPU)[1]] for epoch in (0, 0, 1)
    )
    assert first == again
    assert len(first) == 27 // 8
    assert set(first).isdisjoint(other)


@pytest.mark.parametrize(("rank", "same"), [(0, True), (1, False)])
def test_other_processes_see_the_same_films_but_drop_others(rank: int, same: bool) -> None:
    recipe, films = _recipe(), _films()
    images = torch.cat([batch.image for batch in batches(recipe, films, 0, CPU)[1]])
    batches(recipe, films, 0, CPU)
    chance = torch.rand(8)
    again = torch.cat([batch.image for batch in batches(recipe, films, 0, CPU, rank)[1]])
    assert torch.equal(images, again)
    batches(recipe, films, 0, CPU, rank)
    assert torch.equal(chance, torch.rand(8)) == same
