"""Real radiographs through the shipped bundle, where ../shared/data is here: originals, reduced copies, everything answered or coded."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.store import BundleStore
from app.errors import CxrError
from app.imaging.decode import ImageLimits, decode
from app.inference.engine import OnnxRuntimeEngine
from app.settings import PROJECT_ROOT
from benchmarks.server import serving
from training.judging.reduced import compare_copies

DATA = PROJECT_ROOT.parent / "shared" / "data"
WIDE = ImageLimits(32, 8192)  # one reduced copy is 121 px high, which the service refuses by default

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here: no real radiographs to test with"),
]


def test_a_reduced_copy_scores_like_its_original() -> None:
    store = BundleStore(PROJECT_ROOT / "model_bundles")
    ref = store.latest()
    assert ref is not None
    bundle = store.verify(ref)
    engine = OnnxRuntimeEngine(bundle.network)

    pairs = sorted(compare_copies(DATA, bundle.manifest.input, engine), key=lambda pair: -pair.difference)
    print(f"{len(pairs)} films; largest differences in logit between original and reduced copy:")
    for pair in pairs[:8]:
        print(f"  {pair.difference:.3f}  {pair.logit_original:+.3f} {pair.logit_reduced:+.3f}  {pair.original}")
    assert len(pairs) >= 35
    assert pairs[0].difference <= 0.15


def test_every_original_is_answered_or_coded(tmp_path: Path) -> None:
    with serving(tmp_path / "state") as server:
        key = server.key("service")
        outcomes: dict[str, int] = {}
        for path in sorted(p for p in (DATA / "originals").rglob("*") if p.suffix in {".png", ".jpg", ".jpeg"}):
            kind = "image/png" if path.read_bytes()[:4] == b"\x89PNG" else "image/jpeg"
            reply = server.request("POST", "/predict", key=key, body=path.read_bytes(), Content_Type=kind)
            outcome = "answered" if reply.status == 200 else f"{reply.status} {reply.json()['code']}"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        print(f"originals: {outcomes}")
        assert sum(outcomes.values()) == 46
        assert not any(outcome.startswith("5") for outcome in outcomes)
        assert outcomes["answered"] >= 40
        assert server.cxr("audit", "verify").returncode == 0


def test_no_training_film_is_refused_as_damaged() -> None:
    refused = {}
    for path in sorted((DATA / "kermany_hires").rglob("*.jpg"))[::10] + sorted((DATA / "tbx11k").rglob("*.jpg"))[::10]:
        try:
            decode(path.read_bytes(), WIDE)
        except CxrError as error:
            refused[path.name] = error.code
    assert refused == {}
