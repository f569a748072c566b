"""Which engine serves: measured once, kept, followed by later starts and by running processes, and never one that fails the self-test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle.input_spec import InputSpec
from app.bundle.store import BundleStore, VerifiedBundle
from app.domain import NetworkOutput, PreparedInput, Radiograph
from app.engines import CUDA, Engines, admitted, named
from app.errors import BundleError
from app.inference.batching import BatchingEngine
from app.inference.cores import usable_cores
from app.inference.engine import Engine, OnnxRuntimeEngine, cuda_built_in
from app.inference.openvino import OpenVinoEngine
from app.live import LiveBundles, check_bundle, load_bundle
from app.preprocessing import prepare
from app.records import EngineChoice, Records
from app.records.choices import EVERYWHERE
from app.settings import Settings
from tests.support.openvino_here import needs_openvino
from tests.support.tiny_variants import make_variants, variant

MACHINE = "a machine; 2 cores"
REFERENCE, INT8 = "onnxruntime-fp32", "onnxruntime-int8"


class Figures:
    """A measurement with figures set by hand, by candidate; counts how often it was asked."""

    def __init__(self, **ms: float) -> None:
        self.ms = {name.replace("_", "-").replace("-x", " x"): value for name, value in ms.items()}
        self.asked: list[list[str]] = []

    def __call__(
        self, engines: Mapping[str, Engine], films: list[NDArray[np.float32]], callers: int
    ) -> dict[str, float]:
        assert (len(films), callers) == (3, 2)
        self.asked.append(list(engines))
        return {name: self.ms.get(name, 99.0) for name in engines}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BundleStore:
    root = tmp_path_factory.mktemp("bundles")
    out = {**variant(INT8), "admitted": False, "bounds": {"logit": 0.01, "flips": 0.0, "auroc_loss": 0.01}}
    make_variants(root, variant(INT8), latest=True)
    make_variants(root, out, version="2.0.0")
    make_variants(root, variant(INT8, tolerance=0.01), version="3.0.0")
    make_variants(root, version="4.0.0")
    moved = {"screening": {"pneumonia": -0.6}, "rule-in": {"pneumonia": 1.4}}
    make_variants(root, variant(INT8, thresholds=moved), version="5.0.0")
    return BundleStore(root)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records.open(Settings(state_dir=tmp_path), role="serve")
    yield opened
    opened.close()


def bundle(store: BundleStore, version: str = "1.0.0") -> VerifiedBundle:
    return store.verify(next(ref for ref in store.list() if ref.version == version))


def engines(records: Records | None, figures: Figures, wanted: str = "auto", machine: str = MACHINE) -> Engines:
    choices = records.choices if records is not None else None
    return Engines(wanted, workers=2, choices=choices, machine=machine, measure=figures)


FAST = Figures(onnxruntime_fp32=10.0, onnxruntime_int8=4.0)


def test_auto_measures_once_and_every_later_start_follows(store: BundleStore, records: Records) -> None:
    one = bundle(store)
    figures = Figures(onnxruntime_fp32=10.0, onnxruntime_int8=4.0)
    chosen, choice = engines(records, figures).engine_for(one, None)
    assert (chosen.name, chosen.engine.info.precision, chosen.batch) == (INT8, "int8", 1)
    assert figures.asked == [[REFERENCE, INT8], [INT8, f"{INT8} x2"]]
    assert choice is not None
    kept = records.choices.find(one.digest, MACHINE)
    assert kept is not None
    assert (kept.variant, kept.batch, kept.who, kept.position) == (INT8, 1, "measured", choice.position)
    assert kept.measured == {REFERENCE: 10.0, INT8: 4.0, f"{INT8} x2": 99.0}

    slow = Figures(onnxruntime_fp32=1.0)
    again, followed = engines(records, slow).engine_for(one, None)
    assert (again.name, slow.asked) == (INT8, [])
    assert followed is not None
    assert followed.position == choice.position
    assert engines(records, slow, machine="another").engine_for(one, None)[0].name == REFERENCE


def test_who_measured_while_another_chose_follows_the_other(store: BundleStore, records: Records) -> None:
    one = bundle(store)

    class Beaten(Figures):
        def __call__(self, *args: Any) -> dict[str, float]:
            if not self.asked:
                records.choices.choose(EngineChoice(one.digest, MACHINE, REFERENCE, 1, {}, "measured"))
            return super().__call__(*args)

    chosen, choice = engines(records, Beaten(onnxruntime_fp32=10.0, onnxruntime_int8=4.0)).engine_for(one, None)
    assert (chosen.name, records.choices.find(one.digest, MACHINE)) == (REFERENCE, choice)
    assert len(records.choices.list(one.digest, MACHINE)) == 1


def test_batches_are_held_to_the_golden_answers_too(store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one, whole = bundle(store), OnnxRuntimeEngine.run_many

    def wrong(self: OnnxRuntimeEngine, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        moved = 0.0 if len(tensors) == 1 else 1.0
        return [NetworkOutput(output.logits + moved, output.features) for output in whole(self, tensors)]

    built = Engines(workers=2).build(one, admitted(one.manifest)[0], None, batch=2)
    assert built.batch == 2
    monkeypatch.setattr(OnnxRuntimeEngine, "run_many", wrong)
    with pytest.raises(BundleError) as refused:
        Engines(workers=2).build(one, admitted(one.manifest)[0], None, batch=2)
    assert refused.value.code in {"golden_mismatch", "head_mismatch"}


@needs_openvino
def test_a_stat_film_has_a_stream_of_its_own(tmp_path: Path) -> None:
    make_variants(tmp_path, variant("openvino-fp32"))
    one = next(iter(BundleStore(tmp_path).list()))
    way = named(BundleStore(tmp_path).verify(one).manifest, "openvino-fp32")
    cores = usable_cores()  # a network has no more streams than there are
    engine = Engines(workers=cores, callers=cores + 1).build(BundleStore(tmp_path).verify(one), way, None).engine
    assert isinstance(engine, OpenVinoEngine)
    networks = [engine._idle.get_nowait().get_compiled_model() for _ in range(cores + 1)]
    assert [network.get_property("NUM_STREAMS") for network in networks] == [*([cores] * cores), 1]
    assert engine._idle.empty()


def test_a_tie_goes_to_the_reference(store: BundleStore, records: Records) -> None:
    figures = Figures(onnxruntime_fp32=10.0, onnxruntime_int8=9.6)
    assert engines(records, figures).engine_for(bundle(store), None)[0].name == REFERENCE


def test_films_are_batched_only_where_that_is_measured_to_pay(store: BundleStore, records: Records) -> None:
    one = bundle(store)
    pays = Figures(onnxruntime_fp32=10.0, onnxruntime_int8=4.0, onnxruntime_int8_x2=3.0)
    chosen, _ = engines(records, pays).engine_for(one, None)
    assert isinstance(chosen.engine, BatchingEngine)
    assert (chosen.batch, chosen.engine.info.threads) == (2, 2)
    kept = records.choices.find(one.digest, MACHINE)
    assert kept is not None
    assert (kept.batch, kept.measured[f"{INT8} x2"]) == (2, 3.0)
    again, _ = engines(records, Figures()).engine_for(one, None)
    assert isinstance(again.engine, BatchingEngine)
    little = Figures(onnxruntime_fp32=10.0, onnxruntime_int8=4.0, onnxruntime_int8_x2=3.7)
    assert engines(records, little, machine="b").engine_for(one, None)[0].batch == 1


@pytest.mark.parametrize("version", ["2.0.0", "3.0.0"], ids=["not admitted", "fails the self-test"])
def test_what_is_not_admitted_or_fails_the_self_test_never_serves(
    store: BundleStore, records: Records, version: str
) -> None:
    one, figures = bundle(store, version), Figures(onnxruntime_fp32=10.0, onnxruntime_int8=0.1)
    assert engines(records, figures).engine_for(one, None)[0].name == REFERENCE
    assert all(INT8 not in asked for asked in figures.asked)
    with pytest.raises(BundleError) as refused:
        engines(records, figures, INT8).engine_for(one, None)
    assert refused.value.code == {"2.0.0": "engine_unavailable", "3.0.0": "golden_mismatch"}[version]


def test_with_the_reference_alone_nothing_is_measured_or_kept(store: BundleStore, records: Records) -> None:
    one, figures = bundle(store, "4.0.0"), Figures()
    chosen, choice = engines(records, figures).engine_for(one, None)
    assert (chosen.name, choice, figures.asked) == (REFERENCE, None, [])
    assert records.choices.find(one.digest, MACHINE) is None


def test_a_setting_decides_over_everything(store: BundleStore, records: Records) -> None:
    one, figures = bundle(store), Figures()
    records.choices.choose(EngineChoice(one.digest, MACHINE, REFERENCE, 1, {}, "dr. admin"))
    forced = engines(records, figures, INT8)
    chosen, choice = forced.engine_for(one, None)
    assert (chosen.name, choice, figures.asked, forced.follows) == (INT8, None, [], False)
    assert forced.newest(one.digest) is None
    with pytest.raises(BundleError, match="has no variant of that name; it can be served by onnxruntime-fp32, onnx"):
        engines(records, figures, "openvino-bf16").engine_for(one, None)


def test_a_measured_choice_that_no_longer_works_is_measured_anew_and_a_person_s_is_left(
    store: BundleStore, records: Records
) -> None:
    one = bundle(store)
    records.choices.choose(EngineChoice(one.digest, MACHINE, "openvino-bf16", 1, {}, "dr. admin"))
    chosen, choice = engines(records, FAST).engine_for(one, None)
    assert (chosen.name, choice and choice.variant) == (INT8, "openvino-bf16")
    newest = records.choices.find(one.digest, MACHINE)
    assert newest is not None
    assert newest.who == "dr. admin"
    records.choices.choose(EngineChoice(one.digest, MACHINE, "openvino-bf16", 1, {}, "measured"))
    assert engines(records, FAST).engine_for(one, None)[0].name == INT8
    newest = records.choices.find(one.digest, MACHINE)
    assert newest is not None
    assert (newest.who, newest.variant) == ("measured", INT8)


def test_without_records_auto_is_the_reference(store: BundleStore) -> None:
    assert load_bundle(store, bundle(store).ref).engine.info.precision == "fp32"
    assert engines(None, Figures()).engine_for(bundle(store), None)[0].name == REFERENCE


def test_a_command_follows_a_choice_and_never_measures(store: BundleStore, records: Records) -> None:
    one = bundle(store)
    command = Engines("auto", workers=2, choices=records.choices, machine=MACHINE, measure=None)
    assert command.engine_for(one, None)[0].name == REFERENCE
    assert records.choices.find(one.digest, MACHINE) is None
    records.choices.choose(EngineChoice(one.digest, MACHINE, INT8, 1, {}, "dr. admin"))
    assert command.engine_for(one, None)[0].name == INT8


def test_a_live_bundle_answers_by_the_thresholds_of_what_serves(store: BundleStore) -> None:
    ref = bundle(store, "5.0.0").ref
    live = load_bundle(store, ref, Engines(INT8))
    assert [p.thresholds["pneumonia"] for p in live.manifest.operating_points] == [-0.6, 1.4]
    assert (live.engine.info.name, live.engine.info.precision) == ("onnxruntime", "int8")
    assert (live.bundle.network, live.bundle.int8) == (b"", None)  # the engine has its own copy
    plain = load_bundle(store, ref)
    assert [p.thresholds["pneumonia"] for p in plain.manifest.operating_points] == [-0.4, 1.2]


@pytest.mark.skipif(cuda_built_in(), reason="this build of ONNX Runtime has CUDA")
def test_a_gpu_that_is_not_there_is_named_and_never_replaced_by_the_cpu(store: BundleStore) -> None:
    one = bundle(store)
    assert CUDA not in [way.name for way in admitted(one.manifest)]
    with pytest.raises(BundleError, match="this build of ONNX Runtime has no CUDA") as refused:
        load_bundle(store, one.ref, Engines(CUDA))
    assert refused.value.code == "engine_unavailable"


def test_a_gpu_is_a_candidate_where_the_runtime_has_cuda(
    store: BundleStore, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build with CUDA on a machine without a GPU: the candidate is refused with its reason and the others are measured."""
    monkeypatch.setattr("app.engines.cuda_built_in", lambda: True)
    one, figures = bundle(store), Figures(onnxruntime_fp32=10.0, onnxruntime_int8=4.0)
    assert [way.name for way in admitted(one.manifest)] == [REFERENCE, INT8, CUDA]
    found = engines(records, figures).measure(one, None)
    assert (found.chosen.name, list(found.refused)) == (INT8, [CUDA])
    assert figures.asked[0] == [REFERENCE, INT8]


def test_a_film_is_decoded_before_each_run_that_is_measured(
    store: BundleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the service, where one worker decodes while the network of another runs."""
    sizes: list[tuple[int, ...]] = []

    def prepared(film: Radiograph, spec: InputSpec) -> PreparedInput:
        sizes.append(film.pixels.shape)
        return prepare(film, spec)

    def timed(engines: Mapping[str, Engine], films: list[NDArray[np.float32]], callers: int) -> dict[str, float]:
        before = len(sizes)
        for engine in engines.values():
            engine.run(films[0])
        assert len(sizes) - before == len(engines) == 2
        return dict.fromkeys(engines, 1.0)

    monkeypatch.setattr("app.engines.prepare", prepared)
    Engines(workers=2, measure=timed).measure(bundle(store), None)
    assert sizes == [(1_024, 1_024)] * 4


def test_a_check_asks_every_variant_for_the_golden_answers(store: BundleStore) -> None:
    assert check_bundle(store, bundle(store).ref)[1] == {}
    with pytest.raises(BundleError, match="onnxruntime-int8: golden 0: logit 0 is") as refused:
        check_bundle(store, bundle(store, "3.0.0").ref)
    assert refused.value.code == "golden_mismatch"


# running processes

Serve = Callable[..., LiveBundles]


@pytest.fixture
def serve(store: BundleStore, tmp_path: Path) -> Iterator[Serve]:
    """A process that serves; each has records of its own on one database."""
    started: list[tuple[LiveBundles, Records]] = []

    def start(figures: Figures, **options: Any) -> LiveBundles:
        own = Records.open(Settings(state_dir=tmp_path), role="serve")
        bundles = LiveBundles(store, own, pin=None, poll_s=0.02, engines=engines(own, figures), **options)
        started.append((bundles, own))
        bundles.start()
        return bundles

    yield start
    for bundles, own in started:
        bundles.stop()
        own.close()


def precision(bundles: LiveBundles) -> str:
    assert bundles.current is not None
    return bundles.current.engine.info.precision


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_running_processes_follow_a_choice_and_keep_their_engine_where_they_cannot(
    serve: Serve, store: BundleStore, records: Records
) -> None:
    digest = bundle(store).digest
    swaps: list[str] = []
    first = serve(FAST, changed=lambda live: swaps.append(live.engine.info.precision))
    second = serve(Figures(onnxruntime_fp32=1.0))
    assert (precision(first), precision(second)) == ("int8", "int8")  # the second follows the first
    records.choices.choose(EngineChoice(digest, EVERYWHERE, REFERENCE, 1, {}, "dr. admin"))
    assert until(lambda: (precision(first), precision(second)) == ("fp32", "fp32"))
    assert swaps == ["int8", "fp32"]  # the metrics name the new one
    records.choices.choose(EngineChoice(digest, MACHINE, "openvino-bf16", 1, {}, "dr. admin"))  # the bundle has none
    time.sleep(0.2)
    assert (precision(first), precision(second)) == ("fp32", "fp32")
    records.choices.choose(EngineChoice(digest, MACHINE, INT8, 1, {}, "dr. admin"))
    assert until(lambda: (precision(first), precision(second)) == ("int8", "int8"))
    assert records.verify().problems == []
