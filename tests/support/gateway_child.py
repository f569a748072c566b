"""A gateway in a process of its own, so that it can be killed: `python -m tests.support.gateway_child STATE_DIR CONFIG`.

Commands on standard input, one answer line each: `receive FILE` -> `ack FILE` (durable from then on) or `error CODE`; `status` -> the
states of films and queues as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from app.errors import CxrError
from app.gateway.config import GatewayConfig
from app.gateway.core import Gateway
from app.logs import configure
from app.settings import Settings


def main() -> None:
    configure("info")
    settings = Settings(state_dir=Path(sys.argv[1]), audit_wait_s=1.0)
    gateway = Gateway(settings, GatewayConfig.load(Path(sys.argv[2])))
    gateway.start()
    print("ready", flush=True)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        try:
            if command == "receive":
                gateway.receive(Path(argument).read_bytes(), "SENDER")
                answer = f"ack {argument}"
            else:
                status = gateway.status()
                dead = {name: queue.dead for name, queue in status.queues.items()}
                pending = {name: queue.pending for name, queue in status.queues.items()}
                answer = json.dumps({"films": status.films, "pending": pending, "dead": dead})
        except CxrError as error:
            answer = f"error {error.code}"
        print(answer, flush=True)
    gateway.stop()


if __name__ == "__main__":
    main()
