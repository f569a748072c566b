"""A film as its source describes it, before any pixel is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.data.spec import Side


@dataclass(frozen=True)
class Film:
    """One film of a source.

    path: relative to the data folder; folder: its source. patient: split on this, never on files ("" = not known).
    upstream_split: train, val, test or "". label: the class of a single-label recipe ("" where there are findings instead).
    findings: (class, 1 | 0 | -1) for multilabel recipes, -1 = uncertain and not to be used; a class that is missing is unknown.
    duplicate_group: films with the same non-empty value are the same picture. age_group: paediatric, adult or unknown.
    view: PA, AP, ... or ""; sex: M, F or ""; age_years: None where unknown. width, height: px upstream, 0 where unknown.
    """

    path: str
    folder: str
    upstream_split: str
    label: str
    patient: str
    duplicate_group: str = ""
    licence: str = ""
    age_group: str = "unknown"
    findings: tuple[tuple[str, int], ...] = ()
    view: str = ""
    sex: str = ""
    age_years: float | None = None
    width: int = 0
    height: int = 0
    side: Side = "any"
    facts: tuple[tuple[str, str], ...] = field(default=(), compare=False)
