"""JSON lines on standard error, one per event, ours and the libraries' alike.

`structlog.contextvars` carries the request id; nothing of a request's content is ever bound or logged.
"""

from __future__ import annotations

import logging
import sys

import structlog

QUOTING = ("highdicom", "pydicom", "pynetdicom", "httpx", "httpcore")
"""Libraries whose log quotes headers, addresses or values of what they work on."""


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
                structlog.processors.format_exc_info,
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
