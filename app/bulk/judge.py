"""From a film's name to its row. Nothing that is wrong with one film stops a run; a source that is gone does."""

from __future__ import annotations

import hashlib
import threading

import structlog

from app.bulk import rows
from app.bulk.films import Film, FilmError, Reader
from app.bulk.rows import Judge, Row
from app.bundle.manifest import OperatingPoint
from app.errors import BulkError, InternalError, RequestError, UnavailableError
from app.judging import Limits, Refusal, judge
from app.live import LiveBundle

log = structlog.get_logger("cxr.bulk")

TRIES = 3  # for a film whose decoder was not to be had
WAIT_S = 1.0


class FilmJudge:
    """Thread-safe.

    Args:
        reader: fetches the films.
        by: what the rows say of bundle and engine; `live` and `point` are what it names.
        at_once: films that are judged at the same time; more may be fetched meanwhile.
    """

    def __init__(
        self, reader: Reader, live: LiveBundle, point: OperatingPoint, limits: Limits, by: Judge, *, at_once: int
    ) -> None:
        self._reader, self._live, self._point, self._limits, self._by = reader, live, point, limits, by
        self._room = threading.BoundedSemaphore(at_once)

    def __call__(self, film: Film) -> Row:
        """The film's row.

        Raises:
            BulkError: the source is away.
        """
        try:
            data = self._reader.read(film.name)
        except FilmError as error:
            return rows.failed(film, self._by, error.code, error.message)
        except RequestError as error:
            return rows.refused(film, self._by, error, None)
        except BulkError:
            raise
        except Exception as error:  # its text may quote a path
            log.error("film_not_read", film=film.place, error=type(error).__name__)  # noqa: TRY400
            return rows.failed(film, self._by, "internal_error", InternalError().detail)
        with self._room:
            return self._judged(film, data)

    def _judged(self, film: Film, data: bytes) -> Row:
        for left in reversed(range(TRIES)):
            try:
                drawn = judge(data, self._live, self._point, None, self._limits)
                return rows.judged(film, self._by, drawn.judgement)
            except Refusal as refusal:
                return rows.refused(film, self._by, refusal.error, refusal.sha256)
            except UnavailableError as error:
                if left == 0:
                    return rows.failed(film, self._by, error.code, error.detail, _sha256(data))
                threading.Event().wait(WAIT_S)
            except Exception:
                log.exception("film_failed", film=film.place)
                break
        return rows.failed(
            film, self._by, "internal_error", "Something failed on our side; the log says what.", _sha256(data)
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
