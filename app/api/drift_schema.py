"""What `GET /drift_report` answers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas import API_VERSION
from app.drift import ALERT, REFERENCE_MIN, WATCH, Level

if TYPE_CHECKING:
    from app.drift import DriftReport


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class StatisticRow(_Part):
    """One input statistic, or the confidence. `psi` is null, and the level insufficient_data, where there is too little."""

    name: str
    level: Level
    psi: float | None
    chance: float | None = Field(description="PSI expected of noise alone.")
    n: int
    edges: list[float] = Field(description="Inner edges of the bins.")
    expected: list[float] = Field(description="Share of the reference films in each bin.")
    observed: list[float] = Field(description="Share of the films of the window in each bin.")


class ClassRow(_Part):
    """One class: share of films for which it was predicted."""

    name: str
    level: Level
    psi: float | None
    chance: float | None
    expected: float
    observed: float | None


class EmbeddingRow(_Part):
    """Shift of the mean of the projected features, in standard deviations of the reference."""

    level: Level
    n: int
    distance: float | None
    divergence: float | None
    chance: float | None


class Levels(_Part):
    """PSI from which a row is `watch` and `alert`."""

    watch: float
    alert: float


class DriftAnswer(_Part):
    """The films of a window against the reference in the bundle. `level` is the worst row's."""

    api_version: str
    request_id: str
    bundle: str = Field(description="name/version")
    since: datetime
    until: datetime
    n: int = Field(description="Predictions in the window.")
    minimum: int = Field(description="Below this: insufficient data.")
    n_reference: int = Field(description="Films of the reference.")
    minimum_reference: int = Field(description="Below this, too: insufficient data.")
    level: Level
    levels: Levels
    statistics: list[StatisticRow]
    classes: list[ClassRow]
    embedding: EmbeddingRow


def drift_response(report: DriftReport, bundle: str, request_id: str) -> DriftAnswer:
    """The document of a report on the predictions of `bundle` ("name/version")."""
    return DriftAnswer(
        api_version=API_VERSION,
        request_id=request_id,
        bundle=bundle,
        since=report.since,
        until=report.until,
        n=report.n,
        minimum=report.minimum,
        n_reference=report.n_reference,
        minimum_reference=REFERENCE_MIN,
        level=report.level,
        levels=Levels(watch=WATCH, alert=ALERT),
        statistics=[
            StatisticRow(
                name=s.name,
                level=s.level,
                psi=_rounded(s.psi),
                chance=_rounded(s.chance),
                n=s.n,
                edges=[float(f"{e:.6g}") for e in s.edges],
                expected=[round(share, 6) for share in s.expected],
                observed=[round(share, 6) for share in s.observed],
            )
            for s in report.statistics
        ],
        classes=[
            ClassRow(
                name=c.name,
                level=c.level,
                psi=_rounded(c.psi),
                chance=_rounded(c.chance),
                expected=round(c.expected, 6),
                observed=_rounded(c.observed),
            )
            for c in report.classes
        ],
        embedding=EmbeddingRow(
            level=report.embedding.level,
            n=report.embedding.n,
            distance=_rounded(report.embedding.distance),
            divergence=_rounded(report.embedding.divergence),
            chance=_rounded(report.embedding.chance),
        ),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
