"""Which engine serves a bundle on this machine: named by a setting, or measured once per deployment and then followed.

Candidates are the reference (ONNX Runtime, fp32), the variants that the manifest admits and, where ONNX Runtime was built with CUDA, the
reference on a GPU: the same arithmetic but for rounding, so fp32's golden tolerance admits it. What cannot be built here, or fails the
self-test, is left out. The fastest wins; one that is less than 5 % faster than the reference is no gain. Films are batched across
requests only where that is measured to pay by 10 % at least. The choice is a row of `engine_choices`, which every later start and every
replica on an alike machine follows; a person can write a row too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from app.bundle.manifest import REFERENCE_VARIANT, Manifest, Variant
from app.bundle.store import VerifiedBundle
from app.domain import EngineInfo, NetworkOutput
from app.errors import BundleError, CxrError
from app.imaging.decode import decode
from app.imaging.header import ImageLimits
from app.imaging.phantom import encode_jpeg, phantom
from app.inference.batching import BatchingEngine
from app.inference.engine import Engine, OnnxRuntimeEngine, cuda_built_in
from app.inference.machine import fingerprint, runtimes
from app.inference.measure import fastest, measure
from app.inference.openvino import OpenVinoEngine
from app.preprocessing import prepare
from app.records.choices import EngineChoice, EngineChoices
from app.selftest import self_test

log = structlog.get_logger("cxr.engines")

AUTO: Final = "auto"
BATCH_GAIN: Final = 0.1  # below this batches do not pay: a film then waits for others
CUDA: Final = "onnxruntime-cuda-fp32"
MEASURED_PX: Final = 1_024
MEASURED: Final = "measured"  # who chose, where nobody did
Measure = Callable[[Mapping[str, Engine], list[NDArray[np.float32]], int], dict[str, float]]


@dataclass(frozen=True)
class Way:
    """How a bundle's network is run. variant: None is the reference, whose calibration and thresholds hold on a GPU too."""

    variant: Variant | None = None
    cuda: bool = False

    @property
    def name(self) -> str:
        if self.cuda:
            return CUDA
        return REFERENCE_VARIANT if self.variant is None else self.variant.name


REFERENCE: Final = Way()


@dataclass(frozen=True)
class Chosen:
    """An engine that passed the self-test. batch: most films in one call of it."""

    way: Way
    engine: Engine
    batch: int = 1

    @property
    def name(self) -> str:
        return self.way.name


@dataclass(frozen=True)
class Measurement:
    """ms: per film, decoding included, with all workers busy, by candidate (`<variant>`, and `<variant> x<n>` for batches of n);
    refused: why not, by name.
    """

    chosen: Chosen
    ms: Mapping[str, float]
    refused: Mapping[str, str] = field(default_factory=dict)


def admitted(manifest: Manifest) -> list[Way]:
    """What may serve this bundle here, the reference first."""
    ways = [REFERENCE, *(Way(variant) for variant in manifest.variants if variant.admitted)]
    return [*ways, Way(cuda=True)] if cuda_built_in() else ways


def named(manifest: Manifest, name: str) -> Way:
    """The way of that name; whether it can be built here is not asked.

    Raises:
        BundleError: `engine_unavailable`, the bundle has no such variant or does not admit it.
    """
    known = {way.name: way for way in [*admitted(manifest), Way(cuda=True)]}
    if name in known:
        return known[name]
    why = (
        "has no variant of that name"
        if manifest.variant(name) is None
        else "does not admit it: measured outside its bounds"
    )
    raise BundleError(
        "engine_unavailable",
        f"{name}: {manifest.name}/{manifest.version} {why}; it can be served by "
        f"{', '.join(way.name for way in admitted(manifest))}",
    )


class Engines:
    """Builds, tests, measures and chooses engines for one process.

    Args:
        wanted: `auto`, or the name of a variant, which then serves or nothing does.
        workers: threads that call the engine at one time when the machine is busy.
        callers: most that ever do (a stat film has a thread of its own); default `workers`.
        cache_dir: of compiled networks; None compiles anew each time.
        choices: where choices are kept; None keeps none, and `auto` is the reference.
        machine: fingerprint; default that of this machine with so many workers and these runtimes.
        measure: times engines; None never measures, and `auto` is the reference until somebody chose.
    """

    def __init__(
        self,
        wanted: str = REFERENCE_VARIANT,
        *,
        workers: int = 1,
        callers: int | None = None,
        cache_dir: Path | None = None,
        choices: EngineChoices | None = None,
        machine: str | None = None,
        measure: Measure | None = measure,
    ) -> None:
        self._wanted = wanted
        self._workers = workers
        self._callers = max(workers, callers or 0)
        self._cache_dir = cache_dir
        self._choices = choices
        self.machine = machine or f"{fingerprint(workers)}; {runtimes()}"
        self._measure = measure

    @property
    def follows(self) -> bool:
        """Whether choices in the database decide."""
        return self._wanted == AUTO and self._choices is not None

    def newest(self, digest: str) -> EngineChoice | None:
        """The choice that holds for this bundle here; None where a setting decides, or nobody chose yet."""
        return self._choices.find(digest, self.machine) if self._choices is not None and self.follows else None

    def engine_for(self, bundle: VerifiedBundle, gate: Engine | None) -> tuple[Chosen, EngineChoice | None]:
        """The engine that serves this bundle, self-tested, and the choice that it follows.

        Args:
            gate: engine of the gate's network, where the bundle has one.

        Raises:
            BundleError: the reference, or the variant that a setting names, cannot be built or fails the self-test.
        """
        if not self.follows:
            name = REFERENCE_VARIANT if self._wanted == AUTO else self._wanted
            return self.build(bundle, named(bundle.manifest, name), gate), None
        choice = self.newest(bundle.digest)
        if choice is not None:
            try:
                return self.follow(bundle, choice, gate), choice
            except BundleError as error:  # another release, or a machine that only looks alike
                log.warning("engine_choice_unusable", variant=choice.variant, reason=str(error))
        if self._measure is None or len(admitted(bundle.manifest)) == 1:
            return self.build(bundle, REFERENCE, gate), choice
        found = self.measure(bundle, gate)
        if choice is not None and choice.who != MEASURED:  # a person's word stands, for the machines that can follow it
            return found.chosen, choice
        rival = self.newest(bundle.digest)
        if rival is not None and rival != choice:  # another replica was sooner, or a person chose meanwhile
            with suppress(BundleError):
                return self.follow(bundle, rival, gate), rival
        return found.chosen, self.keep(bundle.digest, found, MEASURED)

    def follow(self, bundle: VerifiedBundle, choice: EngineChoice, gate: Engine | None) -> Chosen:
        """The engine that a choice names, self-tested.

        Raises:
            BundleError: the bundle does not admit it, it cannot be built here, or it fails the self-test.
        """
        return self.build(bundle, named(bundle.manifest, choice.variant), gate, batch=choice.batch)

    def build(self, bundle: VerifiedBundle, way: Way, gate: Engine | None, *, batch: int = 1) -> Chosen:
        """One engine, self-tested. batch: most films in one call, whose threads are then those of all workers.

        Raises:
            BundleError: it cannot be built here, or fails the self-test.
        """
        engine = self._engine(bundle, way, batch)
        self_test(bundle, engine, gate, variant=way.variant)
        if batch > 1:  # another network is compiled for them, or other kernels are taken
            self_test(bundle, _InBatches(engine, batch), gate, variant=way.variant)
        return Chosen(way, BatchingEngine(engine, batch) if batch > 1 else engine, batch)

    def candidates(
        self, bundle: VerifiedBundle, gate: Engine | None
    ) -> tuple[dict[str, Chosen], dict[str, BundleError]]:
        """Everything that may serve this bundle here, built and self-tested, and why the others cannot; both by name.

        Raises:
            BundleError: the reference cannot be built or fails the self-test.
        """
        built = {REFERENCE.name: self.build(bundle, REFERENCE, gate)}
        refused: dict[str, BundleError] = {}
        for way in admitted(bundle.manifest)[1:]:
            try:
                built[way.name] = self.build(bundle, way, gate)
            except BundleError as error:
                refused[way.name] = error
        return built, refused

    def measure(self, bundle: VerifiedBundle, gate: Engine | None) -> Measurement:
        """Build, test and time every candidate, then the fastest once more with batches.

        Raises:
            BundleError: the reference cannot be built or fails the self-test.
        """
        timed = self._measure or measure
        begun = time.perf_counter()
        built, errors = self.candidates(bundle, gate)
        refused = {name: str(error) for name, error in errors.items()}
        films = [bundle.golden[name] for name in sorted(bundle.golden) if name.startswith("tensor_")]
        work = _work_before(bundle.manifest)
        ms = timed({name: _WholeFilm(chosen.engine, work) for name, chosen in built.items()}, films, self._workers)
        chosen = built[fastest(ms, REFERENCE_VARIANT)]
        batched = self._batched(bundle, chosen, gate)
        if batched is not None:
            label = f"{chosen.name} x{batched.batch}"
            both = {chosen.name: _WholeFilm(chosen.engine, work), label: _WholeFilm(batched.engine, work)}
            again = timed(both, films, self._workers)
            # the figures of the first round are comparable with each other; of this one only the ratio is kept
            ms |= {label: ms[chosen.name] * again[label] / again[chosen.name]}
            if again[label] < again[chosen.name] * (1.0 - BATCH_GAIN):
                chosen = batched
        log.info(
            "engines_measured",
            chosen=chosen.name,
            batch=chosen.batch,
            ms={name: round(value, 2) for name, value in ms.items()},
            refused=refused,
            seconds=round(time.perf_counter() - begun, 2),
        )
        return Measurement(chosen, ms, refused)

    def keep(self, digest: str, found: Measurement, who: str) -> EngineChoice | None:
        """Write a measurement's choice; None where none are kept, or the records are away (the engine serves all the same)."""
        if self._choices is None:
            return None
        ms = {name: round(value, 3) for name, value in found.ms.items()}
        choice = EngineChoice(digest, self.machine, found.chosen.name, found.chosen.batch, ms, who)
        try:
            return replace(choice, position=self._choices.choose(choice))
        except CxrError as error:
            log.warning("engine_choice_not_kept", variant=choice.variant, reason=str(error))
            return None

    def _batched(self, bundle: VerifiedBundle, chosen: Chosen, gate: Engine | None) -> Chosen | None:
        if self._workers == 1:
            return None
        try:
            return self.build(bundle, chosen.way, gate, batch=self._workers)
        except BundleError as error:
            log.warning("engine_does_not_batch", variant=chosen.name, reason=str(error))
            return None

    def _engine(self, bundle: VerifiedBundle, way: Way, batch: int) -> Engine:
        """Unbatched: as many calls side by side as there are callers, one thread each. Batched: one call with the threads of all."""
        callers, threads = (1, self._workers) if batch > 1 else (self._callers, 1)
        if way.variant is None:
            return OnnxRuntimeEngine(bundle.network, threads=threads, device="cuda" if way.cuda else "cpu")
        precision = way.variant.precision
        network = bundle.int8 if precision == "int8" else bundle.network
        if network is None:
            raise BundleError("missing_file", f"{bundle.ref} has no network for {way.name}")
        if way.variant.engine == "openvino":
            return OpenVinoEngine(
                network,
                precision=precision,
                threads=threads,
                callers=callers,
                most=batch,
                cache_dir=self._cache_dir,
            )
        return OnnxRuntimeEngine(network, threads=threads, precision="int8" if precision == "int8" else "fp32")


class _InBatches:
    """An engine that runs every film as the last of a full batch."""

    def __init__(self, engine: Engine, batch: int) -> None:
        self._engine = engine
        self._batch = batch

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        return self._engine.run_many(np.repeat(tensor[None], self._batch, axis=0))[-1]

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return self._engine.run_many(tensors)


class _WholeFilm:
    """An engine behind the work that every film costs before it, as in the service: while one worker decodes, another's network runs.

    Measured without, batches look better than they are, since they make both wait.
    """

    def __init__(self, engine: Engine, work: Callable[[], object]) -> None:
        self._engine = engine
        self._work = work

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        self._work()
        return self._engine.run(tensor)

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        return self._engine.run_many(tensors)


def _work_before(manifest: Manifest) -> Callable[[], object]:
    """Decoding and preparing a JPEG of MEASURED_PX, as the service does for this bundle."""
    data = encode_jpeg(phantom(0, height=MEASURED_PX, width=MEASURED_PX))
    limits = ImageLimits(1, MEASURED_PX)
    return lambda: prepare(decode(data, limits), manifest.input)
