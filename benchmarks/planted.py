"""`python -m benchmarks.planted`: the service with planted faults, which the soak must find: its positive control.

`CXR_BENCH_PLANT` (JSON): bytes kept for ever per request, requests per file left open, microseconds by which each request is slower
than the one before it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from app.cli.serve import serve
from app.service import TriageService

Answering = Callable[..., Awaitable[Any]]


def plant(answer: Answering, faults: dict[str, float]) -> Answering:
    """`answer`, leaking as told."""
    kept: list[bytes] = []
    files: list[int] = []
    seen = 0

    async def leaking(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if faults.get("bytes"):
            kept.append(os.urandom(int(faults["bytes"])))
        if faults.get("requests_per_file") and seen % int(faults["requests_per_file"]) == 0:
            files.append(os.open(os.devnull, os.O_RDONLY))
        if faults.get("slower_us"):
            await asyncio.sleep(seen * faults["slower_us"] / 1e6)
        return await answer(*arguments)

    return leaking


def main() -> None:
    faults = json.loads(os.environ["CXR_BENCH_PLANT"])
    TriageService.predict = plant(TriageService.predict, faults)  # type: ignore[method-assign, assignment]  # for this process only
    serve()


if __name__ == "__main__":
    main()
