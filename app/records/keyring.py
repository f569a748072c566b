"""The key ring: every secret of the records, in one file outside the database.

`keyring.json` (mode 0600, in `CXR_SECRETS_DIR`) holds for each purpose its keys by id and which one is current. Rotation adds a
key and keeps the old ones, since they verify what they signed. Format version 1; to change it: raise `SCHEMA_VERSION`, read the
old form in a function of its own, test on a file of the old form.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from app.errors import RecordsError
from app.records import sealing
from app.records.chain import canonical

SCHEMA_VERSION = 1
KEY_BYTES = 32
Purpose = Literal["audit_mac", "pseudonym", "pepper", "seal"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


@dataclass(frozen=True)
class Mac:
    """A message authentication code: which key of the ring, and the HMAC-SHA-256 as hex."""

    key_id: str
    digest: str

    def __str__(self) -> str:
        return f"{self.key_id}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Mac:
        key_id, _, digest = text.partition(":")
        return cls(key_id, digest)


@dataclass(frozen=True)
class _Keys:
    current: str
    by_id: Mapping[str, bytes] = field(repr=False)

    @cached_property
    def _begun(self) -> Mapping[str, hmac.HMAC]:
        """By id, an HMAC that has taken in its key and nothing else.

        Copies of it are three times quicker than `hmac.digest`, and for short data do not give the interpreter's lock away, for which a
        thread beside busy workers would then have to wait.
        """
        return {key_id: hmac.new(key, digestmod="sha256") for key_id, key in self.by_id.items()}

    def hmac(self, key_id: str, data: bytes) -> str:
        """HMAC-SHA-256 (FIPS 198-1), hex. Raises KeyError for an unknown key."""
        mac = self._begun[key_id].copy()
        mac.update(data)
        return mac.hexdigest()


class KeyRing:
    """Immutable view of the ring file; `rotate` writes the file anew and returns a new ring."""

    def __init__(self, path: Path, keys: Mapping[Purpose, _Keys]) -> None:
        self._path = path
        self._keys = MappingProxyType(dict(keys))

    @classmethod
    def open(cls, path: Path, *, create: bool) -> KeyRing:
        """Read the ring; make a new one when there is none and `create` says that nothing was ever signed.

        Raises:
            RecordsError: keyring_missing, keyring_permissions (others may read it), keyring_unreadable, keyring_unwritable.
        """
        if create and not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _only_writer(path.parent):
                if not path.exists():  # else another process was first
                    _write(path, {purpose: _with_new_key(None) for purpose in PURPOSES})
        return cls(path, _read(path))

    def mac(self, purpose: Purpose, data: bytes) -> Mac:
        """HMAC-SHA-256 with the purpose's current key."""
        keys = self._keys[purpose]
        return Mac(keys.current, keys.hmac(keys.current, data))

    def check(self, purpose: Purpose, data: bytes, mac: Mac) -> bool:
        """True when the MAC was made by a key of this ring over these bytes; constant time in the digest."""
        keys = self._keys[purpose]
        if mac.key_id not in keys.by_id or not mac.digest.isascii():
            return False
        return hmac.compare_digest(keys.hmac(mac.key_id, data), mac.digest)

    def current(self, purpose: Purpose) -> str:
        """The id of the key that `mac` uses."""
        return self._keys[purpose].current

    def knows(self, purpose: Purpose, key_id: str) -> bool:
        return key_id in self._keys[purpose].by_id

    def pseudonym(self, text: str) -> str:
        """A stable pseudonym of an identifier, `<key id>:<hex>`; not reversible without the ring."""
        return str(self.mac("pseudonym", _bytes(text)))

    def pseudonyms(self, text: str) -> tuple[str, ...]:
        """The pseudonyms of an identifier by every key there ever was, for looking it up after a rotation."""
        data, keys = _bytes(text), self._keys["pseudonym"]
        return tuple(str(Mac(key_id, keys.hmac(key_id, data))) for key_id in keys.by_id)

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Encrypt and authenticate with the current `seal` key, so that the blob may lie where others can read it.

        Args:
            context: where the blob belongs (its table and row, say); not kept in it, and the same one opens it. A blob that is put
                in another's place therefore does not open.
        """
        keys = self._keys["seal"]
        return sealing.seal(keys.current, keys.by_id[keys.current], data, context)

    def unseal(self, blob: bytes, context: bytes) -> bytes:
        """What was sealed, by whichever key of this ring sealed it.

        Raises:
            RecordsError: sealed_blob_damaged, it was changed, cut or exchanged, or its key is not in this ring.
        """
        key = self._keys["seal"].by_id.get(sealing.key_id_of(blob))
        if key is None:
            raise sealing.damaged("the key ring has no key for it")
        return sealing.unseal(key, blob, context)

    def rotate(self, purpose: Purpose) -> KeyRing:
        """Add a key and make it current; older ones stay for checking. Running processes keep the ring they opened."""
        with _only_writer(self._path.parent):
            keys = _read(self._path)
            keys[purpose] = _with_new_key(keys[purpose])
            _write(self._path, keys)
        return KeyRing(self._path, keys)


def _bytes(text: str) -> bytes:
    """UTF-8; a header that was decoded with the wrong character set may hold what UTF-8 cannot (lone surrogates)."""
    return text.encode("utf-8", "surrogatepass")


def _with_new_key(keys: _Keys | None) -> _Keys:
    key_id = secrets.token_hex(4)
    old = keys.by_id if keys else {}
    return _Keys(key_id, {**old, key_id: secrets.token_bytes(KEY_BYTES)})


def _read(path: Path) -> dict[Purpose, _Keys]:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except FileNotFoundError:
        raise RecordsError(
            "keyring_missing",
            f"there is no key ring at {path}; nothing recorded can be checked or continued without it: restore its backup",
        ) from None
    except OSError as error:
        raise RecordsError("keyring_unreadable", f"the key ring {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RecordsError("keyring_permissions", f"the key ring {path} has mode {mode:04o}; make it 0600")
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> dict[Purpose, _Keys]:
    try:
        return _parse_document(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordsError("keyring_unreadable", f"the key ring {path} is damaged: {error}") from error


def _parse_document(document: Any) -> dict[Purpose, _Keys]:
    version = document["schema_version"]
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {version!r}, this code reads {SCHEMA_VERSION}")
    if set(document) != {"schema_version", "purposes"} or set(document["purposes"]) != set(PURPOSES):
        raise ValueError(f"expected exactly the purposes {', '.join(PURPOSES)}")
    return {purpose: _parse_keys(document["purposes"][purpose]) for purpose in PURPOSES}


def _parse_keys(entry: Mapping[str, object]) -> _Keys:
    current, encoded = entry["current"], entry["keys"]
    if not isinstance(current, str) or not isinstance(encoded, dict) or current not in encoded:
        raise ValueError("a purpose must name its current key among its keys")
    keys = {str(key_id): base64.b64decode(text, validate=True) for key_id, text in encoded.items()}
    if any(len(key) != KEY_BYTES for key in keys.values()):
        raise ValueError(f"a key must have {KEY_BYTES} bytes")
    return _Keys(current, keys)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """One process at a time; what was written is durable afterwards, its name included."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RecordsError("keyring_unwritable", f"the key ring cannot be written in {folder}: {error}") from error


def _write(path: Path, keys: Mapping[Purpose, _Keys]) -> None:
    """Replace the file by a whole new one."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "purposes": {
            purpose: {
                "current": k.current,
                "keys": {key_id: base64.b64encode(key).decode() for key_id, key in k.by_id.items()},
            }
            for purpose, k in keys.items()
        },
    }
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(canonical(document))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
