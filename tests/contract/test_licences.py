"""The service installs nothing whose licence is not permissive. Read from what is installed, base dependencies and theirs."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

ALLOWED = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL-2\.0|Mozilla Public License 2\.0|Unlicense|0BSD|HPND",
    re.IGNORECASE,
)
FORBIDDEN = re.compile(r"GPL|General Public|Affero|Business Source|SSPL", re.IGNORECASE)


def required(name: str, extra: str = "", seen: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """Every distribution that `name[extra]` needs on this machine, itself included."""
    seen = {} if seen is None else seen
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return seen
    seen[name.lower()] = found
    for text in found.requires or []:
        needed = Requirement(text)
        wanted = needed.marker is None or needed.marker.evaluate({"extra": extra})
        if wanted and needed.name.lower() not in seen:
            required(needed.name, ",".join(needed.extras), seen)
    return seen


def licence(found: Distribution) -> str:
    """What the package says of itself: SPDX expression, else classifiers, else the first line of its licence field."""
    meta = found.metadata.json
    classifiers = [c for c in meta.get("classifier", []) if c.startswith("License ::")]
    field = str(meta.get("license", "")).strip().splitlines()
    return str(meta.get("license_expression", "")) or " / ".join(classifiers) or (field[0] if field else "")


def test_the_service_needs_only_permissive_packages() -> None:
    needed = required("cxr-triage") | required("cxr-triage", "postgres")
    said = {name: licence(found) for name, found in needed.items()}
    assert len(said) > 25
    assert "torch" not in said
    assert {n: text for n, text in said.items() if FORBIDDEN.search(text) or not ALLOWED.search(text)} == {}
