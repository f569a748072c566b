"""The five worklists of a run (S1-38 to S1-41), from logits alone: which films a person should look at, and why.

    false-negatives          a finding that the answer leaves out               mandatory audit
    false-positives          an answer that names a finding that is not there   review, count the cost
    borderline               within the borderline margin of a threshold        human review
    high-risk                a missed film of the gravest class, `normal` said with low confidence, or a wrong answer said with a
                             probability above `SURE`                           mandatory audit; failure analysis, then retraining
    high-confidence-correct  right, with a probability above `SURE`             none: a sample of what goes well

A film may stand on several lists. The gravest class is the first of the hierarchical point's priority, else tuberculosis, else the positive
class. Each list is a CSV file; all of them are one JSON file. Margins are of the class in question, logit units.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from app.bundle.manifest import ReviewRule
from app.decision import ABSENCE, NO_FINDING
from app.domain import ReviewReason, Task
from training.data.films import Film
from training.judging.answers import Answers, Rule
from training.runs import write_atomically

SURE = 0.95
LISTS = ("false-negatives", "false-positives", "borderline", "high-risk", "high-confidence-correct")
AUDIT = "mandatory audit"
REVIEW = "human review"
ANALYSIS = "failure analysis, then retraining"
NONE = "none"


@dataclass(frozen=True)
class Row:
    """One film on one list. truth, decision: class names, several joined by `+`. probability, margin: of `about`, the class in question.
    age, sex, view: where the source tells them. status: `open` until a person has seen it."""

    path: str
    source: str
    truth: str
    decision: str
    about: str
    probability: float
    margin: float
    confidence: float
    reason: str
    action: str
    age: str = ""
    sex: str = ""
    view: str = ""
    status: str = "open"


def worklists(answers: Answers, rule: Rule, review: ReviewRule, films: Mapping[str, Film]) -> dict[str, list[Row]]:
    """List -> rows, the most pressing first. films: path -> Film, for age, sex and view; may be empty."""
    found: dict[str, list[tuple[float, Row]]] = {name: [] for name in LISTS}
    for i in range(len(answers)):
        for name, urgency, row in _of_film(answers, i, rule, review, films.get(str(answers.scored.paths[i]))):
            found[name].append((urgency, row))
    return {
        name: [row for _, row in sorted(rows, key=lambda pair: (-pair[0], pair[1].path))]
        for name, rows in found.items()
    }


def write_worklists(lists: Mapping[str, Sequence[Row]], folder: Path, point: str) -> list[Path]:
    """One CSV per list and worklists.json."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in lists.items():
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
        paths.append(folder / f"{name}.csv")
        write_atomically(paths[-1], text.getvalue().encode())
    content = {"operating_point": point, "lists": {name: [asdict(row) for row in rows] for name, rows in lists.items()}}
    paths.append(folder / "worklists.json")
    write_atomically(paths[-1], (json.dumps(content, indent=1) + "\n").encode())
    return paths


def gravest(task: Task, rule: Rule) -> str:
    """The class that must not be missed."""
    if rule.point.priority:
        return rule.point.priority[0]
    absent = _absence(task, rule.classes)
    findings = [name for name in rule.classes if name not in absent]
    return "tuberculosis" if "tuberculosis" in findings else findings[0]


def review_reasons(answers: Answers, i: int, review: ReviewRule) -> list[ReviewReason]:
    """As the service gives them, less the film's quality."""
    found = []
    if answers.scored.task != "multilabel" and answers.confidence[i] < review.low_confidence_below:
        found.append(ReviewReason.LOW_CONFIDENCE)
    if answers.gap[i] <= review.borderline_margin:
        found.append(ReviewReason.BORDERLINE)
    return found


def _absence(task: Task, classes: Sequence[str]) -> frozenset[str]:
    """Classes that say that nothing was found, as `app.decision` takes them: the first of a binary recipe, whatever it is called."""
    return frozenset(classes[:1]) if task == "binary" else ABSENCE


def _of_film(
    answers: Answers, i: int, rule: Rule, review: ReviewRule, film: Film | None
) -> list[tuple[str, float, Row]]:
    """(list, urgency, row) of every list that the film stands on."""
    true, said = _classes(answers, i)
    absent, grave = _absence(answers.scored.task, rule.classes), gravest(answers.scored.task, rule)
    missed = [name for name in true if name not in said and name not in absent]
    wrong = [name for name in said if name not in true and name not in absent and _known(answers, i, name)]
    reasons = review_reasons(answers, i, review)
    right = not missed and not wrong
    confidence = float(answers.confidence[i])
    rows: list[tuple[str, float, Row]] = []

    def add(name: str, urgency: float, about: str, reason: str, action: str) -> None:
        rows.append((name, urgency, _row(answers, i, film, about=about, reason=reason, action=action)))

    for about in missed:
        add("false-negatives", 1 - _probability(answers, i, about), about, f"{about} missed", AUDIT)
    for about in wrong:
        add("false-positives", _probability(answers, i, about), about, f"{about} is not there", REVIEW)
    if ReviewReason.BORDERLINE in reasons:
        about = said[0] if said and said[0] in answers.classes else rule.classes[-1]
        add("borderline", -float(answers.gap[i]), about, "close to a threshold", REVIEW)
    if grave in missed:
        add("high-risk", 2.0, grave, f"{grave} missed", AUDIT)
    elif set(said) <= absent and ReviewReason.LOW_CONFIDENCE in reasons:
        add("high-risk", 1 - confidence, said[0] if said else NO_FINDING, "no finding, with low confidence", AUDIT)
    if not right and answers.scored.task != "multilabel" and confidence > SURE:
        add("high-risk", 1 + confidence, said[0], "wrong, with high confidence", ANALYSIS)
    if right and confidence > SURE:
        about = said[0] if said else NO_FINDING
        add("high-confidence-correct", confidence, about, "right, with high confidence", NONE)
    return rows


def _classes(answers: Answers, i: int) -> tuple[list[str], list[str]]:
    """Names of what is true and of what was said."""
    if answers.scored.task != "multilabel":
        return [answers.classes[answers.truth[i]]], [answers.classes[answers.decided[i]]]
    outputs = answers.scored.outputs
    true = [name for k, name in enumerate(outputs) if answers.scored.targets[i, k] == 1]
    return true, [name for k, name in enumerate(outputs) if answers.positive[i, k]]


def _known(answers: Answers, i: int, name: str) -> bool:
    if answers.scored.task != "multilabel":
        return True
    return bool(np.isfinite(answers.scored.targets[i, answers.scored.outputs.index(name)]))


def _probability(answers: Answers, i: int, name: str) -> float:
    return _shown(answers, i, name)[0]


def _shown(answers: Answers, i: int, name: str) -> tuple[float, float]:
    """Probability and margin of a class; of `no_finding` without an output of its own: nothing above the highest label."""
    outputs = answers.scored.outputs
    if name in outputs:
        k = outputs.index(name)
        return float(answers.probability[i, k]), float(answers.margins[i, k])
    if answers.scored.task == "binary":
        return 1 - float(answers.probability[i, 0]), -float(answers.margins[i, 0])
    return 1 - float(answers.probability[i].max()), -float(answers.margins[i].max())


def _row(answers: Answers, i: int, film: Film | None, *, about: str, reason: str, action: str) -> Row:
    true, said = _classes(answers, i)
    probability, margin = _shown(answers, i, about)
    age = "" if film is None else (f"{film.age_years:g}" if film.age_years is not None else film.age_group)
    return Row(
        path=str(answers.scored.paths[i]),
        source=str(answers.scored.sources[i]),
        truth="+".join(true) or NO_FINDING,
        decision="+".join(said) or NO_FINDING,
        about=about,
        probability=round(probability, 6),
        margin=round(margin, 6),
        confidence=round(float(answers.confidence[i]), 6),
        reason=reason,
        action=action,
        age=age,
        sex="" if film is None else film.sex,
        view="" if film is None else film.view,
    )
