"""`cxr gateway` as an operator runs it: the process, its queues, and what it says of a configuration that is wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.gateway.config import GatewayConfig
from tests.support.dicom_films import CANARY, dicom_film
from tests.support.gateway_peers import API_KEY, ServicePeer, StowPeer
from tests.support.gateway_process import GatewayProcess, gateway

SHIPPED = Path(__file__).resolve().parents[2] / "deploy/orthanc/gateway.toml"


@pytest.fixture
def service() -> Iterator[ServicePeer]:
    peer = ServicePeer()
    peer.set("ok")
    yield peer
    peer.close()


@pytest.fixture
def archive() -> Iterator[StowPeer]:
    peer = StowPeer()
    peer.set("ok")
    yield peer
    peer.close()


@pytest.fixture
def process(service: ServicePeer, archive: StowPeer, tmp_path: Path) -> Iterator[GatewayProcess]:
    destination = {"name": "archive", "kind": "stow", "url": f"{archive.url}/studies", "objects": ["sr"]}
    with gateway(
        tmp_path, service_port=service.port, service_key=API_KEY, destinations=[destination], peers=["MODALITY"]
    ) as made:
        yield made


def wait_for(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)


def store(process: GatewayProcess, film: bytes, folder: Path) -> None:
    from pynetdicom import AE

    path = folder / "film.dcm"
    path.write_bytes(film)
    entity = AE("MODALITY")
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.1")
    association = entity.associate("127.0.0.1", process.dicom_port, ae_title="CXRTRIAGE")
    assert association.send_c_store(path).Status == 0
    association.release()


def test_a_dead_letter_is_shown_and_sent_again(process: GatewayProcess, archive: StowPeer, tmp_path: Path) -> None:
    archive.set("4xx")  # an error that cannot heal by itself
    process.start()
    store(process, dicom_film(1, size=(160, 140)), tmp_path)
    wait_for(lambda: process.cxr("dead").stdout != "")
    (line,) = process.cxr("dead").stdout.splitlines()
    found = re.fullmatch(r"(delivery-\d+)  archive  sr  (\w+)  1  \d+", line)
    assert found, line
    status = process.cxr("status").stdout
    assert "films: 1 judged" in status
    assert "archive: 0 pending (oldest 0 s), 0 delivered, 1 dead" in status
    archive.set("ok")
    wrong = process.cxr("replay", "delivery-4711")
    assert (wrong.returncode, wrong.stderr.split()[:2]) == (1, ["cxr:", "not_found:"])
    assert process.cxr("replay", found[1]).stderr.splitlines()[-1] == "1 replayed"
    wait_for(lambda: len(archive.times) == 1)
    wait_for(lambda: "1 delivered, 0 dead" in process.cxr("status").stdout)
    assert process.cxr("replay", "--all").stderr.splitlines()[-1] == "0 replayed"
    assert process.cxr("replay").returncode == 2
    assert process.cxr("replay", "--all", found[1]).returncode == 2
    assert process.stop(signal.SIGTERM) == 0
    log = process.log()
    assert "gateway_stopped" in log
    assert CANARY not in log
    assert "HTTP Request" not in log  # a library's line with the whole address


def test_a_second_gateway_on_the_same_state_does_not_start(process: GatewayProcess, tmp_path: Path) -> None:
    process.start()
    other = process.cxr("run")
    assert (other.returncode, other.stderr.splitlines()[-1].split(":")[:2]) == (1, ["cxr", " gateway_running"])


def test_a_port_that_is_taken_ends_it(process: GatewayProcess) -> None:
    with socket.create_server(("127.0.0.1", process.dicom_port)):
        ended = process.cxr("run")
    assert ended.returncode == 1
    assert "in use" in ended.stderr.splitlines()[-1]


def test_interrupt_is_a_stop_as_well(process: GatewayProcess) -> None:
    process.start()
    assert process.stop(signal.SIGINT) == 0


def test_without_stow_it_runs_and_stops(process: GatewayProcess) -> None:
    path = process.folder / "gateway.toml"
    text = path.read_text()
    path.write_text(text[: text.index("[stow]")] + text[text.index("[service]") :])
    process.http_port = process.dicom_port
    process.start()
    assert process.stop() == 0


def test_check_config_says_what_a_sound_file_comes_to(process: GatewayProcess) -> None:
    done = process.cxr("check-config")
    assert (done.returncode, done.stdout) == (
        0,
        "sound: 1 peers, 1 selection rules, destinations archive (stow: sr)\n",
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("quiet_s = 0.3", "quiet_s = 0.3\nquiets = 1"), "study.quiets"),
        (('ae_title = "CXRTRIAGE"', 'ae_title = "MORE THAN SIXTEEN"'), "dimse.ae_title"),
        (('name = "archive"', 'name = "archive"\nsecret = "' + CANARY + '"'), "secret"),
        (("key_file", "key_files"), "service.key_file"),
        (("[dimse]", "[dimse"), "not TOML"),
    ],
)
def test_what_is_wrong_is_named_and_its_value_is_not(
    process: GatewayProcess, change: tuple[str, str], says: str
) -> None:
    path = process.folder / "gateway.toml"
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    done = process.cxr("check-config")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("cxr: gateway_config: ")
    assert says in line
    assert CANARY not in line


def test_a_secret_that_is_not_there(process: GatewayProcess) -> None:
    (process.folder / "token").unlink()
    for command in ("check-config", "run"):
        done = process.cxr(command)
        assert (done.returncode, done.stderr.startswith("cxr: gateway_secret: ")) == (1, True)


def test_without_a_file_it_says_how_to_name_one(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CXR_")}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "gateway", "status"],
        env=clean | {"CXR_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "CXR_GATEWAY_CONFIG" in done.stderr) == (1, True)


def test_an_error_in_a_thread_is_named_without_its_text() -> None:
    """A library's thread that dies would print what it died of, which may quote a film."""
    program = (
        "import threading\n"
        "from app.cli import gateway\n"
        "threading.excepthook = gateway.say_only_what_kind\n"
        f"def die(): raise ValueError('{CANARY}')\n"
        "thread = threading.Thread(target=die, name='reader')\n"
        "thread.start()\n"
        "thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    written = done.stdout + done.stderr
    assert "thread_died" in written
    assert "ValueError" in written
    assert CANARY not in written


def test_the_shipped_example_is_sound() -> None:
    config = GatewayConfig.load(SHIPPED)
    assert config.objects == ("sr", "sc")
    assert config.dimse is not None
    assert [peer.ae for peer in config.dimse.peers] == ["ORTHANC", "MODALITY"]


def test_the_other_commands_need_none_of_the_gateways_libraries() -> None:
    """They are an extra: `cxr serve` works where only the service is installed."""
    program = "import sys, app.cli.main; print(sorted(set(sys.modules) & {'pynetdicom', 'httpx', 'app.gateway'}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pynetdicom'] = None\n"
        "from app.cli.main import main\n"
        "sys.argv = ['cxr', 'gateway', 'check-config']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"CXR_STATE_DIR": str(tmp_path), "CXR_GATEWAY_CONFIG": str(SHIPPED)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("cxr: missing_extra: install cxr-triage[dimse]")


def test_the_help_names_the_sections_of_the_file() -> None:
    """A name in brackets is markup to the library that prints the help, unless it is told otherwise."""
    command = [sys.executable, "-m", "app.cli", "gateway", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    sections = set(GatewayConfig.model_fields)
    assert {s for s in sections if f"[{s}]" in told} == sections
