"""BentoML with adaptive batching on the ONNX file.

`bentoml serve benchmarks.competitors.bento:Films`; settings (JSON: folder, threads, workers, batch, shape) in BENCH_SETTINGS.
shape `two`: as BentoML's guide has it, a service that takes uploads and decodes, and one that runs batches of arrays. `one`: a single
service whose batches are lists of uploads.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import bentoml  # type: ignore[import-not-found]  # lives in an environment of its own
import numpy as np

from benchmarks.competitors.film import tensor
from benchmarks.competitors.networks import Network, load

SETTINGS = json.loads(os.environ["BENCH_SETTINGS"])
BATCH = {"batchable": True, "max_batch_size": max(2, SETTINGS["batch"]), "max_latency_ms": 60_000}
TRAFFIC = {"timeout": 60}


def _network() -> Network:
    return load("onnx", Path(SETTINGS["folder"]), SETTINGS["threads"])


if SETTINGS["shape"] == "one":

    @bentoml.service(workers=SETTINGS["workers"], traffic=TRAFFIC)
    class Films:
        def __init__(self) -> None:
            self.network = _network()

        @bentoml.api(route="/predict", **BATCH)  # type: ignore[untyped-decorator]  # as above
        def predict(self, file: list[Path]) -> list[dict[str, list[float]]]:
            logits = self.network(np.stack([tensor(one.read_bytes()) for one in file]))
            return [{"logits": [float(value) for value in row]} for row in logits]

else:

    @bentoml.service(workers=SETTINGS["workers"], traffic=TRAFFIC)
    class Runner:
        def __init__(self) -> None:
            self.network = _network()

        @bentoml.api(**BATCH)  # type: ignore[untyped-decorator]  # as above
        def logits(self, batch: np.ndarray) -> np.ndarray:
            return self.network(batch)

    @bentoml.service(workers=1, traffic=TRAFFIC)
    class Films:  # type: ignore[no-redef]  # one of the two
        network = bentoml.depends(Runner)

        @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]  # as above
        async def predict(self, file: Path) -> dict[str, list[float]]:
            data = file.read_bytes()  # noqa: ASYNC240 - a small file in memory's reach; as BentoML's guide does it
            found = await self.network.to_async.logits(tensor(data)[None])
            return {"logits": [float(value) for value in np.ravel(found)]}
