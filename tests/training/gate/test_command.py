"""`python -m training gate` on phantoms: from a bundle to its next version, with the official test split locked away."""

from __future__ import annotations

import pytest

from app.bundle.gate_spec import GATE_CODES
from app.bundle.store import BundleRef, VerifiedBundle
from app.gate import PictureReference
from app.inference.engine import OnnxRuntimeEngine
from app.selftest import self_test
from tests.training.factory import Factory
from tests.training.phantom_data import TINY
from training.gate.measure import wilson

BEFORE, AFTER = BundleRef("tiny", "1.0.0"), BundleRef("tiny", "1.1.0")
FEW = ("--steps", "2", "--pictures", "5")  # what the gate has learnt does not matter here


def gate(factory: Factory, version: str, *arguments: str, bundle: str = "") -> None:
    folder = str(factory.root / "bundles" / "tiny" / "1.0.0")
    factory("gate", bundle or folder, "--version", version, *FEW, *arguments)


@pytest.fixture(scope="module")
def made(exported: Factory, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """A factory with a bundle and its version with a gate."""
    factory = exported.copied(tmp_path_factory.mktemp("gate"))
    gate(factory, "1.1.0", "--recipe", str(factory.recipe), bundle="tiny")  # as the run was exported
    return factory


@pytest.fixture(scope="module")
def bundle(made: Factory) -> VerifiedBundle:
    return made.store.verify(AFTER)


def test_the_network_stays_as_it_was(made: Factory, bundle: VerifiedBundle) -> None:
    parent = made.store.verify(BEFORE)
    assert bundle.network == parent.network
    assert bundle.manifest.provenance.parent_digest == parent.digest
    kept = {"operating_points", "calibration", "metrics", "input", "network", "intended_use", "review", "quality"}
    assert bundle.manifest.model_dump(include=kept) == parent.manifest.model_dump(include=kept)
    assert {name: a.tolist() for name, a in bundle.reference.items()} == {
        name: a.tolist() for name, a in parent.reference.items()
    }


def test_it_is_the_latest_and_tests_itself(made: Factory, bundle: VerifiedBundle) -> None:
    assert made.store.latest() == AFTER
    assert bundle.gate is not None
    self_test(bundle, OnnxRuntimeEngine(bundle.network), OnnxRuntimeEngine(bundle.gate.network))


def test_every_finding_has_an_action_and_every_figure_its_interval(bundle: VerifiedBundle) -> None:
    gate = bundle.manifest.gate
    assert gate is not None
    assert gate.picture is not None
    assert set(gate.actions) == set(GATE_CODES)
    assert gate.header.views == ("AP",)
    names = {figure.name for figure in gate.picture.false_refusal}
    assert names == {"false_refusal", "refusal", "right_pose", "refused_or_warned"}
    for figure in gate.picture.false_refusal:
        assert figure.ci == pytest.approx(wilson(round(figure.value * figure.n), figure.n))
    shown = {figure.data for figure in gate.picture.false_refusal}
    assert {"held-out films, all sources", "pages of text", "held-out films, inverted", "white noise"} <= shown


def test_doubt_weighs_and_an_ordinary_film_has_none(bundle: VerifiedBundle) -> None:
    assert bundle.gate is not None
    known = PictureReference.from_tensors(bundle.gate.tensors)
    assert known.pose_whitening[-1, -1] > 0
    assert not known.pose_whitening[-1, :-1].any()
    assert not known.pose_whitening[:-1, -1].any()
    assert not known.pose_means[:, -1].any()


def test_the_weights_say_where_they_come_from(bundle: VerifiedBundle) -> None:
    sources = {source.name: source for source in bundle.manifest.provenance.data if source.name.startswith("gate: ")}
    assert set(sources) == {"gate: kermany_224", "gate: kermany_hires", "gate: nih_chestxray14"}
    assert all(source.images > 0 for source in sources.values())
    assert bundle.manifest.licence.commercial_use


def test_the_card_prints_what_is_measured(bundle: VerifiedBundle) -> None:
    card = (bundle.path / "MODEL_CARD.md").read_text()
    assert bundle.manifest.gate is not None
    assert bundle.manifest.gate.picture is not None
    for figure in bundle.manifest.gate.picture.false_refusal:
        assert f"| {figure.name} | {figure.data} | {figure.value:.4f}" in card
    assert "| lateral_view | refuse |" in card


def test_a_version_is_written_once_and_the_recipe_must_be_the_bundles(
    made: Factory, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        gate(made, "1.1.0", "--recipe", str(made.recipe))
    assert end.value.code == 1
    assert "bundle_exists" in capsys.readouterr().err
    other = made.root / "other.toml"
    other.write_text(TINY.replace("seed = 7", "seed = 8"))
    with pytest.raises(SystemExit):
        gate(made, "1.2.0", "--recipe", str(other))
    assert "stale_recipe" in capsys.readouterr().err
