"""LitServe with batching. `python -m benchmarks.competitors.lit SETTINGS` (JSON: port, folder, kind, threads, workers, batch, wait_s)."""

import json
import sys
from pathlib import Path
from typing import Any

import litserve  # type: ignore[import-not-found]  # lives in an environment of its own
import numpy as np
from fastapi import Request

from benchmarks.competitors.film import tensor
from benchmarks.competitors.networks import load

SETTINGS = json.loads(sys.argv[1])


class Api(litserve.LitAPI):  # type: ignore[misc]  # as above
    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's own form
        self.network = load(SETTINGS["kind"], Path(SETTINGS["folder"]), SETTINGS["threads"])

    def decode_request(self, request: Request) -> Any:  # LitServe reads the annotation, and hands in the form
        form: Any = request
        return tensor(form["file"].file.read())

    def batch(self, inputs: Any) -> Any:
        return np.stack(inputs)

    def predict(self, batch: Any) -> Any:
        return self.network(batch if batch.ndim == 4 else batch[None])

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        return {"logits": np.ravel(output).tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=SETTINGS["batch"], batch_timeout=SETTINGS["wait_s"])
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=SETTINGS["workers"], timeout=60, healthcheck_path="/health"
    )
    server.run(
        host="127.0.0.1", port=SETTINGS["port"], log_level="warning", generate_client_file=False, num_api_servers=1
    )
