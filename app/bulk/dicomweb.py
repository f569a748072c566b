"""Films of an archive that speaks DICOMweb: found by QIDO-RS, fetched by WADO-RS (PS3.18 sections 10.6 and 10.4)."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from app.bulk.films import FilmError, FilmName
from app.errors import BulkError, RequestError
from app.gateway.config import read_secret
from app.gateway.exchange import ExchangeError, Reply, exchange, new_client
from app.gateway.multipart import parse_related
from app.gateway.part10 import is_uid

PAGE: Final = 200  # studies asked for at one time
QUERIES: Final = 4  # studies whose films are looked up at one time
TIMEOUT_S: Final = 60.0
ANSWER_MAX_BYTES: Final = 64_000_000
# how long an archive that is away is waited for: some three minutes
AWAY_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0, 30.0, 30.0)
TRIES: Final = 3  # for one film on which the archive itself fails
_AWAY: Final = frozenset({408, 429, 502, 503, 504})
_TURNED_AWAY: Final = frozenset({401, 403})
_FRAME_BYTES: Final = 65_536  # of the multipart body around a film
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}|[0-9A-Fa-f]{8}")
_OURS: Final = frozenset({"limit", "offset", "includefield"})
_MODALITY, _STUDY, _SERIES, _INSTANCE = "00080060", "0020000D", "0020000E", "00080018"
_FILM: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(frozen=True)
class Login:
    """Basic (user and a file with the password) or, without a user, Bearer (a file with the token). On a cluster every node reads it."""

    secret_file: Path
    user: str | None = None

    def header(self) -> str:
        """Raises: ConfigurationError, the file does not hold one line of visible ASCII."""
        secret = read_secret(self.secret_file)
        if self.user is None:
            return f"Bearer {secret}"
        return f"Basic {base64.b64encode(f'{self.user}:{secret}'.encode()).decode()}"


@dataclass(frozen=True)
class DicomwebSource:
    """The films of all studies that match a query.

    url: the archive's DICOMweb root. query: study-level matching keys of QIDO-RS. modalities: series of others are left out.
    """

    url: str
    query: tuple[tuple[str, str], ...] = ()
    modalities: tuple[str, ...] = ("CR", "DX")
    login: Login | None = None
    kind: Literal["dicomweb"] = "dicomweb"
    readers: int = 4

    @classmethod
    def parse(cls, text: str, *, modalities: tuple[str, ...], login: Login | None) -> DicomwebSource:
        """From `https://host/dicom-web?StudyDate=20260101-20260131`; the path may end with `/studies`.

        Raises:
            BulkError: bad_source.
        """
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment:
            raise BulkError("bad_source", "a DICOMweb source is http(s)://HOST/ROOT?KEY=VALUE&...")
        if parts.username is not None or parts.password is not None:
            raise BulkError(
                "bad_source", "no password belongs into the URL: use --user with --password-file, or --token-file"
            )
        if login is not None and parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise BulkError("bad_source", "a password or token is sent over https only")
        query = tuple(parse_qsl(parts.query, keep_blank_values=True))
        for key, _ in query:
            if not _KEY.fullmatch(key) or key.lower() in _OURS:
                raise BulkError("bad_source", f"{key[:64]!r} is no matching key of a study (PS3.18 section 8.3.4.1)")
        path = parts.path.rstrip("/").removesuffix("/studies")
        return cls(f"{parts.scheme}://{parts.netloc}{path}", query, modalities, login)

    def identity(self) -> dict[str, str]:
        """See `Source.identity`: of the same query; what the archive receives later is not in the run."""
        return {
            "kind": self.kind,
            "url": self.url,
            "query": urlencode(self.query),
            "modalities": ",".join(sorted(self.modalities)),
        }

    def names(self, stop: threading.Event) -> Iterator[FilmName]:
        """Study by study as the archive lists them, the films of one by series and instance UID. Raises: as `Source.names`."""
        archive = _Archive(self, stop)
        waiting: deque[Future[list[FilmName]]] = deque()
        with ThreadPoolExecutor(QUERIES, thread_name_prefix="bulk-qido") as pool:
            try:
                for study in archive.studies():
                    waiting.append(pool.submit(archive.films, study))
                    if len(waiting) >= 2 * QUERIES:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                archive.close()

    def reader(self, max_bytes: int, stop: threading.Event) -> WadoReader:
        """See `Source.reader`."""
        return WadoReader(_Archive(self, stop), max_bytes)


class WadoReader:
    """Fetches instances whole, in the transfer syntax in which they are stored."""

    def __init__(self, archive: _Archive, max_bytes: int) -> None:
        self._archive, self._max_bytes = archive, max_bytes

    def read(self, name: FilmName) -> bytes:
        """Raises: as `Reader.read`."""
        path = f"/studies/{name.study_uid}/series/{name.series_uid}/instances/{name.instance_uid}"
        reply = self._archive.get(path, accept=_FILM, max_bytes=self._max_bytes + _FRAME_BYTES)
        if reply.status != 200:
            raise FilmError("not_retrieved", f"The archive answered {reply.status}.")
        data = _content(reply)
        if len(data) > self._max_bytes:
            raise RequestError("payload_too_large", what="image", limit=self._max_bytes)
        return data

    def close(self) -> None:
        self._archive.close()


class _Archive:
    """Asks, and is patient with an archive that is away for a while. Thread-safe."""

    def __init__(self, source: DicomwebSource, stop: threading.Event) -> None:
        self._source, self._stop = source, stop
        self._headers = {} if source.login is None else {"Authorization": source.login.header()}
        self._client = new_client(TIMEOUT_S)

    def studies(self) -> Iterator[str]:
        """Study Instance UIDs, page by page; an archive that knows no pages sends the same one again, or all at once."""
        offset, before = 0, list[str]()
        while not self._stop.is_set():
            query = urlencode([*self._source.query, ("limit", str(PAGE)), ("offset", str(offset))])
            page = [_uid(found, _STUDY) for found in self._found(f"/studies?{query}")]
            if not page or page == before:
                return
            yield from page
            offset, before = offset + len(page), page

    def films(self, study: str) -> list[FilmName]:
        """The instances of a study's series of the wanted modalities."""
        series = sorted(
            _uid(found, _SERIES)
            for found in self._found(f"/studies/{study}/series?includefield={_MODALITY}")
            if _value(found, _MODALITY) in self._source.modalities
        )
        return [
            FilmName(study_uid=study, series_uid=one, instance_uid=instance)
            for one in series
            for instance in sorted(
                _uid(found, _INSTANCE) for found in self._found(f"/studies/{study}/series/{one}/instances")
            )
        ]

    def get(self, path: str, *, accept: str, max_bytes: int) -> Reply:
        """An answer that is about what was asked for.

        Raises:
            BulkError: the archive stays away, or turns us away. FilmError: it fails on this. RequestError: payload_too_large.
        """
        delays, tries = iter(AWAY_DELAYS_S), 0
        while True:
            reply, trouble = self._once(path, accept, max_bytes)
            if reply is not None and reply.status in _TURNED_AWAY:
                raise BulkError(
                    "archive_refuses", f"the archive answered {reply.status}; check user, password and token"
                )
            if reply is not None and reply.status < 500 and reply.status not in _AWAY:
                return reply
            wait_s = next(delays, None)
            if trouble == "broken_connection" or (reply is not None and reply.status not in _AWAY):
                tries += 1
                if tries == TRIES:
                    raise FilmError("not_retrieved", f"The archive failed {TRIES} times: {trouble}.")
            if wait_s is None:
                raise BulkError("archive_away", f"the archive is away ({trouble}); run the same command again to go on")
            asked_s = 0.0 if reply is None else min(reply.retry_after_s or 0.0, 60.0)
            if self._stop.wait(max(wait_s, asked_s)):
                raise BulkError("stopped", "the run was asked to stop")

    def close(self) -> None:
        self._client.close()

    def _once(self, path: str, accept: str, max_bytes: int) -> tuple[Reply | None, str]:
        try:
            reply = exchange(
                self._client,
                "GET",
                self._source.url + path,
                headers=self._headers | {"Accept": accept},
                deadline_s=TIMEOUT_S,
                max_bytes=max_bytes,
            )
        except ExchangeError as error:
            if error.code == "answer_too_large":
                raise RequestError("payload_too_large", what="image", limit=max_bytes) from None
            return None, error.code
        return reply, f"status {reply.status}"

    def _found(self, path: str) -> list[dict[str, Any]]:
        """The matches of a QIDO-RS query, as DICOM JSON (PS3.18 annex F)."""
        try:
            reply = self.get(path, accept="application/dicom+json", max_bytes=ANSWER_MAX_BYTES)
        except FilmError as error:
            raise BulkError("archive_away", f"{error.message} Run the same command again") from None
        if reply.status == 204:
            return []
        try:
            found = json.loads(reply.body) if reply.status == 200 else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise BulkError(
                "bad_answer", f"the archive answered the query with status {reply.status} and no DICOM JSON"
            )
        return found


def _value(found: dict[str, Any], tag: str) -> str:
    element = found.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else ""


def _uid(found: dict[str, Any], tag: str) -> str:
    value = _value(found, tag)
    if not is_uid(value):
        raise BulkError("bad_answer", f"the archive named something without a UID ({tag})")
    return value


def _content(reply: Reply) -> bytes:
    kind = reply.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() == "application/dicom":
        return reply.body
    try:
        parts = parse_related(reply.body, kind)
    except RequestError:
        parts = ()
    if len(parts) != 1:
        raise FilmError("not_retrieved", "The archive's answer is not one DICOM file.")
    return parts[0].content
