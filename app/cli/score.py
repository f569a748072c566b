"""`cxr score`: many films into one Parquet file. What is typed, what is shown and what is recorded; the work is `app.bulk`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.bundle.store import BundleStore
from app.cli.progress import Progress, span, table
from app.cli.session import open_records, operator
from app.engines import Engines
from app.errors import BulkError, ConfigurationError
from app.inference.cores import usable_cores
from app.live import LiveBundle, LiveBundles
from app.records import AuditEvent, Records
from app.settings import Settings

if TYPE_CHECKING:  # pyarrow and httpx are the extra `bulk`: every other command works without them
    from app.bulk.dicomweb import Login
    from app.bulk.films import Source
    from app.bulk.identity import Run
    from app.bulk.rows import Row
    from app.bulk.score import Outcome, Wish

SOURCE_FAILED_STATUS = 3


SOURCE_HELP = r"""A folder (all files below it), a CSV or Parquet table with a column of paths, or a DICOMweb query:
https://HOST/dicom-web?StudyDate=20260101-20260131 (matching keys of studies, QIDO-RS)."""
SOME_FAILED = 3  # exit status
ENOUGH = 1_000  # films from which the time of a million is told


def score(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP, show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="Parquet file to write.", dir_okay=False, show_default=False)],
    operating_point: Annotated[str | None, typer.Option(help="Of the live bundle; else its default.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Films judged at one time (threads, or Ray actors); else CXR_WORKERS, else all cores.", min=1
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="At most this many films a second.", min=0.001)] = None,
    match: Annotated[str | None, typer.Option(help="Folder: only files whose names match, such as '*.dcm'.")] = None,
    column: Annotated[str, typer.Option(help="Table: the column of paths.")] = "path",
    root: Annotated[
        Path | None, typer.Option(help="Table: what paths are relative to; else the table's folder.", file_okay=False)
    ] = None,
    modality: Annotated[list[str] | None, typer.Option(help="DICOMweb: of the series to take; else CR, DX.")] = None,
    user: Annotated[str | None, typer.Option(help="DICOMweb: user, with --password-file.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="DICOMweb: file of the password.", dir_okay=False)] = None,
    token_file: Annotated[Path | None, typer.Option(help="DICOMweb: file of a Bearer token.", dir_okay=False)] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Judge on the Ray cluster at ADDRESS, or a `local` one. Extra `ray`.", metavar="ADDRESS"),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try films again whose row says `failed`, in a finished file too.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, whatever lies at OUT, finished or not.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the films; nothing is judged, written or recorded.")
    ] = False,
) -> None:
    """Judge many films into one Parquet file, one row a film; a refused film has its row too. Needs the extra `bulk`.

    cxr score films/ --out results.parquet

    cxr score list.csv --column file --root /mnt/archive --out results.parquet

    cxr score 'https://pacs/dicom-web?StudyDate=20260101-' --user cxr --password-file pw --out results.parquet

    Bundle, limits and checks are those of the service (CXR_BUNDLE pins a bundle), without its network, keys and queue.

    A run that was stopped or killed goes on when the same command is given again; what was committed (every 1,000 films,
    or with the first film after 30 seconds) is not judged again. While it is unfinished it lies in OUT.parts. Films that could not be had
    are rows with the status `failed`.

    Paths and UIDs stand in OUT as the caller's own identifiers, nothing else of a patient does. The audit trail gets the run, its counts
    and the SHA-256 of every part, never a path.

    Exit status: 0 finished, 3 finished but some films failed, 1 an error, 130 or 143 stopped.
    """
    _need_extra()
    from app.bulk.score import Wish  # noqa: PLC0415 - the extra

    login = (user, password_file, token_file)
    found = _source(source, out=out, match=match, column=column, root=root, modality=modality, login=login)
    if dry_run:
        _count(found)
        return
    wish = Wish(found, out, operating_point, workers, rate, ray, retry_failed=retry_failed, overwrite=overwrite)
    with _asked_to_stop() as stop:
        outcome = _score(wish, stop)
    _show(outcome, wish.out)
    if not outcome.finished:
        raise typer.Exit(128 + (stop.number or signal.SIGINT))
    if outcome.statuses.get("failed"):
        raise typer.Exit(SOME_FAILED)


def _score(wish: Wish, stop: _Stop) -> Outcome:
    from app.bulk.score import score as run  # noqa: PLC0415 - the extra

    with open_records() as (settings, records):
        workers = wish.workers or settings.workers or usable_cores()
        live = _live(settings, records, workers)
        watcher = _Watcher(records)
        try:
            return run(wish, live, settings, workers=workers, watcher=watcher, stop=stop.event)
        finally:
            watcher.end()


def _live(settings: Settings, records: Records, workers: int) -> LiveBundle:
    """The bundle that the service would serve, with the engine it would take."""
    bundles = LiveBundles(
        BundleStore(settings.bundles_dir),
        records,
        pin=settings.bundle,
        poll_s=settings.bundle_poll_s,
        accept_failed_gate=settings.accept_failed_gate,
        engines=Engines(settings.engine, workers=workers, cache_dir=settings.engine_cache, choices=records.choices),
    )
    bundles.load_live()
    if bundles.current is None:
        raise ConfigurationError("no_bundle", "no bundle is live")
    return bundles.current


def _need_extra() -> None:
    missing = [name for name in ("httpx", "pyarrow") if find_spec(name) is None]
    if missing:
        raise ConfigurationError("missing_extra", f"install cxr-triage[bulk]; {' and '.join(missing)} is missing")


def _source(
    text: str,
    *,
    out: Path,
    match: str | None,
    column: str,
    root: Path | None,
    modality: list[str] | None,
    login: tuple[str | None, Path | None, Path | None],
) -> Source:
    """What the argument names: an address by its scheme, a folder or a table by what is there."""
    from app.bulk.dicomweb import DicomwebSource  # noqa: PLC0415 - the extra
    from app.bulk.files import FolderSource, TableSource  # noqa: PLC0415

    if "://" in text:
        return DicomwebSource.parse(text, modalities=tuple(modality or ("CR", "DX")), login=_login(*login))
    path = Path(text)
    if path.is_dir():
        return FolderSource(path, match, without=out)
    if path.is_file():
        return TableSource(path, column, root or path.parent)
    raise BulkError("source_not_found", f"{text} is neither a folder nor a table, and no http(s) address")


def _login(user: str | None, password_file: Path | None, token_file: Path | None) -> Login | None:
    from app.bulk.dicomweb import Login  # noqa: PLC0415 - the extra

    if (user is None) != (password_file is None) or (user is not None and token_file is not None):
        raise typer.BadParameter("--user goes with --password-file, or --token-file stands alone")
    secret = password_file or token_file
    return None if secret is None else Login(secret.resolve(), user)


def _count(source: Source) -> None:
    from app.bulk.survey import survey  # noqa: PLC0415 - the extra

    found = survey(source)
    rows = {"films": f"{found.films:,}"}
    if found.doubles:
        rows["named again"] = f"{found.doubles:,} (judged once)"
    rows |= {f"  {name}": f"{count:,}" for name, count in sorted(found.formats.items())}
    if found.formats:
        rows["bytes"] = f"{found.total_bytes:,}"
    typer.echo(table(rows))


class _Watcher:
    """Shows where the run is, and records its events."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._progress: Progress | None = None

    def begun(self, run: Run, done: int) -> None:
        """See `Watcher`."""
        by = run.judge
        before = f", {done:,} of them judged before" if done else ""
        typer.echo(
            f"{run.films:,} films{before}; {by.bundle_name}/{by.bundle_version} at {by.operating_point}, "
            f"{by.engine} {by.engine_version} {by.precision}",
            err=True,
        )
        self._progress = Progress(run.films, done)

    def row(self, row: Row) -> None:
        """See `Watcher`."""
        if self._progress is not None:
            self._progress.step(row["status"])

    def audit(self, kind: str, facts: Mapping[str, Any]) -> None:
        """See `Watcher`."""
        self._records.record_now(AuditEvent(kind, f"cli:{operator()}", facts))

    def end(self) -> None:
        """Leave the line that moves."""
        if self._progress is not None:
            self._progress.end()


class _Stop:
    """Set by the first SIGINT or SIGTERM; the second one ends the process as it does without us."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number: int | None = None

    def ask(self, number: int, _: object) -> None:
        self.number = number
        self.event.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        print("cxr: stopping when the films in hand are judged", file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def _asked_to_stop() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(outcome: Outcome, out: Path) -> None:
    """The summary: of all films, and how fast those of this call were."""
    if not outcome.finished:
        typer.echo(f"stopped after {outcome.judged:,} films; the same command goes on from there", err=True)
        return
    films = sum(outcome.statuses.values())
    rows = {"films": f"{films:,}"}
    rows |= {f"  {name}": _share(count, films) for name, count in sorted(outcome.statuses.items())}
    rows |= {f"    {code}": f"{count:,}" for code, count in _by_count(outcome.codes)}
    judged = outcome.statuses.get("ok", 0)
    rows |= {f"label {label}": _share(count, judged) for label, count in _by_count(outcome.labels)}
    rows["review required"] = _share(outcome.review, judged)
    if outcome.judged:
        rows["this call"] = f"{outcome.judged:,} films in {span(outcome.seconds)}, {outcome.films_per_s:.2f} films/s"
        if outcome.judged >= ENOUGH:
            rows["a million films"] = f"{span(1e6 / outcome.films_per_s)} at that rate"
    else:
        rows["this call"] = "nothing was left to do"
    rows["results"] = str(out)
    typer.echo(table(rows))


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"
