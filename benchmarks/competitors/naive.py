"""FastAPI and eager PyTorch as one writes it first: an upload, a model, a number.

`python -m benchmarks.competitors.naive SETTINGS` (JSON: port, folder, threads, workers).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File

from benchmarks.competitors.film import tensor
from benchmarks.competitors.networks import load

SETTINGS = json.loads(os.environ.get("BENCH_SETTINGS") or sys.argv[1])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.network = load("eager", Path(SETTINGS["folder"]), SETTINGS["threads"])
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
def predict(file: Annotated[bytes, File()]) -> dict[str, list[float]]:
    """A plain function: the framework runs it in its thread pool."""
    return {"logits": app.state.network(tensor(file)[None])[0].tolist()}


if __name__ == "__main__":
    os.environ["BENCH_SETTINGS"] = json.dumps(SETTINGS)  # for the workers
    uvicorn.run(
        "benchmarks.competitors.naive:app",
        host="127.0.0.1",
        port=SETTINGS["port"],
        workers=SETTINGS["workers"],
        log_level="warning",
    )
