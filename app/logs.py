"""JSON lines on standard error, one per event, ours and the libraries' alike.

`structlog.contextvars` carries the request id; nothing of a request's content is ever bound or logged.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator

import structlog

from app.errors import CxrError

QUOTING = ("highdicom", "pydicom", "pynetdicom", "httpx", "httpcore")
"""Libraries whose log quotes headers, addresses or values of what they work on."""
CAUSES_MAX = 8


def _exception_without_its_text(
    _: structlog.types.WrappedLogger, __: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """What kind of error, from which lines, and what kinds were behind it. Never the text of an error that is not ours: a library may
    have put a name from a header into it. Our own errors carry our own words (`app.errors`)."""
    error = _raised(event.pop("exc_info", None))
    if error is not None:
        event["exception"] = "\ncaused by ".join(_described(e) for e in _chain(error))
    return event


def _raised(given: object) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1] if isinstance(given[1], BaseException) else None
    return sys.exc_info()[1] if given else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from or during; at most `CAUSES_MAX`."""
    following: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if following is None:
            return
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _described(error: BaseException) -> str:
    kind = type(error)
    words = f": {error}" if isinstance(error, CxrError) else ""
    frames = "".join(
        f"\n  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    )
    return f"{kind.__module__}.{kind.__qualname__}{words}{frames}"


def configure(level: str) -> None:
    """Send every log record, structlog's and the standard library's, to standard error as one JSON object a line.

    Args:
        level: least severe level that is logged (debug, info, warning, error).
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _exception_without_its_text,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic", "sqlalchemy"):
        library = logging.getLogger(noisy)
        library.handlers.clear()
        library.propagate = True
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for quoting in QUOTING:
        logging.getLogger(quoting).setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.access").disabled = True  # the boundary writes the access line, without paths or queries
