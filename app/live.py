"""Which bundle is live: chosen at start, loaded, verified, self-tested; swapped on request; the old one serves until the new one does.

The live bundle is the newest activation in the append-only bundle history. `model_bundles/latest` only seeds an empty history.
A bundle whose promotion gate failed serves only where somebody accepted that: in the request, which every process and every later start
then follows, or by a setting for the seed and the pin.
Activation is a request in that history: each process notices it, loads and verifies, swaps between requests, and writes the outcome.
The engine is swapped in the same way when somebody chooses another one for the live bundle (`app.engines`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import structlog

from app.bundle.gate_spec import PictureGate
from app.bundle.manifest import Manifest
from app.bundle.store import BundleRef, BundleStore, VerifiedBundle
from app.engines import REFERENCE, Engines, Way
from app.errors import BundleError, CxrError
from app.explain import Head
from app.gate import PictureReference
from app.inference.engine import Engine, OnnxRuntimeEngine
from app.inference.memory import return_freed_memory
from app.records import EngineChoice, Records
from app.records.history import HistoryRow, gate_accepted

log = structlog.get_logger("cxr.live")

# what says something about this machine and nothing about the bundle
NOT_HERE: Final = frozenset({"engine_unavailable", "engine_precision"})
ACTIVATE_SO: Final = "`cxr bundles activate --accept-failed-gate` serves it all the same."


@dataclass(frozen=True)
class LiveGate:
    """The gate that looks at pictures, ready to run."""

    spec: PictureGate
    engine: Engine
    reference: PictureReference


@dataclass(frozen=True)
class LiveBundle:
    """A bundle that passed everything, with the engine that runs it.

    way: how the engine runs the network. batch: most films in one call of it. choice: the one that it follows, where
    one was made. took_s: to verify the bundle, and to measure, build and test its engine.
    """

    bundle: VerifiedBundle
    engine: Engine
    head: Head
    gate: LiveGate | None = None
    way: Way = REFERENCE
    batch: int = 1
    choice: EngineChoice | None = None
    took_s: tuple[float, float] = (0.0, 0.0)

    @cached_property
    def manifest(self) -> Manifest:
        """As the serving variant answers by it: with its calibration and thresholds."""
        return self.bundle.manifest.serving(self.way.variant)

    @property
    def ref(self) -> BundleRef:
        return self.bundle.ref


def load_bundle(
    store: BundleStore, ref: BundleRef, engines: Engines | None = None, *, follow: EngineChoice | None = None
) -> LiveBundle:
    """Verify, build the engines, run the golden self-test.

    Args:
        engines: choose the engine; default the reference.
        follow: this choice and no other.

    Raises:
        BundleError: what is wrong, by name.
    """
    begun = time.perf_counter()
    engines = engines or Engines()
    bundle = store.verify(ref)
    verified = time.perf_counter()
    gate = _live_gate(bundle)
    gate_engine = gate.engine if gate is not None else None
    choice: EngineChoice | None
    if follow is not None:
        chosen, choice = engines.follow(bundle, follow, gate_engine), follow
    else:
        chosen, choice = engines.engine_for(bundle, gate_engine)
    return_freed_memory()  # of the engines that were measured and not chosen
    took = (verified - begun, time.perf_counter() - verified)
    head = Head.from_tensors(bundle.manifest.network.explanation, bundle.head)
    # the engines and the reference have their own copies
    bundle = replace(bundle, network=b"", int8=None, golden={}, gate=None)
    return LiveBundle(bundle, chosen.engine, head, gate, chosen.way, chosen.batch, choice, took)


def check_bundle(store: BundleStore, ref: BundleRef) -> tuple[VerifiedBundle, dict[str, BundleError]]:
    """All that loading checks, for every way to run the network that the bundle admits; and why some could not be tried here, by name.

    Raises:
        BundleError: what is wrong, by name; of a variant that is wrong, the variant is named too.
    """
    bundle = store.verify(ref)
    gate = _live_gate(bundle)
    _, refused = Engines().candidates(bundle, gate.engine if gate is not None else None)
    for name, error in refused.items():
        if error.code not in NOT_HERE:
            raise BundleError(error.code, f"{name}: {error.message}") from error
    return bundle, refused


def _log_loaded(loaded: LiveBundle) -> None:
    info, (verify_s, engine_s) = loaded.engine.info, loaded.took_s
    log.info(
        "bundle_loaded",
        bundle=str(loaded.ref),
        variant=loaded.way.name,
        engine=f"{info.name} {info.version}",
        precision=info.precision,
        threads=info.threads,
        batch=loaded.batch,
        verify_s=round(verify_s, 2),
        engine_s=round(engine_s, 2),
    )


def refuse_failed_gate(manifest: Manifest, remedy: str) -> None:
    """For whoever would make a bundle serve without that having been accepted.

    Args:
        remedy: how it is accepted, for the message.

    Raises:
        BundleError: `gate_failed`, with the promotion's label and the lines that failed.
    """
    if manifest.gate_failed and manifest.promotion is not None:
        raise BundleError(
            "gate_failed",
            f"{manifest.name}/{manifest.version} is labelled {manifest.promotion.label!r}; failed lines of its promotion gate: "
            f"{', '.join(manifest.promotion.failed)}. {remedy}",
        )


def acceptance(manifest: Manifest) -> str | None:
    """What a request or an activation of this bundle says about its promotion gate: None where that did not fail."""
    if manifest.promotion is None or manifest.promotion.passed:
        return None
    return gate_accepted(manifest.promotion.failed)


def _live_gate(bundle: VerifiedBundle) -> LiveGate | None:
    picture = bundle.manifest.picture_gate
    if picture is None or bundle.gate is None:
        return None
    return LiveGate(picture, OnnxRuntimeEngine(bundle.gate.network), PictureReference.from_tensors(bundle.gate.tensors))


class LiveBundles:
    """The live bundle of this process and the thread that watches for activation requests.

    Args:
        pin: `name/version`; then nothing else is ever loaded and requests are answered `pinned`.
        accept_failed_gate: the pinned bundle, and the one that seeds an empty history, may have failed its promotion gate.
        poll_s: how often to look for requests and choices, seconds.
        engines: choose the engine of each bundle; default the reference.
        changed: called with each bundle that becomes live.
    """

    def __init__(
        self,
        store: BundleStore,
        records: Records,
        *,
        pin: str | None,
        poll_s: float,
        accept_failed_gate: bool = False,
        engines: Engines | None = None,
        changed: Callable[[LiveBundle], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._records = records
        self._pin = BundleRef.parse(pin) if pin else None
        self._poll_s = poll_s
        self._accept_failed_gate = accept_failed_gate
        self._engines = engines or Engines()
        self._changed = changed
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._answered = 0  # position of the newest request that needs no answer from here any more
        self._choice = 0  # position of the newest choice of an engine that was followed, or could not be
        self.current: LiveBundle | None = None

    def start(self) -> None:
        """Load the live bundle, then watch for requests.

        Raises:
            BundleError: as `load_live`.
        """
        self.load_live()
        self._skip_answered()
        self._watcher = threading.Thread(target=self._watch, name="cxr-activation", daemon=True)
        self._watcher.start()

    def load_live(self) -> None:
        """Load the pinned bundle, or the newest activated one; an empty history is seeded with the store's `latest`.

        Raises:
            BundleError: the bundle that must serve does not verify, is not the one that was activated, or failed its promotion gate
                and nobody accepted that.
        """
        if self._pin is not None:
            self._serve(self._named_by_setting(self._pin))
            return
        live = self._records.history.live()
        if live is None:
            self._seed()
            return
        self._answered = live.position
        loaded = self._load(BundleRef(live.name, live.version))
        if loaded.bundle.digest != live.digest:
            raise BundleError(
                "changed_bundle",
                f"{loaded.ref} has digest {loaded.bundle.digest[:16]}, but {live.digest[:16]} was activated; restore it or activate anew",
            )
        if not live.accepts_failed_gate:
            refuse_failed_gate(loaded.manifest, ACTIVATE_SO)
        self._serve(loaded)

    def _seed(self) -> None:
        ref = self._store.latest()
        if ref is None:
            raise BundleError("bundle_not_found", f"the history is empty and {self._store.root} has no file 'latest'")
        seed = self._named_by_setting(ref)
        self._records.history.write_outcome(
            "activated", ref, seed.bundle.digest, who="first start", request=None, reason=acceptance(seed.manifest)
        )
        self._serve(seed)

    def _named_by_setting(self, ref: BundleRef) -> LiveBundle:
        """Load a bundle that nobody asked for in the history: the pinned one, or the seed."""
        loaded = self._load(ref)
        if not self._accept_failed_gate:
            refuse_failed_gate(loaded.manifest, "CXR_ACCEPT_FAILED_GATE=true serves it all the same.")
        return loaded

    def _load(self, ref: BundleRef) -> LiveBundle:
        return load_bundle(self._store, ref, self._engines)

    def _serve(self, loaded: LiveBundle) -> None:
        _log_loaded(loaded)
        self.current = loaded
        self._choice = loaded.choice.position if loaded.choice is not None else 0
        self._changed(loaded)

    def stop(self) -> None:
        """Stop watching; the current bundle stays."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()

    def _skip_answered(self) -> None:
        """Requests that failed before this process started are not tried again; one that nobody took up is."""
        for request in self._records.history.pending(self._answered):
            if self._records.history.outcomes(request.position):
                self._answered = request.position

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                for request in self._records.history.pending(self._answered):
                    self._answer(request)
                    self._answered = request.position
                self._follow_choice()
            except CxrError as error:
                log.warning("activation_poll_failed", error=str(error))
            except Exception:
                log.exception("activation_poll_failed")

    def _follow_choice(self) -> None:
        """Swap to the engine that was chosen for the live bundle since. The old one serves meanwhile, and on where that fails."""
        live = self.current
        choice = None if live is None else self._engines.newest(live.bundle.digest)
        if live is None or choice is None or choice.position <= self._choice:
            return
        self._choice = choice.position
        if (choice.variant, choice.batch) == (live.way.name, live.batch):
            return
        try:
            loaded = load_bundle(self._store, live.ref, self._engines, follow=choice)
        except BundleError as error:
            log.warning("engine_choice_refused", variant=choice.variant, who=choice.who, reason=str(error))
            return
        if loaded.bundle.digest == live.bundle.digest:
            self._serve(loaded)
        else:
            log.warning(
                "engine_choice_refused", variant=choice.variant, who=choice.who, reason="the bundle has changed"
            )

    def _answer(self, request: HistoryRow) -> None:
        """Load what is asked for and swap, or say why not. The old bundle serves meanwhile and after a failure."""
        history = self._records.history
        ref = BundleRef(request.name, request.version)
        start = time.perf_counter()
        try:
            loaded = self._requested(request)
        except BundleError as error:
            log.warning("activation_refused", bundle=str(ref), reason=str(error))
            history.write_outcome(
                "failed", ref, request.digest, who=request.who, request=request.position, reason=str(error)
            )
            return
        history.write_outcome(
            "activated",
            ref,
            request.digest,
            who=request.who,
            request=request.position,
            reason=acceptance(loaded.manifest),
        )
        self._serve(loaded)
        log.info(
            "activated", bundle=str(ref), digest=loaded.bundle.digest, seconds=round(time.perf_counter() - start, 2)
        )

    def _requested(self, request: HistoryRow) -> LiveBundle:
        ref = BundleRef(request.name, request.version)
        if self._pin is not None and ref != self._pin:
            raise BundleError("pinned", f"this process serves {self._pin} and nothing else")
        loaded = self._load(ref)
        if loaded.bundle.digest != request.digest:
            raise BundleError("changed_bundle", f"{ref} changed since the activation was asked for")
        if not request.accepts_failed_gate:
            refuse_failed_gate(loaded.manifest, ACTIVATE_SO)
        return loaded
