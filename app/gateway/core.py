"""The gateway: takes films, and moves each one step further until its results are delivered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from app.errors import ConfigurationError
from app.gateway import overview
from app.gateway.config import (
    Destination,
    GatewayConfig,
    OruDestination,
    StoreDestination,
    StowDestination,
)
from app.gateway.deliver_mllp import MllpSender
from app.gateway.deliver_store import StoreSender
from app.gateway.deliver_stow import StowSender
from app.gateway.deliver_webhook import WebhookSender
from app.gateway.judge import Judge
from app.gateway.outbox import Outbox, Sender
from app.gateway.retention import EVERY_S, sweep
from app.gateway.service_client import ServiceClient
from app.gateway.store import Store
from app.gateway.study import Studies
from app.gateway.values import DeadLetter, Received, Status
from app.gateway.workers import Worker
from app.settings import Settings

log = structlog.get_logger("cxr.gateway")


class Gateway:
    """The whole of it behind one face. Made in any process (status, dead, replay); started in one only.

    Args:
        settings: `state_dir` (the database `gateway.sqlite3`), `secrets_path` (the key ring), `dicom_max_bytes`, `audit_wait_s`.
        config: the gateway's own file.
        now: seconds since 1970.

    Raises:
        ConfigurationError: the database is newer than this software, or not on a local disk.
        RecordsError: the key ring does not open.
        UnavailableError: the database does not.
    """

    def __init__(self, settings: Settings, config: GatewayConfig, now: Callable[[], float] = time.time) -> None:
        self._config, self._now = config, now
        self._store = Store(settings)
        self._studies = Studies(self._store, config, settings.dicom_max_bytes, now)
        self._stopping = threading.Event()
        self._service: ServiceClient | None = None
        self._outboxes: list[Outbox] = []
        self._workers: list[Worker] = []
        self._swept_at = 0.0

    def receive(self, data: bytes, peer: str) -> Received:
        """Take one Part 10 file. When this returns, the film is durable (or known already, or unwanted). Thread-safe.

        Args:
            data: the file as received, meta header included.
            peer: calling AE title; `STOW` for films by STOW-RS.

        Raises:
            ImageError: coded 4xx: `malformed_dicom`, `payload_too_large`, ... Nothing was kept.
            UnavailableError: the store is full, locked or away. Nothing was kept; the sender must try again.
        """
        received = self._studies.take(data, peer)
        self._wake("select")
        return received

    def start(self) -> None:
        """Start the workers.

        Raises:
            ConfigurationError: `gateway_running` where another process has started them; `gateway_secret` for a file of a secret.
        """
        self._store.run_alone()
        self._service = ServiceClient(self._config.service, self._config.objects)
        senders = [(d, _sender(d, self._config, self._now)) for d in self._config.destination]
        judge = Judge(
            self._store,
            self._config,
            self._service,
            now=self._now,
            stopping=self._stopping,
            judged=lambda: self._wake("deliver"),
        )
        self._outboxes = [
            Outbox(self._store, d, sender, now=self._now, stopping=self._stopping) for d, sender in senders
        ]
        steps: list[tuple[str, Callable[[], float]]] = [("select", self._select), ("sweep", self._sweep)]
        steps += [(f"judge-{i}", judge.step) for i in range(self._config.service.concurrency)]
        steps += [
            (f"deliver-{d.name}", box.step) for d, box in zip(self._config.destination, self._outboxes, strict=True)
        ]
        self._workers = [Worker(name, step) for name, step in steps]
        for worker in self._workers:
            worker.start()
        log.info("gateway_started", destinations=len(self._outboxes), objects=",".join(self._config.objects))

    def stop(self, timeout_s: float = 20.0) -> None:
        """End the workers (what they were at goes on at the next start) and close the store. May be called once more."""
        self._stopping.set()
        for worker in self._workers:
            worker.stop()
        until = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        late = sum(worker.is_alive() for worker in self._workers)
        if late:
            log.warning("gateway_workers_left", workers=late)
        for outbox in self._outboxes:
            outbox.close()
        if self._service is not None:
            self._service.close()
        self._workers, self._outboxes, self._service = [], [], None
        self._store.close()

    def status(self) -> Status:
        """One consistent look at the queues."""
        return overview.status(self._store, self._config, self._now())

    def dead(self) -> tuple[DeadLetter, ...]:
        """Dead letters, oldest first."""
        return overview.dead_letters(self._store, self._now())

    def replay(self, ids: Sequence[str] | None = None) -> int:
        """Try dead letters again, those of `ids` or all; how many there were. A running gateway notices within a second.

        Raises:
            RequestError: `not_found`; one of the ids is no dead letter, and nothing was changed.
        """
        return overview.replay(self._store, ids, self._now())

    def _select(self) -> float:
        selected, wait_s = self._studies.select_quiet()
        if selected:
            self._wake("judge")
        return wait_s

    def _sweep(self) -> float:
        if abs(self._now() - self._swept_at) >= EVERY_S:
            sweep(self._store, self._config.study, self._now)
            self._swept_at = self._now()
        return EVERY_S

    def _wake(self, step: str) -> None:
        for worker in self._workers:
            if worker.name.startswith(f"gateway-{step}"):
                worker.wake()


def _sender(destination: Destination, config: GatewayConfig, now: Callable[[], float]) -> Sender:
    if isinstance(destination, StowDestination):
        return StowSender(destination)
    if isinstance(destination, StoreDestination):
        if config.dimse is None:
            raise ConfigurationError("gateway_config", "a destination of kind store needs [dimse]")
        return StoreSender(destination, config.dimse.ae_title)
    if isinstance(destination, OruDestination):
        return MllpSender(destination)
    return WebhookSender(destination, now)
