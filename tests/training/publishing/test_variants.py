"""`python -m training variants` on phantoms: from a bundle to its next version, with the official test split locked away."""

from __future__ import annotations

import numpy as np
import pytest

from app.bundle.folder import NETWORK_INT8
from app.bundle.manifest import Manifest, TemperatureCalibration, Variant, VariantBounds
from app.bundle.store import BundleRef, VerifiedBundle
from app.decision import decide
from app.errors import ConfigurationError
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.preprocessing import prepare
from app.selftest import self_test
from tests.training.factory import Factory
from tests.training.phantom_data import TINY
from training.data.cache import decoder_pool, load_film
from training.data.splits import recipe_splits
from training.judging.figures import auroc
from training.publishing.draft import Draft
from training.publishing.variants import BOUNDS, CANDIDATES, GOLDEN_TOLERANCES, with_bounds
from training.recipe import load_recipe

BEFORE, AFTER = BundleRef("tiny", "1.0.0"), BundleRef("tiny", "1.1.0")
# A network of two epochs has nearly all phantoms near its thresholds.
WIDE = tuple(part for bound in ("int8.flips=0.5", "int8.auroc_loss=1", "bf16.flips=0.5") for part in ("--bound", bound))
NOTHING = tuple(
    part for precision in BOUNDS for part in ("--bound", f"{precision}.logit=1e-12", "--bound", f"{precision}.flips=0")
)


def variants(factory: Factory, *arguments: str, recipe: str = TINY) -> None:
    path = factory.root / "recipe.toml"
    path.write_text(recipe)
    factory("variants", "tiny/1.0.0", "--recipe", str(path), "--calibration", "12", *arguments)


@pytest.fixture(scope="module")
def made(exported: Factory, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """A factory with a bundle and its version with variants."""
    factory = exported.copied(tmp_path_factory.mktemp("variants"))
    variants(factory, *WIDE)
    return factory


@pytest.fixture(scope="module")
def bundle(made: Factory) -> VerifiedBundle:
    return made.store.verify(AFTER)


def _variant(manifest: Manifest, name: str) -> Variant:
    found = manifest.variant(name)
    assert found is not None
    return found


def test_only_variants_version_and_origin_are_new(made: Factory, bundle: VerifiedBundle) -> None:
    parent = made.store.verify(BEFORE)
    assert bundle.network == parent.network
    assert bundle.manifest.provenance.parent_digest == parent.digest
    new = {"schema_version", "version", "variants", "provenance", "files"}
    assert bundle.manifest.model_dump(exclude=new) == parent.manifest.model_dump(exclude=new)
    for name in ("head", "reference", "golden"):
        before, after = getattr(parent, name), getattr(bundle, name)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[k], after[k], equal_nan=before[k].dtype.kind == "f") for k in before)
    assert made.store.latest() == AFTER


def test_every_candidate_is_there_with_its_bounds(bundle: VerifiedBundle) -> None:
    found = {variant.name: variant for variant in bundle.manifest.variants}
    assert set(found) >= {"onnxruntime-int8", "openvino-fp32"}
    assert set(found) <= {candidate.name for candidate in CANDIDATES}
    bounds = with_bounds(WIDE[1::2])
    for variant in found.values():
        assert variant.bounds == bounds[variant.precision]
        assert variant.tolerance == GOLDEN_TOLERANCES[variant.precision]
        assert (variant.thresholds is not None) == (variant.precision == "int8")
    assert found["openvino-fp32"].admitted
    assert bundle.int8 is not None
    assert bundle.manifest.files[NETWORK_INT8].size == len(bundle.int8)


def test_the_variant_serves_what_was_measured(made: Factory, bundle: VerifiedBundle) -> None:
    """Counted again, film by film, by the service's own code."""
    variant = _variant(bundle.manifest, "onnxruntime-int8")
    assert bundle.int8 is not None
    reference, quantised = OnnxRuntimeEngine(bundle.network), OnnxRuntimeEngine(bundle.int8, precision="int8")
    films = recipe_splits(load_recipe(made.recipe), made.places).report
    decoder = decoder_pool()
    tensors = [prepare(load_film(made.places.data, f, decoder)[0], bundle.manifest.input).tensor for f in films]
    decoder.close()
    a, b = (np.array([engine.run(x).logits for x in tensors]) for engine in (reference, quantised))
    serving = bundle.manifest.serving(variant)
    assert serving.operating_points != bundle.manifest.operating_points
    flips = {}
    for own, other in zip(bundle.manifest.operating_points, serving.operating_points, strict=True):
        labels = [
            (decide(x, bundle.manifest, own).label, decide(y, serving, other).label) for x, y in zip(a, b, strict=True)
        ]
        flips[own.name] = sum(x != y for x, y in labels)
    truth = np.array([int(film.label == "pneumonia") for film in films])
    measured = variant.measured
    assert measured.n == len(films)
    assert measured.flips == flips
    assert measured.logit_shift_max == pytest.approx(float(np.abs(a - b).max()), abs=1e-5)
    assert measured.logit_shift_mean == pytest.approx(float(np.abs(a - b).mean()), abs=1e-5)
    change = auroc(truth, b[:, 0].astype(float)) - auroc(truth, a[:, 0].astype(float))
    assert measured.auroc_change["pneumonia"].value == pytest.approx(change)


def test_admitted_variants_pass_their_goldens(bundle: VerifiedBundle) -> None:
    assert bundle.int8 is not None
    engines: dict[str, Engine] = {"onnxruntime-int8": OnnxRuntimeEngine(bundle.int8, precision="int8")}
    for name, engine in engines.items():
        self_test(bundle, engine, variant=_variant(bundle.manifest, name))


def test_the_card_lists_each_variant_with_its_loss(bundle: VerifiedBundle) -> None:
    card = (bundle.path / "MODEL_CARD.md").read_text()
    for variant in bundle.manifest.variants:
        measured, change = variant.measured, variant.measured.auroc_change["pneumonia"]
        assert (
            f"| `{variant.name}` | {'yes' if variant.admitted else '**no**'} | {measured.logit_shift_max:.4f}" in card
        )
        assert f"screening {measured.flips['screening']}; " in card
        assert change.ci is not None
        assert (
            f"| `{variant.name}` | pneumonia | {change.value:+.4f} ({change.ci[0]:+.4f} to {change.ci[1]:+.4f})" in card
        )
    assert f"n = {bundle.manifest.variants[0].measured.n}" in card


def test_a_version_is_written_once(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        variants(made, "--version", "1.1.0")
    assert end.value.code == 1
    assert "bundle_exists" in capsys.readouterr().err


def test_nothing_within_its_bounds_writes_nothing(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        variants(made, "--version", "2.0.0", *NOTHING)
    assert "no_variant" in capsys.readouterr().err
    assert made.store.list() == [BEFORE, AFTER]
    assert made.store.latest() == AFTER


def test_what_breaks_a_bound_is_written_down_and_not_admitted(
    made: Factory, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(made, "--version", "1.2.0", *WIDE, "--bound", "int8.logit=1e-9")
    found = made.store.verify(BundleRef("tiny", "1.2.0"))
    assert not _variant(found.manifest, "onnxruntime-int8").admitted
    assert _variant(found.manifest, "openvino-fp32").admitted
    assert "NO: logit" in capsys.readouterr().out
    assert "| `onnxruntime-int8` | **no** |" in (found.path / "MODEL_CARD.md").read_text()


def test_a_try_out_writes_nothing(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    before = made.store.list()
    variants(made, "--version", "3.0.0", "--films", "12", *WIDE)
    shown = capsys.readouterr().out
    assert "onnxruntime-int8" in shown
    assert " of 12" in shown
    assert "nothing is written" in shown
    assert made.store.list() == before


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("validation_each = 0.2", "validation_each = 0.1", "was not trained on the films"),
        ('name = "rule-in", target = 0.90', 'name = "rule-in", target = 0.50', "but others, up to"),
        ('name = "rule-in"', 'name = "another"', "other classes or operating points"),
    ],
)
def test_the_recipe_must_be_the_bundles(
    made: Factory, capsys: pytest.CaptureFixture[str], old: str, new: str, why: str
) -> None:
    assert old in TINY
    with pytest.raises(SystemExit):
        variants(made, "--version", "4.0.0", recipe=TINY.replace(old, new))
    shown = capsys.readouterr().err.replace("\n", " ")
    assert "stale_recipe" in shown
    assert why in shown


def test_a_change_that_moves_no_film_and_no_threshold_is_no_matter(made: Factory) -> None:
    """Another learning rate is another digest, and the same films and rules."""
    variants(made, "--version", "1.3.0", *WIDE, recipe=TINY.replace("learning_rate = 3e-3", "learning_rate = 1e-3"))
    assert made.store.verify(BundleRef("tiny", "1.3.0")).int8 == made.store.verify(AFTER).int8


def test_a_calibrator_of_other_rules_is_kept(made: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    """A temperature of one, which a fit would not give, and which moves no margin."""
    parent = made.store.verify(BEFORE)
    one = TemperatureCalibration(method="temperature", temperature=1)
    manifest = parent.manifest.model_copy(update={"version": "0.8.0", "calibration": one})
    Draft.of(parent, manifest, int8=None).written(made.root / "bundles")
    made("variants", "tiny/0.8.0", "--recipe", str(made.recipe), "--calibration", "12", *WIDE)
    assert "the calibrator is kept" in capsys.readouterr().err
    found = _variant(made.store.verify(BundleRef("tiny", "0.9.0")).manifest, "onnxruntime-int8")
    assert found.calibration is None
    assert found.thresholds == _variant(made.store.verify(AFTER).manifest, "onnxruntime-int8").thresholds


def test_bounds_change_one_by_one() -> None:
    bounds = with_bounds(["int8.flips=0.5", "int8.logit=2"])
    assert bounds["int8"] == VariantBounds(logit=2, flips=0.5, auroc_loss=BOUNDS["int8"].auroc_loss)
    assert bounds["fp32"] == BOUNDS["fp32"]
    for text in ("int8.flips", "int8.flips=2", "int8.speed=1", "int4.flips=0.1", "int8.logit=0"):
        with pytest.raises(ConfigurationError, match="invalid_bound"):
            with_bounds([text])
