"""Where things are on disk. Nothing but the bundles and the test ledger is committed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_DATA = CHECKOUT.parent / "shared" / "data"


@dataclass(frozen=True)
class Places:
    """The data folder, the pixel cache, the runs, the bundles, the test ledger and the ledger of the other test sets.

    runs also holds what tracks them: `mlflow.db` and its artefacts, `studies.db` of the searches.
    """

    data: Path = DEFAULT_DATA
    cache: Path = CHECKOUT / ".cache" / "training"
    runs: Path = CHECKOUT / "runs"
    bundles: Path = CHECKOUT / "model_bundles"
    ledger: Path = CHECKOUT / "training" / "test_ledger.csv"
