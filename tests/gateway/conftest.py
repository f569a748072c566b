"""A gateway between small real peers, on a state folder of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.gateway.config import GatewayConfig
from app.settings import Settings
from tests.support.gateway_peers import (
    API_KEY,
    MllpPeer,
    Peer,
    ServicePeer,
    StorePeer,
    StowPeer,
    WebhookPeer,
)

WEBHOOK_SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


@dataclass
class Peers:
    """Everybody around the gateway; all answer well at first."""

    service: ServicePeer = field(default_factory=ServicePeer)
    stow: StowPeer = field(default_factory=StowPeer)
    store: StorePeer = field(default_factory=StorePeer)
    webhook: WebhookPeer = field(default_factory=WebhookPeer)
    mllp: MllpPeer = field(default_factory=MllpPeer)

    @property
    def all(self) -> tuple[Peer, ...]:
        return (self.service, *self.targets)

    @property
    def targets(self) -> tuple[Peer, ...]:
        return (self.stow, self.store, self.webhook, self.mllp)


@pytest.fixture
def peers() -> Iterator[Peers]:
    peers = Peers()
    for peer in peers.all:
        peer.set("ok")
    yield peers
    for peer in peers.all:
        peer.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", audit_wait_s=1.0)


# pynetdicom 3.0.4 leaves the socket of a refused connection to the garbage collector
refused_connections = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

RETRY = "retry = { first_s = 0.05, max_s = 0.3, attempts = 200 }"


@pytest.fixture
def config_file(tmp_path: Path, peers: Peers) -> Path:
    """All four kinds of destination; quick to give up a silence, quick to try again."""
    (tmp_path / "key").write_text(API_KEY + "\n")
    (tmp_path / "secret").write_text(WEBHOOK_SECRET + "\n")
    (tmp_path / "token").write_text("stow-token\n")
    path = tmp_path / "gateway.toml"
    path.write_text(f"""
        [dimse]
        ae_title = "CXRTRIAGE"
        [service]
        url = "{peers.service.url}"
        key_file = "{tmp_path}/key"
        timeout_s = 2.0
        {RETRY}
        [study]
        quiet_s = 0.1
        [[select]]
        action = "judge"
        modality = ["CR", "DX"]
        [[destination]]
        name = "archive"
        kind = "stow"
        url = "{peers.stow.url}/dicom-web/studies"
        token_file = "{tmp_path}/token"
        objects = ["sr", "sc"]
        timeout_s = 2.0
        {RETRY}
        [[destination]]
        name = "pacs"
        kind = "store"
        host = "127.0.0.1"
        port = {peers.store.port}
        ae = "PEER"
        objects = ["sr"]
        timeout_s = 2.0
        {RETRY}
        [[destination]]
        name = "hook"
        kind = "webhook"
        url = "{peers.webhook.url}/hook"
        secret_file = "{tmp_path}/secret"
        timeout_s = 2.0
        {RETRY}
        [[destination]]
        name = "ris"
        kind = "oru"
        host = "127.0.0.1"
        port = {peers.mllp.port}
        timeout_s = 2.0
        {RETRY}
        """)
    return path


@pytest.fixture
def config(config_file: Path) -> GatewayConfig:
    return GatewayConfig.load(config_file)


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return as soon as it is true; fail if it never is."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
