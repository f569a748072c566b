"""`python -m benchmarks.unaudited`: the service with an audit trail that forgets everything, so that the trail's cost can be measured.

The service has no such setting, and never gets one. The events are prepared as always and then not handed to the writer; nothing but
keys and activations is recorded.
"""

from __future__ import annotations

from typing import Any

from app.cli.serve import serve
from app.records import EventId, Records
from app.records.events import AuditEvent


async def _forget(self: Records, event: AuditEvent, **_: Any) -> EventId:  # noqa: ARG001 - as `Records.record`
    return EventId(self.chain_id, 0)


def main() -> None:
    Records.record = _forget  # type: ignore[method-assign]  # for this process only
    serve()


if __name__ == "__main__":
    main()
