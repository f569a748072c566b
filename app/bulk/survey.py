"""What a source holds, without judging any of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.bulk.files import FolderSource, TableSource
from app.bulk.films import FilmName, Source, file_path
from app.bulk.plan import distinct
from app.errors import ImageError
from app.imaging.sniff import sniff


@dataclass(frozen=True)
class Survey:
    """films: as many rows as a run would write; doubles: names that come again. formats, total_bytes: of files, by their first bytes
    (`other`: none that is judged, `unreadable`); none of an archive."""

    films: int
    doubles: int
    formats: Mapping[str, int] = field(default_factory=dict)
    total_bytes: int = 0


def survey(source: Source) -> Survey:
    """Count. Opens every file for its first bytes.

    Raises:
        BulkError: as `Source.names`.
    """
    formats = Counter[str]()
    sizes = [0]
    names = source.names(threading.Event())
    if isinstance(source, FolderSource | TableSource):
        root = (source.root).resolve()
        names = _looked_at(names, root, formats, sizes)
    first, films = distinct(names)
    return Survey(films, len(first) - films, dict(formats), sum(sizes))


def _looked_at(names: Iterator[FilmName], root: Path, formats: Counter[str], sizes: list[int]) -> Iterator[FilmName]:
    for name in names:
        path = root / file_path(name)
        try:
            status = path.stat()
            with path.open("rb") as file:
                formats[sniff(file.read(256))] += 1
            sizes[0] += status.st_size
        except ImageError:
            formats["other"] += 1
            sizes[0] += status.st_size
        except (OSError, ValueError):
            formats["unreadable"] += 1
        yield name
