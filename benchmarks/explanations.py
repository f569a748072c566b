"""`python -m benchmarks.explanations`: what each explanation and test-time augmentation cost, in units of a plain judgement.

One film (a phantom as JPEG, 1,024 px) is judged in process, in this thread, as the service judges it (decode to decision; explanations as
numbers, without a picture). The rounds go through all kinds in turn; the median of the CPU time counts, so that neighbours on the machine
matter little. Prints a Markdown table. The ratio of SmoothGrad-CAM++ must stay below 16.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from app.bundle.store import BundleRef, BundleStore
from app.imaging.decode import ImageLimits, limit_threads
from app.judging import ExplainOptions, Limits, Method, judge
from app.live import LiveBundle, load_bundle
from app.settings import PROJECT_ROOT
from benchmarks.bundles import densenet121_network, write
from benchmarks.films import films
from benchmarks.phantoms_pass import phantoms_pass

LIMITS: Final = Limits(ImageLimits(128, 8_192), overlay_max_px=1_024)
NUMBERS: Final = ExplainOptions(output="json")
SMOOTH_BELOW: Final = 16.0


@dataclass(frozen=True)
class Kind:
    """A question about a film. method: None for no explanation."""

    name: str
    method: Method | None = None
    tta: bool = False


KINDS: Final = (
    Kind("plain"),
    Kind("test-time augmentation (5 views)", tta=True),
    Kind("Grad-CAM", "gradcam"),
    Kind("Grad-CAM++", "gradcam++"),
    Kind("SmoothGrad-CAM++ (16 samples)", "smoothgradcam++"),
    Kind("Score-CAM (32 channels and the empty input)", "scorecam"),
)


@dataclass(frozen=True)
class Cost:
    """Medians of one judgement. cpu_ms: of this thread and those of the network together; wall_ms: on this machine as it was."""

    kind: Kind
    cpu_ms: float
    wall_ms: float


def measure(live: LiveBundle, px: int, rounds: int) -> list[Cost]:
    """Judge the film once of each kind per round, after a first round that does not count."""
    point = live.manifest.operating_point(None)
    if point is None:
        raise RuntimeError("the bundle has no default operating point")
    (film,) = films("jpeg", px, 1)
    taken: dict[str, list[tuple[float, float]]] = {kind.name: [] for kind in KINDS}
    for _ in range(1 + rounds):
        for kind in KINDS:
            wanted = None if kind.method is None else replace(NUMBERS, method=kind.method)
            cpu, wall = time.process_time(), time.perf_counter()
            judge(film, live, point, wanted, LIMITS, tta=kind.tta)
            taken[kind.name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return [
        Cost(kind, *(statistics.median(column) * 1e3 for column in zip(*taken[kind.name][1:], strict=True)))
        for kind in KINDS
    ]


def table(costs: list[Cost]) -> str:
    """Markdown; the first row is the unit."""
    rows = ["| question | CPU ms | ms | CPU, plain = 1 |", "|---|---|---|---|"]
    rows += [f"| {c.kind.name} | {c.cpu_ms:.1f} | {c.wall_ms:.1f} | {c.cpu_ms / costs[0].cpu_ms:.2f} |" for c in costs]
    return "\n".join(rows)


def smooth_ratio(costs: list[Cost]) -> float:
    """CPU time of SmoothGrad-CAM++ in units of a plain judgement."""
    return next(c.cpu_ms for c in costs if c.kind.method == "smoothgradcam++") / costs[0].cpu_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, default=PROJECT_ROOT / "model_bundles", help="folder of bundles")
    parser.add_argument("--bundle", help="name/version; default: the latest there")
    parser.add_argument("--px", type=int, default=1_024, help="sides of the film")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--densenet121", action="store_true", help="DenseNet-121 with untrained weights instead of a bundle"
    )
    given = parser.parse_args()
    limit_threads()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if given.densenet121:
            ref = write(root, densenet121_network())
        else:
            ref = phantoms_pass(given.bundles, root, BundleRef.parse(given.bundle) if given.bundle else None)
        live = load_bundle(BundleStore(root), ref)
    costs = measure(live, given.px, given.rounds)
    info = live.engine.info
    print(f"{ref}, {info.name} {info.version} {info.precision}, {given.px} px JPEG, {given.rounds} rounds\n")
    print(table(costs))
    if smooth_ratio(costs) >= SMOOTH_BELOW:
        sys.exit(f"SmoothGrad-CAM++ costs {smooth_ratio(costs):.2f} plain judgements, wanted below {SMOOTH_BELOW:g}")


if __name__ == "__main__":
    main()
