"""What a run goes through: films by the names that their source has for them, and what a source can do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["folder", "table", "dicomweb"]


@dataclass(frozen=True)
class FilmName:
    """How a source calls a film: by its path, as the file system has it (bytes), or by its three UIDs."""

    path: bytes = b""
    study_uid: str = ""
    series_uid: str = ""
    instance_uid: str = ""

    @property
    def identity(self) -> bytes:
        """Films with the same are the same film: the path, or the SOP Instance UID, which is unique in the world (PS3.5 section 9)."""
        return self.path or self.instance_uid.encode()

    @property
    def shown(self) -> str:
        """The path as text; bytes that are no UTF-8 become `\\xNN`."""
        return self.path.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Film:
    """One film of a run. place: in the plan, from 0."""

    place: int
    name: FilmName


class FilmError(Exception):
    """This film cannot be had; the next one may. code: a stable word; message: for the row, nothing of the film in it."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(code)


class Reader(Protocol):
    """Fetches films. Thread-safe."""

    def read(self, name: FilmName) -> bytes:
        """The film's bytes.

        Raises:
            FilmError: it cannot be had. RequestError: `payload_too_large`. BulkError: the source is away, so that no other can be had.
        """

    def close(self) -> None:
        """Let go of connections."""


class Source(Protocol):
    """Where films come from: a frozen value that can be sent to another machine.

    readers: how many films one judging thread may have on the way, since fetching mostly waits.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def readers(self) -> int: ...

    def identity(self) -> dict[str, str]:
        """What makes it the same source when a run goes on: two runs of the same identity have the same films.

        Raises:
            BulkError: the source is not there.
        """

    def names(self, stop: threading.Event) -> Iterator[FilmName]:
        """Every film in a fixed order; one may come twice.

        Raises:
            BulkError: the source cannot be listed to its end.
        """

    def reader(self, max_bytes: int, stop: threading.Event) -> Reader:
        """A way to the films' bytes.

        Args:
            max_bytes: a larger film is refused without being read.
            stop: once set, nothing is waited for any more.
        """


def file_path(name: FilmName) -> str:
    """The path for the operating system, whatever bytes it holds."""
    return os.fsdecode(name.path)
