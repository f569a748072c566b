"""Films in, results out, with real peers: everything once, whatever is sent twice; nothing personal in clear on the disk."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigurationError, ImageError, RequestError
from app.gateway.config import GatewayConfig
from app.gateway.core import Gateway
from app.gateway.values import Status
from app.settings import Settings
from tests.gateway.conftest import Peers, refused_connections, wait_until
from tests.support.dicom_films import CANARY, dicom_film
from tests.support.gateway_peers import result_uid

ROOT = "1.2.826.0.1.3680043.10.1000"
EVERYWHERE = {"archive": 2, "pacs": 1, "hook": 1, "ris": 1}


@dataclass
class Clock:
    """The real time, and what a test adds to it."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


Start = Callable[[GatewayConfig], Gateway]


@pytest.fixture
def start(settings: Settings, clock: Clock) -> Iterator[Start]:
    started = []

    def start(config: GatewayConfig) -> Gateway:
        started.append(Gateway(settings, config, clock))
        started[-1].start()
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture
def gateway(start: Start, config: GatewayConfig) -> Gateway:
    return start(config)


def film(seed: int, **attributes: Any) -> bytes:
    return dicom_film(seed, size=(64, 64), **attributes)


def film_uid(seed: int) -> str:
    return f"{ROOT}.{seed}.3"


def wait_for(gateway: Gateway, true: Callable[[Status], bool]) -> Status:
    wait_until(lambda: true(gateway.status()))
    return gateway.status()


def delivered(status: Status) -> dict[str, int]:
    return {name: queue.delivered for name, queue in status.queues.items()}


def test_a_film_becomes_one_result_at_every_destination(gateway: Gateway, peers: Peers) -> None:
    received = gateway.receive(film(1), "SENDER")
    assert (received.new, received.ignored, received.sop_instance_uid) == (True, False, film_uid(1))
    status = wait_for(gateway, lambda s: delivered(s) == EVERYWHERE)
    uids = {kind: result_uid(film_uid(1), kind) for kind in ("sr", "sc", "oru")}
    assert peers.stow.times == {uids["sr"]: 1, uids["sc"]: 1}
    assert peers.store.times == {uids["sr"]: 1}
    assert peers.mllp.times == {uids["oru"]: 1}
    assert list(peers.webhook.times.values()) == [1]
    assert status.films == {"judged": 1}
    assert (status.bundle, status.judge_code, status.oldest_s) == ("stand-in/1.0.0", None, 0.0)
    assert peers.stow.headers["Authorization"] == "Bearer stow-token"


def test_a_film_that_is_sent_again_is_judged_again_only_by_another_bundle(gateway: Gateway, peers: Peers) -> None:
    gateway.receive(film(1), "SENDER")
    wait_for(gateway, lambda s: delivered(s) == EVERYWHERE)
    assert gateway.receive(film(1), "SENDER").new
    wait_for(gateway, lambda s: s.films == {"judged": 1})
    assert gateway.receive(film(1, StudyDescription="CORRECTED"), "SENDER").new  # other bytes, the same SOP instance
    wait_for(gateway, lambda s: s.films == {"judged": 2})
    assert sum(peers.service.times.values()) == 1
    peers.service.bundle = "stand-in/2.0.0"
    gateway.receive(film(1), "SENDER")
    status = wait_for(gateway, lambda s: delivered(s) == {name: 2 * n for name, n in EVERYWHERE.items()})
    assert status.bundle == "stand-in/2.0.0"
    assert set(peers.stow.times.values()) == {1}
    assert len(peers.stow.times) == 4


def test_two_files_of_one_sop_instance_make_one_result(gateway: Gateway, peers: Peers) -> None:
    """They are judged one after the other, so that the second meets the first one's row."""
    peers.service.slow_s = 0.3
    peers.service.set("slow")
    gateway.receive(film(1), "SENDER")
    gateway.receive(film(1, StudyDescription="CORRECTED"), "SENDER")
    wait_for(gateway, lambda s: s.films == {"judged": 2} and delivered(s) == EVERYWHERE)
    assert sum(peers.service.times.values()) == 1
    assert set(peers.stow.times.values()) == {1}


def test_a_refusal_is_final_and_delivers_nothing(gateway: Gateway, peers: Peers) -> None:
    gateway.receive(film(1, ViewPosition="LL"), "SENDER")
    status = wait_for(gateway, lambda s: s.films == {"refused": 1})
    assert status.refusals == {"lateral_view": 1}
    assert gateway.dead() == ()
    assert peers.stow.times == {}


def test_a_result_of_ours_that_comes_back_is_ignored(gateway: Gateway, peers: Peers) -> None:
    """An archive that forwards everything it gets sends our secondary captures back; judging them would never end."""
    gateway.receive(film(1), "SENDER")
    wait_for(gateway, lambda s: delivered(s) == EVERYWHERE)
    ours = film(1, SOPInstanceUID=result_uid(film_uid(1), "sc"))
    assert gateway.receive(ours, "ARCHIVE").ignored
    assert gateway.status().films == {"judged": 1, "ignored": 1}


def test_an_unwanted_film_and_one_that_is_none(gateway: Gateway) -> None:
    assert gateway.receive(film(1, Modality="CT"), "SENDER").ignored
    with pytest.raises(ImageError):
        gateway.receive(b"no film", "SENDER")
    assert gateway.status().films == {"ignored": 1}


def test_a_message_that_cannot_be_delivered_is_a_dead_letter_until_it_is_replayed(
    gateway: Gateway, peers: Peers
) -> None:
    peers.stow.set("4xx")
    peers.mllp.set("4xx")
    gateway.receive(film(1), "SENDER")
    wait_for(
        gateway, lambda s: (s.queues["archive"].dead, s.queues["ris"].dead, s.queues["pacs"].delivered) == (2, 1, 1)
    )
    letters = gateway.dead()
    assert {(letter.destination, letter.kind, letter.code, letter.attempts) for letter in letters} == {
        ("archive", "sr", "http_403", 1),
        ("archive", "sc", "http_403", 1),
        ("ris", "oru", "hl7_ar", 1),
    }
    assert gateway.status().queues["archive"].code == "http_403"
    with pytest.raises(RequestError):
        gateway.replay(["delivery-9999"])
    peers.stow.set("ok")
    peers.mllp.set("ok")
    assert gateway.replay([letters[0].id]) == 1
    wait_until(lambda: len(gateway.dead()) == 2)
    assert gateway.replay() == 2
    wait_for(gateway, lambda s: delivered(s) == EVERYWHERE)
    assert set(peers.stow.times.values()) == {1}


@pytest.fixture
def few_tries(config: GatewayConfig) -> GatewayConfig:
    retry = {"first_s": 0.01, "max_s": 0.05, "attempts": 3}
    data = config.model_dump()
    data["service"]["retry"] = retry
    for destination in data["destination"]:
        destination["retry"] = retry
    return GatewayConfig.model_validate(data)


def test_tries_end_where_a_target_never_takes_it(start: Start, few_tries: GatewayConfig, peers: Peers) -> None:
    peers.stow.set("500")
    gateway = start(few_tries)
    gateway.receive(film(1), "SENDER")
    wait_for(gateway, lambda s: s.queues["archive"].dead == 2)
    assert {(letter.code, letter.attempts) for letter in gateway.dead()} == {("http_500", 3)}
    assert peers.stow.tries == 6
    assert gateway.replay() == 2  # with all tries before them
    wait_until(lambda: peers.stow.tries == 12)
    wait_for(gateway, lambda s: s.queues["archive"].dead == 2)
    assert peers.stow.tries == 12


@refused_connections
def test_a_target_that_cannot_be_reached_uses_up_no_tries(start: Start, few_tries: GatewayConfig, peers: Peers) -> None:
    peers.stow.set("down")
    peers.store.set("down")
    peers.mllp.set("down")
    gateway = start(few_tries)
    gateway.receive(film(1), "SENDER")
    codes = {"archive": "unreachable", "pacs": "no_association", "hook": None, "ris": "unreachable"}
    wait_for(gateway, lambda s: {name: queue.code for name, queue in s.queues.items()} == codes)
    time.sleep(1.0)  # a dozen tries
    assert gateway.dead() == ()
    for peer in peers.targets:
        peer.set("ok")
    wait_for(gateway, lambda s: delivered(s) == EVERYWHERE)


def test_a_message_on_which_the_target_dies_does_not_hold_up_the_others_for_ever(
    start: Start, few_tries: GatewayConfig, peers: Peers
) -> None:
    peers.mllp.poison = result_uid(film_uid(1), "oru")
    gateway = start(few_tries)
    gateway.receive(film(1), "SENDER")
    wait_for(gateway, lambda s: s.queues["ris"].code == "broken_connection")
    gateway.receive(film(2), "SENDER")
    wait_for(gateway, lambda s: (s.queues["ris"].dead, s.queues["ris"].delivered) == (1, 1))


def test_such_a_message_lets_the_others_pass_long_before_its_tries_end(
    start: Start, config: GatewayConfig, peers: Peers
) -> None:
    peers.mllp.poison = result_uid(film_uid(1), "oru")
    gateway = start(config)  # 200 tries
    gateway.receive(film(1), "SENDER")
    wait_for(gateway, lambda s: s.queues["ris"].code == "broken_connection")
    gateway.receive(film(2), "SENDER")
    wait_for(gateway, lambda s: (s.queues["ris"].dead, s.queues["ris"].delivered) == (0, 1))
    peers.mllp.poison = ""
    wait_for(gateway, lambda s: s.queues["ris"].delivered == 2)


def test_a_film_on_which_the_service_fails_is_a_dead_letter_and_holds_up_no_other(
    start: Start, few_tries: GatewayConfig, peers: Peers
) -> None:
    gateway = start(few_tries)
    peers.service.poison = film_uid(1)
    gateway.receive(film(1), "SENDER")
    gateway.receive(film(2), "SENDER")
    status = wait_for(gateway, lambda s: s.films == {"failed": 1, "judged": 1})
    assert status.judge_code == "internal_error"
    assert [(letter.id[:5], letter.code, letter.attempts) for letter in gateway.dead()] == [
        ("film-", "internal_error", 3)
    ]
    peers.service.poison = ""
    assert gateway.replay() == 1
    wait_for(gateway, lambda s: s.films == {"judged": 2})


@pytest.mark.parametrize("fault", ["key", "bundle", "away"])
def test_a_service_that_is_away_or_not_set_up_is_waited_for(
    start: Start, few_tries: GatewayConfig, peers: Peers, fault: str
) -> None:
    """However often: three tries would be over long before."""
    peers.service.key = "another" if fault == "key" else peers.service.key
    peers.service.bundle = "" if fault == "bundle" else peers.service.bundle
    peers.service.set("down" if fault == "away" else "ok")
    gateway = start(few_tries)
    gateway.receive(film(1), "SENDER")
    codes = {"key": "unauthenticated", "bundle": "not_ready", "away": "service_unreachable"}
    wait_for(gateway, lambda s: s.judge_code == codes[fault])
    time.sleep(0.5)
    assert gateway.status().films == {"selected": 1}
    assert gateway.status().oldest_s > 0.4
    peers.service.key, peers.service.bundle = "cxr_test_key", "stand-in/1.0.0"
    peers.service.set("ok")
    wait_for(gateway, lambda s: s.films == {"judged": 1})


def test_what_is_too_old_is_deleted(gateway: Gateway, peers: Peers, clock: Clock, settings: Settings) -> None:
    peers.service.set("down")
    peers.stow.set("down")
    gateway.receive(film(1), "SENDER")
    clock.ahead_s += 71 * 3_600
    peers.service.set("ok")
    wait_for(gateway, lambda s: s.films == {"judged": 1})
    gateway.receive(film(2), "SENDER")
    peers.service.set("down")
    clock.ahead_s += 73 * 3_600
    status = wait_for(gateway, lambda s: s.queues["archive"].pending == 0)
    assert status.queues["archive"].delivered == 0
    clock.ahead_s += 100 * 86_400
    wait_for(gateway, lambda s: s.films == {})


def test_one_gateway_works_and_others_may_look(gateway: Gateway, settings: Settings, config: GatewayConfig) -> None:
    other = Gateway(settings, config)
    with pytest.raises(ConfigurationError) as refusal:
        other.start()
    assert refusal.value.code == "gateway_running"
    gateway.receive(film(1), "SENDER")
    wait_for(other, lambda s: s.films == {"judged": 1})
    other.stop()


def test_a_missing_secret_stops_the_start(settings: Settings, config: GatewayConfig, tmp_path: Path) -> None:
    (tmp_path / "secret").unlink()
    gateway = Gateway(settings, config)
    with pytest.raises(ConfigurationError) as refusal:
        gateway.start()
    assert refusal.value.code == "gateway_secret"
    gateway.stop()


def test_no_identifier_lies_in_clear_on_the_disk_or_in_the_log(
    settings: Settings, start: Start, config: GatewayConfig, peers: Peers, capfd: pytest.CaptureFixture[str]
) -> None:
    """While everything is still there: films that wait, results that wait, results that were delivered."""
    peers.stow.set("down")
    peers.mllp.set("500")
    gateway = start(config)
    gateway.receive(film(1), "SENDER")
    wait_for(gateway, lambda s: s.queues["pacs"].delivered == 1 and s.queues["ris"].code is not None)
    peers.service.set("down")
    gateway.receive(film(2), "SENDER")
    wait_for(gateway, lambda s: s.judge_code is not None)
    on_disk = b"".join(path.read_bytes() for path in settings.state_dir.rglob("*") if path.is_file())
    gateway.stop()
    on_disk += b"".join(path.read_bytes() for path in settings.state_dir.rglob("*") if path.is_file())
    assert len(on_disk) > 20_000
    told = "".join(capfd.readouterr()) + str(gateway)
    for word in (CANARY, film_uid(1), film_uid(2), f"{ROOT}.1.1", result_uid(film_uid(1), "sr")):
        assert word.encode() not in on_disk
        assert base64.b64encode(word.encode())[:16] not in on_disk
        assert word not in told
