from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from app.errors import RecordsError
from app.records.keyring import PURPOSES, KeyRing, Mac


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keyring.json"


def _code(path: Path, *, create: bool = False) -> str:
    with pytest.raises(RecordsError) as caught:
        KeyRing.open(path, create=create)
    return caught.value.code


def test_a_ring_is_made_once_and_private(path: Path) -> None:
    first = KeyRing.open(path, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    again = KeyRing.open(path, create=True)
    mac = first.mac("audit_mac", b"x")
    assert again.check("audit_mac", b"x", mac)
    assert [p.name for p in path.parent.iterdir()] == ["keyring.json"]


def test_hmac_sha_256_of_a_known_key(path: Path) -> None:
    """RFC 4231's algorithm; the digest was computed with `openssl dgst -sha256 -mac HMAC -macopt hexkey:00...00`."""
    KeyRing.open(path, create=True)
    document = json.loads(path.read_text())
    document["purposes"]["audit_mac"] = {"current": "k", "keys": {"k": base64.b64encode(bytes(32)).decode()}}
    path.write_text(json.dumps(document))
    mac = KeyRing.open(path, create=False).mac("audit_mac", b"chain")
    assert str(mac) == "k:5c0f523fbb192cfdfcab072e09820ea433958c802ffc20eaea0be17258520141"


def test_purposes_do_not_share_keys(path: Path) -> None:
    ring = KeyRing.open(path, create=True)
    assert len({ring.mac(purpose, b"x").digest for purpose in PURPOSES}) == len(PURPOSES)
    assert not ring.check("pepper", b"x", ring.mac("audit_mac", b"x"))


def test_a_missing_ring_is_not_replaced(path: Path) -> None:
    assert _code(path) == "keyring_missing"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_ring_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    KeyRing.open(path, create=True)
    path.chmod(mode)
    assert _code(path, create=True) == "keyring_permissions"


def _damage(document: dict[str, Any], how: str) -> object:
    if how == "version":
        document["schema_version"] = 2
    elif how == "purpose missing":
        del document["purposes"]["seal"]
    elif how == "current missing":
        document["purposes"]["pepper"]["current"] = "nobody"
    elif how == "short key":
        document["purposes"]["pepper"]["keys"] = dict.fromkeys(document["purposes"]["pepper"]["keys"], "AAAA")
    elif how == "not base64":
        document["purposes"]["pepper"]["keys"] = dict.fromkeys(document["purposes"]["pepper"]["keys"], "*")
    else:
        return []
    return document


@pytest.mark.parametrize("how", ["version", "purpose missing", "current missing", "short key", "not base64", "list"])
def test_a_damaged_ring_is_refused(path: Path, how: str) -> None:
    KeyRing.open(path, create=True)
    path.write_text(json.dumps(_damage(json.loads(path.read_text()), how)))
    assert _code(path) == "keyring_unreadable"


def test_a_ring_of_garbage_is_refused(path: Path) -> None:
    KeyRing.open(path, create=True)
    path.write_bytes(b"\xff\x00")
    assert _code(path) == "keyring_unreadable"


def test_rotation_keeps_what_verifies_old_records(path: Path) -> None:
    ring = KeyRing.open(path, create=True)
    old = ring.mac("audit_mac", b"x")
    rotated = ring.rotate("audit_mac")
    new = rotated.mac("audit_mac", b"x")
    assert new.key_id != old.key_id
    reopened = KeyRing.open(path, create=False)
    assert reopened.check("audit_mac", b"x", old)
    assert reopened.check("audit_mac", b"x", new)
    assert not ring.knows("audit_mac", new.key_id)
    assert reopened.mac("pepper", b"x") == ring.mac("pepper", b"x")


def test_two_rotations_from_the_same_ring_both_stay(path: Path) -> None:
    ring = KeyRing.open(path, create=True)
    first, second = ring.rotate("pepper").mac("pepper", b"x"), ring.rotate("pepper").mac("pepper", b"x")
    reopened = KeyRing.open(path, create=False)
    assert reopened.check("pepper", b"x", first)
    assert reopened.check("pepper", b"x", second)


def test_processes_that_start_together_agree_on_one_ring(path: Path) -> None:
    start = threading.Barrier(8)
    macs: list[Mac] = []

    def open_() -> None:
        start.wait()
        macs.append(KeyRing.open(path, create=True).mac("audit_mac", b"x"))

    threads = [threading.Thread(target=open_) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(macs)) == 1
    assert len(macs) == 8


def test_a_pseudonym_is_stable_and_keyed(path: Path, tmp_path: Path) -> None:
    ring = KeyRing.open(path, create=True)
    other = KeyRing.open(tmp_path / "other" / "keyring.json", create=True)
    assert ring.pseudonym("PATIENT 1") == ring.pseudonym("PATIENT 1")
    assert ring.pseudonym("PATIENT 1") != ring.pseudonym("PATIENT 2")
    assert ring.pseudonym("PATIENT 1").partition(":")[2] != other.pseudonym("PATIENT 1").partition(":")[2]


@pytest.mark.parametrize("mac", [Mac("unknown", "0" * 64), Mac("", ""), Mac("k", "é" * 64)])
def test_a_foreign_mac_does_not_fit(path: Path, mac: Mac) -> None:
    assert not KeyRing.open(path, create=True).check("audit_mac", b"x", mac)


def test_secrets_are_not_in_any_repr(path: Path) -> None:
    ring = KeyRing.open(path, create=True)
    keys = [base64.b64decode(k) for p in json.loads(path.read_text())["purposes"].values() for k in p["keys"].values()]
    assert not any(repr(key)[2:-1] in repr(ring) + repr(vars(ring)) for key in keys)
