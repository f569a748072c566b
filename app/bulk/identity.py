"""Which run it is: what must be the same for a run to go on, and what tells one run from another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.rows import FORMAT, Judge
from app.errors import BulkError

METADATA: Final = b"cxr-triage"  # key of the run in the metadata of the results file's schema


@dataclass(frozen=True)
class Run:
    """One run. source: as the source identifies itself; generation: counts how often a finished run was opened again.

    films: how many the plan has. thresholds: by class, margins at the operating point. about: for people, of no effect.
    """

    run_id: str
    generation: int
    started_at: str
    films: int
    source: Mapping[str, str]
    judge: Judge
    thresholds: Mapping[str, float]
    about: Mapping[str, str]
    format: int = FORMAT

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Run:
        """Raises: BulkError, `unknown_format`; it was not written by this code."""
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields["format"] != FORMAT:
                raise BulkError("unknown_format", f"the run has format {fields['format']}; this program knows {FORMAT}")
            judge = fields.pop("judge")
            return cls(judge=Judge(**{**judge, "classes": tuple(judge["classes"])}), **fields)
        except (ValueError, TypeError, KeyError):
            raise BulkError("unknown_format", "what was found describes no run of `cxr score`") from None

    def differences(self, other: Run) -> list[str]:
        """In which words the other is not this run: nothing where it may go on."""
        mine, theirs = self._settled(), other._settled()
        return [
            f"{key} {theirs.get(key)!r} instead of {mine.get(key)!r}" for key in mine if mine[key] != theirs.get(key)
        ]

    def again(self) -> Run:
        """The same run, opened once more."""
        return replace(self, generation=self.generation + 1)

    def is_or_follows(self, other: Run) -> bool:
        """Whether this is the other, or came of it by opening it again."""
        return self.run_id == other.run_id and self.generation >= other.generation

    def _settled(self) -> dict[str, str]:
        return {f"source {key}": value for key, value in self.source.items()} | self.judge.named()


def run_of(results: Path) -> Run | None:
    """The run that made a results file; None for a file that `cxr score` did not make."""
    try:
        found = pq.read_schema(results).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return Run.from_json(found[METADATA]) if METADATA in found else None
