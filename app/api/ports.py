"""What the HTTP rooms need from the rest of the service; `TriageService` and `Records` have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from app.domain import Lane, Principal

if TYPE_CHECKING:
    from app.bundle.manifest import Manifest
    from app.drift import DriftReport
    from app.inference.engine import Engine
    from app.inference.scheduler import Admission
    from app.judging import ExplainOptions
    from app.records import AuditEvent, EventId
    from app.results import ResultKind
    from app.service import Answer, Asker, Explanation, PredictOptions, Readiness

Upload = bytes | bytearray | memoryview


class Live(Protocol):
    """The bundle that answers, and what runs it."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def engine(self) -> Engine: ...


class Service(Protocol):
    """The clinical questions, their admission, and readiness. Every method may raise a coded `CxrError`."""

    def check(self, n: int, *, lane: Lane, owner: str, begin_within_s: float | None) -> None:
        """Raise what `admit` would raise at this moment, and take nothing."""
        ...

    def admit(self, n: int, *, lane: Lane, owner: str, begin_within_s: float | None) -> Admission:
        """Reserve places for n films; called before a body is read. A context manager that gives them back."""
        ...

    def places_of(self, lane: Lane) -> int:
        """Most films of a lane that can be admitted at one time."""
        ...

    async def predict(self, data: Upload, asker: Asker, options: PredictOptions, admission: Admission) -> Answer: ...

    async def report(self, data: Upload, asker: Asker, options: PredictOptions, admission: Admission) -> Answer: ...

    async def explain(
        self,
        data: Upload,
        asker: Asker,
        options: ExplainOptions,
        admission: Admission,
        objects: tuple[ResultKind, ...] = (),
    ) -> Explanation: ...

    async def drift(self, window_hours: float | None, principal: Principal, request_id: str) -> DriftReport: ...

    def readiness(self) -> Readiness:
        """From memory only; no thread, no database."""
        ...

    @property
    def live(self) -> Live:
        """UnavailableError `not_ready` without one."""
        ...


class Records(Protocol):
    """Keys, and the audit of what ended before it reached the pipeline."""

    async def authenticate_async(self, text: str) -> Principal | None:
        """The key's owner, or None. From memory; a well-formed key that is not known yet waits for the next look, bounded."""
        ...

    def count(self, kind: str, key_prefix: str | None = None) -> None:
        """One request that was turned away; written as one aggregate event a minute, never waited for."""
        ...

    async def record(self, event: AuditEvent) -> EventId:
        """Returns when the event is durable."""
        ...
