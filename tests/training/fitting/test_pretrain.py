from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from app.errors import ConfigurationError
from tests.support.networks import film_batch
from tests.training.phantom_data import TINY, film, write_data
from training.data.cache import Pixels
from training.data.collect import collect
from training.data.films import Film
from training.data.spec import ManifestSource
from training.data.splits import recipe_splits
from training.fitting import pretrain
from training.fitting.objectives import MASKED_SHARE, PATCH, Masked, SimSiam, spread
from training.fitting.pretrain import pretrained_body, pretraining_facts, usable_films
from training.networks.network import build_network
from training.networks.weights import load_body
from training.places import CHECKOUT, Places
from training.recipe import Recipe, parse_recipe


def pretraining_recipe(changes: dict[str, Any] | None = None, **pretraining: Any) -> Recipe:
    """TINY with a pre-training on its own training films, without external sets."""
    part = {"epochs": 3, "size": 32, "batch": 16, "learning_rate": 3e-3, **pretraining}
    content = {**tomllib.loads(TINY), "pretraining": part}
    content["evaluation"] = {"severities": [1]}
    return parse_recipe({**content, **(changes or {})}, "tiny")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    root = tmp_path_factory.mktemp("pretraining")
    return Places(data=write_data(root / "data"), cache=root / "cache")


def _again(places: Places, tmp_path: Path) -> Places:
    """The same films with a cache of its own."""
    return replace(places, cache=tmp_path / "cache")


def _run(recipe: Recipe, places: Places) -> tuple[Path, str]:
    told = Console(file=io.StringIO(), width=200)
    path = pretrained_body(recipe, recipe_splits(recipe, places).train, places, told)
    assert isinstance(told.file, io.StringIO)
    return path, told.file.getvalue()


@pytest.mark.parametrize("method", ["simsiam", "masked"])
def test_a_body_is_made_once_and_fits(method: str, places: Places, tmp_path: Path) -> None:
    places = _again(places, tmp_path)
    recipe = pretraining_recipe(method=method)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    path, told = _run(recipe, places)
    assert torch.equal(before, torch.get_rng_state())
    assert told.count("spread") == 3
    facts = pretraining_facts(path)
    assert (facts["method"], [entry["epoch"] for entry in facts["history"]]) == (method, [1, 2, 3])
    assert facts["films"] == sum(facts["folders"].values()) == len(recipe_splits(recipe, places).train)
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    assert not list(places.cache.glob("*.checkpoint*"))
    network = build_network(recipe.network, outputs=1, channels=1, seed=recipe.seed)
    fresh = {name: value.clone() for name, value in network.body.state_dict().items()}
    load_body(network, path)
    moved = [name for name, value in network.body.state_dict().items() if not torch.equal(value, fresh[name])]
    assert set(moved) >= set(dict(network.body.named_parameters()))
    written = path.stat().st_mtime_ns
    assert _run(recipe, places) == (path, "")
    assert path.stat().st_mtime_ns == written


def test_a_killed_pretraining_goes_on_to_the_same_weights(places: Places, tmp_path: Path) -> None:
    """kill -9 in the middle of the second of three epochs."""
    undisturbed, _ = _run(pretraining_recipe(), places)
    cut = _again(places, tmp_path)
    child = [sys.executable, "-m", "tests.training.fitting.pretraining_child", str(cut.data), str(cut.cache)]
    done = subprocess.run(child, cwd=CHECKOUT, capture_output=True, check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [p.name for p in cut.cache.glob("tiny_cnn-*.checkpoint.pt")] == [f"{undisturbed.stem}.checkpoint.pt"]
    assert not list(cut.cache.glob("*.safetensors"))
    resumed, told = _run(pretraining_recipe(), cut)
    assert "epoch 1/3" not in told
    assert "epoch 2/3" in told
    assert resumed.name == undisturbed.name
    assert resumed.read_bytes() == undisturbed.read_bytes()
    losses = [[entry["loss"] for entry in pretraining_facts(path)["history"]] for path in (resumed, undisturbed)]
    assert losses[0] == losses[1]


def test_all_chance_comes_from_seed_and_epoch() -> None:
    """Also that of dropout and stochastic depth, which draw from torch's global generator."""
    recipe = pretraining_recipe()
    assert recipe.pretraining is not None
    pixels = _noise_pixels(16)
    results = []
    for other in (1, 2):
        state = pretrain._start(recipe, recipe.pretraining, pixels)
        assert isinstance(state.objective.body, torch.nn.Sequential)
        state.objective.body.append(torch.nn.Dropout(0.5))
        with torch.random.fork_rng(devices=[]), Progress(disable=True) as progress:
            torch.manual_seed(other)
            pretrain._epoch(recipe, recipe.pretraining, state, pixels, progress)
        results.append(state.network.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def _noise_pixels(count: int) -> Pixels:
    images = np.random.default_rng(0).integers(256, size=(count, 1, 64, 64), dtype=np.uint8)
    return Pixels(tuple(film(f"{n}.jpg") for n in range(count)), images, (), ())


def test_what_shapes_the_body_names_it(places: Places, tmp_path: Path) -> None:
    recipe = pretraining_recipe(epochs=1)
    path, _ = _run(recipe, places)
    films = recipe_splits(recipe, places).train
    console = Console(file=io.StringIO())
    renamed = [replace(film, label="anything", findings=(("mass", 1),)) for film in films]
    assert pretrained_body(recipe, renamed, places, console) == path  # labels do not matter
    other_rate = recipe.changed({"training.learning_rate": 1e-4})
    assert pretrained_body(other_rate, films, places, console) == path  # nor does the fit
    for changed in (recipe.changed({"seed": 8}), pretraining_recipe(epochs=1, method="simsiam")):
        assert pretrained_body(changed, films, places, console) != path
    assert pretrained_body(recipe, films[:-1], places, console) != path


def test_films_that_the_recipe_judges_on_are_left_out(places: Places, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(places.data, data)
    own = Places(data=data, cache=tmp_path / "cache")
    splits = recipe_splits(pretraining_recipe(), own)
    copied = splits.report[0]
    target = data / "copies" / "another_name.jpg"
    target.parent.mkdir()
    shutil.copy(data / copied.path, target)
    header = (data / "kermany_hires" / "manifest.csv").read_text().splitlines()[0].split(",")
    row = {"path": "copies/another_name.jpg", "label": "normal", "patient_id": "nobody-knows", "licence": "CC BY 4.0"}
    lines = [",".join(header), ",".join(row.get(name, "") for name in header)]
    (data / "copies" / "manifest.csv").write_text("\n".join(lines) + "\n")
    folders = ("kermany_hires", "kermany_224", "nih_chestxray14", "rsna_normal", "copies")
    external = {"name": "nih", "sources": [{"kind": "manifest", "folder": "nih_chestxray14"}]}
    recipe = pretraining_recipe(
        {"evaluation": {"external": [external]}},
        sources=[{"kind": "manifest", "folder": folder} for folder in folders],
    )
    usable, left_out = usable_films(recipe, (), own)
    held = [*splits.fit, *splits.report, *splits.test]
    patients = {film.patient for film in held}
    assert set(splits.train) <= {replace(f, label=_label(splits.train, f), findings=()) for f in usable}
    assert not {film.path for film in usable} & {film.path for film in (*held, *splits.crossing)}
    assert not {film.patient for film in usable} & patients
    assert {film.folder for film in usable} == {"kermany_hires", "kermany_224"}
    everything = collect([ManifestSource(folder=folder) for folder in folders], data)
    unknown = sum(not film.patient for film in everything)
    assert unknown == 8
    assert left_out == {
        "of unknown patients left out": unknown,
        "of held-out patients, or copies of held-out films, left out": len(everything) - unknown - len(usable),
    }


def _label(films: tuple[Film, ...], film: Film) -> str:
    return next((f.label for f in films if f.path == film.path), "")


def test_sides_and_limits_of_sources(places: Places) -> None:
    def usable(**source: Any) -> tuple[tuple[Film, ...], dict[str, int]]:
        recipe = pretraining_recipe(sources=[{"kind": "manifest", "folder": "rsna_normal", **source}])
        return usable_films(recipe, (), places)

    assert usable()[0] == ()
    assert usable(side="test") == ((), {"of a held-out source left out": 8})
    eight, left_out = usable(side="train")
    assert (len(eight), left_out) == (8, {})
    three, _ = usable(side="train", limit=3)
    assert len(three) == 3
    assert set(three) < set(eight)


def test_a_collapse_stops_the_run(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_step = pretrain._step

    def collapsing(recipe: Recipe, state: pretrain.State, views: tuple[torch.Tensor, ...]) -> float:
        """All embeddings become the bias of the last batch norm."""
        loss = own_step(recipe, state, views)
        assert isinstance(state.objective, SimSiam)
        last = state.objective.projector[-1]
        assert isinstance(last, torch.nn.BatchNorm1d)
        with torch.no_grad():
            last.weight.fill_(1e-2)
            last.bias.fill_(1.0)
        return loss

    monkeypatch.setattr(pretrain, "_step", collapsing)
    places = _again(places, tmp_path)
    with pytest.raises(ConfigurationError, match="nearly the same embedding") as error:
        _run(pretraining_recipe(method="simsiam"), places)
    assert error.value.code == "collapsed"
    assert not list(places.cache.glob("tiny_cnn-*.safetensors"))
    assert not list(places.cache.glob("*.checkpoint*"))


def test_spread_in_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((400, 64), generator=generator)
    assert spread(torch.ones(5, 64)) == pytest.approx(0.0, abs=1e-7)
    assert spread(noise) == pytest.approx(1.0, abs=0.02)
    assert spread(100 * noise) == pytest.approx(spread(noise))
    assert spread(1.0 + 0.01 * noise) == pytest.approx(0.01, abs=0.001)


def test_wrong_orders(places: Places) -> None:
    films = recipe_splits(pretraining_recipe(), places).train
    for recipe, code in (
        (pretraining_recipe({"pretraining": None}), "no_pretraining"),
        (pretraining_recipe(size=96), "invalid_recipe"),
        (pretraining_recipe(batch=500), "too_few_films"),
        (pretraining_recipe(learning_rate=1e30), "diverged"),
    ):
        with pytest.raises(ConfigurationError) as error:
            pretrained_body(recipe, films, places, Console(file=io.StringIO()))
        assert error.value.code == code


def test_simsiam_compares_the_two_views_and_the_embedding_has_no_gradient() -> None:
    recipe = pretraining_recipe(method="simsiam")
    network = build_network(recipe.network, outputs=1, channels=1, seed=0)
    objective = SimSiam(network.body, 16, recipe.input, 32).eval()
    first, second = film_batch(3, channels=1, size=32), film_batch(3, channels=1, size=32, seed=1)
    z1, z2 = objective.embed(first), objective.embed(second)
    p1, p2 = objective.predictor(z1), objective.predictor(z2)
    wanted = -torch.cat(
        [torch.cosine_similarity(p1, z2.detach()), torch.cosine_similarity(p2, z1.detach())]
    ).mean()  # fmt: skip
    loss = objective(torch.cat([first, second]))
    torch.testing.assert_close(loss, wanted)
    weight = next(objective.projector.parameters())
    have = torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(have, torch.autograd.grad(wanted, weight)[0], rtol=1e-4, atol=1e-6)


def test_views_differ_and_repeat() -> None:
    recipe = pretraining_recipe()
    objective = SimSiam(torch.nn.Identity(), 1, recipe.input, 32)
    films = (film_batch(4, channels=1)[:, 0] * 40 + 120).clamp(0, 255).to(torch.uint8)
    (once,), (again,) = (objective.views(films, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == (8, 1, 32, 32)
    assert all(not torch.equal(a, b) for a, b in zip(*once.chunk(2), strict=True))


def test_the_mask_hides_and_only_the_hidden_counts() -> None:
    recipe = pretraining_recipe()
    network = build_network(recipe.network, outputs=1, channels=1, seed=0)
    objective = Masked(network.body, 16, recipe.input, 56, 8).eval()
    films = (film_batch(4, channels=1)[:, 0] * 40 + 120).clamp(0, 255).to(torch.uint8)
    images, masks = objective.views(films, torch.Generator().manual_seed(3))
    assert images.shape == masks.shape == (4, 1, 56, 56)  # 56 px: the last patches are cut
    assert set(masks.flatten().tolist()) == {0.0, 1.0}
    cells = masks[:, :, ::PATCH, ::PATCH]
    assert cells.sum(dim=(1, 2, 3)).tolist() == [round(MASKED_SHARE * 16)] * 4
    assert not torch.equal(cells[0], cells[1])
    decoder = objective.decoder[0]
    assert isinstance(decoder, torch.nn.Conv2d)
    with torch.no_grad():
        decoder.weight.zero_()
        assert decoder.bias is not None
        decoder.bias.zero_()
    standard = (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)
    torch.testing.assert_close(objective(images, masks), standard.abs()[masks > 0].mean())
    seen: list[torch.Tensor] = []
    network.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objective(images, masks)
    assert not seen[0][masks > 0].any()
    assert torch.equal(seen[0][masks == 0], images[masks == 0])


@pytest.mark.parametrize("method", ["simsiam", "masked"])
@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0", "swin_t"])
def test_any_body_learns(architecture: str, method: str) -> None:
    """Three channels, fixed normalisation, bfloat16: one step moves every weight of the body."""
    content = pretraining_recipe(method=method, size=64).model_dump(mode="json")
    content["network"] |= {"architecture": architecture}
    content["training"] |= {"autocast": "bfloat16", "stages": [{"epochs": 1, "size": 64}]}
    content["input"] |= {"channels": 3, "normalisation": {"kind": "fixed", "mean": [0.5] * 3, "std": [0.25] * 3}}
    recipe = parse_recipe(content, "tiny")
    assert recipe.pretraining is not None
    films = (film_batch(4, channels=1)[:, 0] * 40 + 120).clamp(0, 255).to(torch.uint8)
    state = pretrain._start(recipe, recipe.pretraining, Pixels((), films[:, None].numpy(), (), ()))
    state.objective.train()
    before = [p.detach().clone() for p in state.network.body.parameters()]
    views = state.objective.views(films, torch.Generator().manual_seed(0))
    assert views[0].shape[1:] == (3, 64, 64)
    pretrain._step(recipe, state, views)
    moved = [not torch.equal(p, q) for p, q in zip(state.network.body.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)  # a path that stochastic depth dropped in this step has no gradient
