"""Everything that judges the films of a run, in one process: the bundle, the decoder processes, the way to the films.

A `Kit` and the files of the bundle are what travels to the nodes of a cluster; a `Workplace` is made of them there as here.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.bulk.films import Film, Source
from app.bulk.judge import FilmJudge
from app.bulk.local import Pace, judge_here
from app.bulk.rows import Judge, Row
from app.bundle.store import BundleRef, BundleStore
from app.engines import Engines
from app.errors import BulkError
from app.imaging.decode import ImageLimits, limit_threads
from app.imaging.dicom.decoders import DecoderPool
from app.judging import Limits
from app.live import LiveBundle, load_bundle
from app.settings import Settings


@dataclass(frozen=True)
class Kit:
    """How to judge. A value: it can be sent to another machine.

    by: bundle, engine and operating point of every row. limits: of a film. decode_timeout_s, decode_max_bytes: of a decoder process.
    """

    source: Source
    by: Judge
    limits: ImageLimits
    decode_timeout_s: float
    decode_max_bytes: int

    @classmethod
    def of(cls, source: Source, by: Judge, settings: Settings) -> Kit:
        """With the limits of the service."""
        limits = ImageLimits(
            min_px=settings.image_min_px,
            max_px=settings.image_max_px,
            dicom_max_px=settings.dicom_max_px,
            dicom_max_bytes=settings.dicom_max_bytes,
            max_bytes=settings.upload_max_bytes,
        )
        return cls(source, by, limits, settings.dicom_decode_timeout_s, settings.dicom_decode_max_bytes)


class Workplace:
    """Judges films in this process, `workers` at a time.

    Args:
        stop: once set, no film is begun and nothing is waited for.

    Raises:
        BulkError: another_judge, the bundle is not the one that the rows will name.
    """

    def __init__(self, kit: Kit, live: LiveBundle, *, workers: int, rate: float | None, stop: threading.Event) -> None:
        check_judge(live, kit.by)
        point = live.manifest.operating_point(kit.by.operating_point)
        if point is None:
            raise ValueError("check_judge found the operating point")
        limit_threads()
        self._pace, self._stop = Pace(rate, stop), stop
        self._threads = workers * (1 + kit.source.readers)
        self._reader = kit.source.reader(max(kit.limits.max_bytes, kit.limits.dicom_max_bytes), stop)
        self._decoder = DecoderPool(workers, kit.decode_timeout_s, kit.decode_max_bytes)
        limits = Limits(kit.limits, 0, self._decoder)
        self._judge = FilmJudge(self._reader, live, point, limits, kit.by, at_once=workers)

    def rows(self, films: Iterable[Film]) -> Iterator[Row]:
        """Rows in the order of the films.

        Raises:
            BulkError: the source is away.
        """
        return judge_here(films, self._judge, threads=self._threads, pace=self._pace, stop=self._stop)

    def close(self) -> None:
        """End the decoder processes and let go of connections."""
        self._decoder.close()
        self._reader.close()


def packed(live: LiveBundle) -> Mapping[str, bytes]:
    """The files of a bundle, to be sent along."""
    return {path.name: path.read_bytes() for path in live.bundle.path.iterdir() if path.is_file()}


def unpacked(files: Mapping[str, bytes], by: Judge) -> LiveBundle:
    """The bundle of another machine, with the engine that `by` names: verified and self-tested.

    Raises:
        BundleError: as `load_bundle`.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-bundle-") as folder:
        place = Path(folder, by.bundle_name, by.bundle_version)
        place.mkdir(parents=True)
        for name, content in files.items():
            (place / name).write_bytes(content)
        engines = Engines(f"{by.engine}-{by.precision}")  # that is what variants are called
        return load_bundle(BundleStore(Path(folder)), BundleRef(by.bundle_name, by.bundle_version), engines)


def judge_of(live: LiveBundle, point: str | None) -> Judge:
    """Who judges: a loaded bundle at one of its operating points (None: its default).

    Raises:
        BulkError: unknown_operating_point.
    """
    found = live.manifest.operating_point(point)
    if found is None:
        known = ", ".join(p.name for p in live.manifest.operating_points)
        raise BulkError("unknown_operating_point", f"{live.ref} has: {known}")
    ref = live.ref
    engine = live.engine.info
    return Judge(
        bundle_name=ref.name,
        bundle_version=ref.version,
        bundle_digest=live.bundle.digest,
        engine=engine.name,
        engine_version=engine.version,
        precision=engine.precision,
        operating_point=found.name,
        classes=live.manifest.classes,
    )


def check_judge(live: LiveBundle, by: Judge) -> None:
    """Raises: BulkError, `another_judge`, unless this bundle and engine are those that are named."""
    here = judge_of(live, by.operating_point)
    if here != by:
        mine, theirs = here.named(), by.named()
        wrong = ", ".join(f"{key} {mine[key]!r} instead of {theirs[key]!r}" for key in mine if mine[key] != theirs[key])
        raise BulkError("another_judge", f"this machine would judge otherwise: {wrong or 'classes'}")
