"""Bundles whose promotion gate failed: they serve only where somebody accepted that by name, and then everywhere and after every start."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.bundle.store import BundleRef, BundleStore
from app.errors import BundleError
from app.live import LiveBundles, acceptance, load_bundle
from app.records import Records
from app.records.history import HistoryRow
from app.settings import Settings
from tests.support.promotions import FAILED, LABEL, PASSED
from tests.support.tiny_bundle import make_tiny_bundle

SOUND = BundleRef("tiny", "1.0.0")
FAILING = BundleRef("tiny", "2.0.0")
Serve = Callable[..., LiveBundles]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BundleStore:
    root = tmp_path_factory.mktemp("bundles")
    make_tiny_bundle(root, version=SOUND.version, fields={"promotion": PASSED}, latest=True)
    make_tiny_bundle(root, version=FAILING.version, fields={"promotion": FAILED})
    return BundleStore(root)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records.open(Settings(state_dir=tmp_path), role="serve")
    yield opened
    opened.close()


@pytest.fixture
def serve(store: BundleStore, records: Records, tmp_path: Path) -> Iterator[Serve]:
    """A process that serves; each has records of its own on one database."""
    started: list[tuple[LiveBundles, Records]] = []

    def start(**options: Any) -> LiveBundles:
        own = Records.open(Settings(state_dir=tmp_path), role="serve")
        bundles = LiveBundles(options.pop("store", store), own, **{"pin": None, "poll_s": 0.02, **options})
        started.append((bundles, own))
        bundles.start()
        return bundles

    yield start
    for bundles, own in started:
        bundles.stop()
        own.close()


def ask(records: Records, store: BundleStore, ref: BundleRef, processes: int, *, accept: bool) -> list[HistoryRow]:
    """Request an activation, as the command does, and wait for every process' outcome."""
    bundle = store.verify(ref)
    request = records.history.request_activation(
        ref, bundle.digest, "dr. admin", reason=acceptance(bundle.manifest) if accept else None
    )
    until = time.monotonic() + 20
    while len(records.history.outcomes(request)) < processes:
        assert time.monotonic() < until, "no outcome"
        time.sleep(0.01)
    return list(records.history.outcomes(request))


def serving(bundles: LiveBundles) -> str:
    assert bundles.current is not None
    return str(bundles.current.ref)


def settled(bundles: LiveBundles, ref: BundleRef) -> bool:
    """The swap follows the outcome."""
    until = time.monotonic() + 5
    while serving(bundles) != str(ref) and time.monotonic() < until:
        time.sleep(0.01)
    return serving(bundles) == str(ref)


def test_a_request_that_accepts_nothing_is_refused_and_the_old_bundle_serves_on(
    serve: Serve, store: BundleStore, records: Records
) -> None:
    bundles = serve()
    (outcome,) = ask(records, store, FAILING, 1, accept=False)
    assert outcome.event == "failed"
    assert outcome.reason is not None
    for words in ("gate_failed", LABEL, "source shortcut, calibration", "--accept-failed-gate"):
        assert words in outcome.reason
    assert serving(bundles) == str(SOUND)


def test_what_was_accepted_serves_in_every_process_after_every_start_and_can_be_left_and_come_back_to(
    serve: Serve, store: BundleStore, records: Records
) -> None:
    first, second = serve(), serve()
    outcomes = ask(records, store, FAILING, 2, accept=True)
    assert [o.event for o in outcomes] == ["activated", "activated"]
    assert settled(first, FAILING)
    assert settled(second, FAILING)
    live = records.history.live()
    assert live is not None
    assert (live.who, live.accepts_failed_gate) == ("dr. admin", True)
    assert live.reason == "failed gate accepted: source shortcut, calibration"
    assert serving(serve()) == str(FAILING)  # a later start follows
    ask(records, store, SOUND, 3, accept=False)
    assert settled(first, SOUND)
    back = records.history.live()
    assert back is not None
    assert not back.accepts_failed_gate
    ask(records, store, FAILING, 3, accept=True)
    assert settled(second, FAILING)
    assert records.verify().problems == []


def test_the_audit_says_who_accepted_which_lines(
    serve: Serve, store: BundleStore, records: Records, tmp_path: Path
) -> None:
    serve()
    ask(records, store, FAILING, 1, accept=True)
    with sqlite3.connect(f"file:{tmp_path / 'cxr.sqlite3'}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT kind, payload FROM audit_events JOIN audit_payloads USING (chain_id, seq) WHERE kind LIKE 'bundle_%'"
        ).fetchall()
    said = {
        kind: json.loads(payload)["bundle_history"]
        for kind, payload in rows
        if json.loads(payload)["bundle_history"]["version"] == FAILING.version
    }
    assert set(said) == {"bundle_requested", "bundle_activated"}
    for section in said.values():
        assert (section["who"], section["reason"]) == (
            "dr. admin",
            "failed gate accepted: source shortcut, calibration",
        )


def test_an_activation_that_nobody_accepted_does_not_survive_a_start(
    serve: Serve, store: BundleStore, records: Records
) -> None:
    """As a service from before promotion policies could have written it."""
    digest = store.verify(FAILING).digest
    records.history.write_outcome("activated", FAILING, digest, who="older service", request=None)
    with pytest.raises(BundleError) as refused:
        serve()
    assert refused.value.code == "gate_failed"


@pytest.fixture
def seeded(tmp_path: Path) -> BundleStore:
    """Whose `latest` names the failing bundle."""
    make_tiny_bundle(tmp_path / "seeded", version=FAILING.version, fields={"promotion": FAILED}, latest=True)
    return BundleStore(tmp_path / "seeded")


def test_the_seed_and_the_pin_need_the_setting(
    serve: Serve, store: BundleStore, seeded: BundleStore, records: Records
) -> None:
    for options in ({"store": seeded}, {"pin": str(FAILING)}):
        with pytest.raises(BundleError) as refused:
            serve(**options)
        assert (refused.value.code, "CXR_ACCEPT_FAILED_GATE" in refused.value.message) == ("gate_failed", True)
    assert records.history.live() is None
    assert serving(serve(pin=str(FAILING), accept_failed_gate=True)) == str(FAILING)
    assert serving(serve(store=seeded, accept_failed_gate=True)) == str(FAILING)
    live = records.history.live()
    assert live is not None
    assert (live.who, live.accepts_failed_gate) == ("first start", True)
    assert serving(serve(store=seeded)) == str(FAILING)  # it was accepted; the history says so


def test_the_setting_accepts_no_request(serve: Serve, store: BundleStore, records: Records) -> None:
    bundles = serve(accept_failed_gate=True)
    (outcome,) = ask(records, store, FAILING, 1, accept=False)
    assert (outcome.event, serving(bundles)) == ("failed", str(SOUND))


def test_a_bundle_that_passed_needs_no_acceptance_and_a_failed_one_is_still_sound(store: BundleStore) -> None:
    assert acceptance(load_bundle(store, SOUND).manifest) is None
    assert load_bundle(store, FAILING).manifest.gate_failed
