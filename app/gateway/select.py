"""Which films of a study are judged: rules as data, the first that matches decides, and some only take so many."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.gateway.config import Rule
from app.gateway.header import FilmFacts


@dataclass(frozen=True)
class Candidate:
    """A film that waits. id: its row; series: any stable name of its series; rule: key of the rule that took it once before."""

    id: int
    series: str
    peer: str
    facts: FilmFacts
    rule: str | None = None


Taken = Mapping[tuple[str, str], int]
"""How many films a rule has taken already: (key of the rule, series), and (key of the rule, "") for the whole study."""


def rule_key(rule: Rule) -> str:
    """A name for a rule that survives its moving in the file: 16 hex digits of its content."""
    return hashlib.sha256(rule.model_dump_json().encode()).hexdigest()[:16]


def matching(rules: Sequence[Rule], facts: FilmFacts, peer: str) -> Rule | None:
    """The first rule that matches."""
    return next((rule for rule in rules if _matches(rule, facts, peer)), None)


def choose(candidates: Iterable[Candidate], rules: Sequence[Rule], taken: Taken) -> dict[int, str | None]:
    """The key of the rule that takes each film, None for those that are ignored.

    Where a rule takes only so many, those go first that it took before (a film that was sent again), then by instance number, then
    by arrival; so the same films are taken however often they come.
    """
    counts = Counter(dict(taken))
    chosen: dict[int, str | None] = {}
    for film in sorted(candidates, key=_order):
        rule = matching(rules, film.facts, film.peer)
        chosen[film.id] = None
        if rule is None or rule.action == "ignore":
            continue
        key = rule_key(rule)
        if _room(rule.max_per_series, counts[key, film.series]) and _room(rule.max_per_study, counts[key, ""]):
            counts[key, film.series] += 1
            counts[key, ""] += 1
            chosen[film.id] = key
    return chosen


def _matches(rule: Rule, facts: FilmFacts, peer: str) -> bool:
    return all(
        (
            rule.modality is None or facts.modality in rule.modality,
            rule.body_part is None or facts.body_part in rule.body_part,
            rule.view is None or facts.view in rule.view,
            rule.derived is None or facts.derived == rule.derived,
            rule.image_type is None or set(rule.image_type) <= set(facts.image_type),
            rule.sop_class is None or facts.sop_class_uid in rule.sop_class,
            rule.peer is None or peer in rule.peer,
        )
    )


def _room(limit: int | None, used: int) -> bool:
    return limit is None or used < limit


def _order(film: Candidate) -> tuple[bool, bool, int, int]:
    number = film.facts.instance_number
    return film.rule is None, number is None, number or 0, film.id
