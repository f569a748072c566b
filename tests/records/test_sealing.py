from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RecordsError
from app.records import sealing
from app.records.keyring import KEY_BYTES, KeyRing

CONTEXT = b"films/17"
FILM = b"CANARY^PATIENT" * 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keyring.json"


@pytest.fixture
def ring(path: Path) -> KeyRing:
    return KeyRing.open(path, create=True)


def _refused(ring: KeyRing, blob: bytes, context: bytes = CONTEXT) -> None:
    with pytest.raises(RecordsError) as caught:
        ring.unseal(blob, context)
    assert caught.value.code == "sealed_blob_damaged"
    assert "CANARY" not in str(caught.value)


def test_what_was_sealed_comes_back_and_cannot_be_read(ring: KeyRing) -> None:
    blob = ring.seal(FILM, CONTEXT)
    assert ring.unseal(blob, CONTEXT) == FILM
    assert b"CANARY" not in blob
    assert CONTEXT not in blob


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_every_data_and_context(data: bytes, context: bytes) -> None:
    key = bytes(range(KEY_BYTES))
    assert sealing.unseal(key, sealing.seal("k", key, data, context), context) == data


def test_no_two_blobs_are_alike(ring: KeyRing) -> None:
    """A nonce that repeats would give the key stream away."""
    assert len({ring.seal(FILM, CONTEXT) for _ in range(100)}) == 100


def test_the_form_of_a_blob() -> None:
    """Version 1 as written in the module; opened here by the library alone."""
    key = bytes(range(KEY_BYTES))
    blob = sealing.seal("cafe0123", key, FILM, CONTEXT)
    assert blob[:10] == b"\x01\x08cafe0123"
    assert AESGCM(key).decrypt(blob[10:22], blob[22:], blob[:10] + CONTEXT) == FILM
    assert len(blob) == 10 + sealing.NONCE_BYTES + len(FILM) + sealing.TAG_BYTES


def test_each_changed_bit_is_noticed(ring: KeyRing) -> None:
    blob = ring.seal(b"film", CONTEXT)
    for place in range(len(blob)):
        for bit in range(8):
            changed = bytearray(blob)
            changed[place] ^= 1 << bit
            _refused(ring, bytes(changed))


def test_each_cut_is_noticed(ring: KeyRing) -> None:
    blob = ring.seal(b"film", CONTEXT)
    for length in range(len(blob)):
        _refused(ring, blob[:length])
    _refused(ring, blob + b"\0")


def test_a_blob_in_another_place_does_not_open(ring: KeyRing) -> None:
    _refused(ring, ring.seal(FILM, b"films/16"))
    _refused(ring, ring.seal(FILM, b""))


def test_old_blobs_open_after_a_rotation(ring: KeyRing, path: Path) -> None:
    old = ring.seal(FILM, CONTEXT)
    rotated = ring.rotate("seal")
    new = rotated.seal(FILM, CONTEXT)
    assert sealing.key_id_of(new) == rotated.current("seal") != sealing.key_id_of(old)
    reopened = KeyRing.open(path, create=False)
    assert reopened.unseal(old, CONTEXT) == reopened.unseal(new, CONTEXT) == FILM
    _refused(ring, new)  # a process that opened the ring before knows no such key


def test_another_ring_does_not_open_it(ring: KeyRing, tmp_path: Path) -> None:
    _refused(KeyRing.open(tmp_path / "other" / "keyring.json", create=True), ring.seal(FILM, CONTEXT))


def test_only_the_purpose_seal_is_used(ring: KeyRing, path: Path) -> None:
    assert sealing.key_id_of(ring.seal(FILM, CONTEXT)) == json.loads(path.read_text())["purposes"]["seal"]["current"]
