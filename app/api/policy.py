"""Who may call what: one table. A route that is not in it does not exist; a test walks the routes against it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from app.domain import Role


class Body(Enum):
    """What a route takes as its body; the limits come from the settings (`body.rules`)."""

    NONE = "none"
    IMAGE = "image"
    BATCH = "batch"


class Shown(Enum):
    """How a browser may treat the answer: which Content-Security-Policy and whether it may be kept."""

    DATA = "data"
    PAGE = "page"
    ASSET = "asset"


@dataclass(frozen=True)
class Policy:
    """roles: who may call; None = open, no key asked for. audited: reaches the audit trail once admitted."""

    roles: frozenset[Role] | None
    body: Body = Body.NONE
    shown: Shown = Shown.DATA
    audited: bool = False

    @property
    def open(self) -> bool:
        return self.roles is None


CLINICAL = frozenset({Role.TECHNICIAN, Role.RADIOLOGIST, Role.SERVICE, Role.ADMIN})
WATCHERS = frozenset({Role.MONITOR, Role.ADMIN})
DRIFT_READERS = frozenset({Role.RADIOLOGIST, Role.MONITOR, Role.ADMIN})

POLICIES: Mapping[tuple[str, str], Policy] = {
    ("POST", "/predict"): Policy(CLINICAL, body=Body.IMAGE, audited=True),
    ("POST", "/batch_predict"): Policy(CLINICAL, body=Body.BATCH, audited=True),
    ("POST", "/gradcam"): Policy(CLINICAL, body=Body.IMAGE, audited=True),
    ("POST", "/reports"): Policy(CLINICAL, body=Body.IMAGE, audited=True),
    ("GET", "/metrics"): Policy(WATCHERS),
    ("GET", "/drift_report"): Policy(DRIFT_READERS, shown=Shown.PAGE, audited=True),
    ("GET", "/health"): Policy(None),
    ("GET", "/health/live"): Policy(None),
    ("GET", "/health/ready"): Policy(None),
    ("GET", "/openapi.json"): Policy(None),
    ("GET", "/docs"): Policy(None, shown=Shown.PAGE),
    ("GET", "/"): Policy(None, shown=Shown.PAGE),
    ("GET", "/static/{asset:path}"): Policy(None, shown=Shown.ASSET),
}


@dataclass(frozen=True)
class Match:
    """Where a request belongs. template: for logs and metrics, never the raw path; methods: what the path does take."""

    template: str
    policy: Policy | None
    methods: tuple[str, ...] = ()


UNKNOWN = Match("other", None)


@dataclass(frozen=True)
class Table:
    """The policies, ready for look-up by path."""

    policies: Mapping[tuple[str, str], Policy]

    @cached_property
    def _exact(self) -> dict[str, dict[str, Policy]]:
        paths: dict[str, dict[str, Policy]] = {}
        for (method, template), policy in self.policies.items():
            paths.setdefault(template, {})[method] = policy
        return paths

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple((_pattern(template), template) for template in self._exact if "{" in template)

    def find(self, method: str, path: str) -> Match:
        """The policy of a request; `policy` None where the method, or the path (`UNKNOWN`), is not in the table."""
        template = path if path in self._exact and "{" not in path else None
        if template is None:
            template = next((t for pattern, t in self._patterns if pattern.fullmatch(path)), None)
        if template is None:
            return UNKNOWN
        methods = self._exact[template]
        return Match(template, methods.get(method), tuple(sorted(methods)))


def _pattern(template: str) -> re.Pattern[str]:
    """`{name}` is one path segment, `{name:path}` the rest of the path."""
    parts = re.split(r"(\{[a-z_]+(?::path)?\})", template)
    kinds = {True: ".+", False: "[^/]+"}
    return re.compile("".join(kinds[":path" in p] if p.startswith("{") else re.escape(p) for p in parts))
