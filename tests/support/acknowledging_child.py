"""A process that records predictions and acknowledges each on standard output once it is durable.

    python -m tests.support.acknowledging_child STATE_DIR CONCURRENCY [DATABASE_URL] [--plant-normal]

Writes `<request id> <chain> <seq>` lines with one write each, until it is killed. With `--plant-normal` its SQLite commits without
waiting for the disk (synchronous=NORMAL): the positive control of the tests that use it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path

from app.errors import UnavailableError
from app.records import Records, database
from app.settings import Settings
from tests.records.samples import event, prediction


async def submit(records: Records, numbers: itertools.count[int]) -> None:
    for number in numbers:
        try:
            event_id = await records.record(event(number), prediction=prediction(number))
        except UnavailableError:
            await asyncio.sleep(0.05)
            continue
        os.write(1, f"request-{number:06d} {event_id.chain_id} {event_id.seq}\n".encode())


async def main(records: Records, concurrency: int) -> None:
    numbers = itertools.count(1)
    await asyncio.gather(*(submit(records, numbers) for _ in range(concurrency)))


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--plant-normal"]
    if "--plant-normal" in sys.argv:
        database.SQLITE_PRAGMAS["synchronous"] = ("NORMAL", 1)
    url = arguments[2] if len(arguments) > 2 else None
    opened = Records.open(Settings(state_dir=Path(arguments[0]), database_url=url), role="serve")
    asyncio.run(main(opened, int(arguments[1])))
