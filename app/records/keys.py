"""API keys: made, revoked, listed, imported. What a key is stored as, and who may be whom.

A key's row holds `HMAC-SHA-256(pepper, [id, role, secret])`, so that a row whose role or id was changed fits no secret. Rows are
projections of audited events; a revocation is a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from app.domain import LANES, Lane, Principal, Role
from app.errors import RecordsError
from app.records.chain import canonical
from app.records.events import Draft, EventId, seal_draft
from app.records.keyring import KeyRing, Mac
from app.records.keytext import KeyText, new_key_text, parse_key_text
from app.records.tables import api_key_lanes, api_key_revocations, api_keys

NAME_MAX_LENGTH: Final = 64
Transact = Callable[[Callable[[Connection], Draft]], EventId]


@dataclass(frozen=True)
class KeyInfo:
    """One key without its secret; `at` and `revoked_at` are UTC timestamps; lane: of requests that do not name one."""

    id: str
    role: Role
    name: str
    at: str
    revoked_at: str | None
    lane: Lane


@dataclass(frozen=True)
class StoredKey:
    """What a presented secret is checked against."""

    principal: Principal
    mac: Mac


def secret_input(key: KeyText, role: Role) -> bytes:
    """What the stored MAC of a key is taken over."""
    return canonical([key.id, role, key.secret])


class ApiKeys:
    """The keys of one database.

    Args:
        transact: writes one event made inside the transaction, and returns when it is durable.
        changed: called after a key was made or revoked here.
    """

    def __init__(self, ring: KeyRing, reader: Engine, transact: Transact, changed: Callable[[], None]) -> None:
        self._ring, self._reader, self._transact, self._changed = ring, reader, transact, changed

    def create(self, role: Role, name: str, *, lane: Lane = "routine", by: str | None = None) -> str:
        """Make a key and return its text, which is nowhere else.

        Args:
            lane: how urgent its requests are where they do not say; for ever.
            by: id of the key that asks for it; None for the command line and the service itself.

        Raises:
            RecordsError: invalid_key_name. UnavailableError: audit_unavailable.
        """
        key = new_key_text()
        self._add(key, role, name, lane, by)
        self._changed()
        return str(key)

    def ensure_admin_key(self, name: str = "first-admin") -> str | None:
        """On a database without any key, make an admin key and return its text; None when there is one. Safe between processes."""
        if self.list():
            return None
        key = new_key_text()
        try:
            self._add(key, Role.ADMIN, name, "routine", None, only_first=True)
        except RecordsError as error:
            if error.code == "keys_exist":
                return None
            raise
        self._changed()
        return str(key)

    def import_file(self, path: Path, *, by: str | None = None) -> int:
        """Take keys whose texts were made elsewhere: lines `role name key-text [lane]`; empty lines and `#` comments are skipped.

        The whole file is checked before the first key is taken. A key that is already there as the line says is left alone, so
        that an import can be repeated.

        Returns:
            How many keys are new.

        Raises:
            RecordsError: import_unreadable, import_malformed (with the line number), key_conflict.
        """
        wanted = _read_import(path)
        added = 0
        try:
            for key, role, name, lane in wanted:
                stored = self._stored(key.id)
                if stored is None:
                    self._add(key, role, name, lane, by)
                    added += 1
                elif stored.principal != Principal(key.id, name, role, lane) or not self.fits(stored, key):
                    raise RecordsError("key_conflict", f"another key with the id {key.id} exists")
        finally:  # once: all keys are read again
            self._changed()
        return added

    def revoke(self, key_id: str, *, by: str | None = None) -> None:
        """Revoke a key for ever; other processes refuse it within about two seconds.

        Raises:
            RecordsError: unknown_key, already_revoked.
        """

        def transact(connection: Connection) -> Draft:
            if connection.execute(select(api_keys.c.id).where(api_keys.c.id == key_id)).first() is None:
                raise RecordsError("unknown_key", f"there is no key with the id {key_id}")
            gone = select(api_key_revocations.c.id).where(api_key_revocations.c.id == key_id)
            if connection.execute(gone).first() is not None:
                raise RecordsError("already_revoked", f"the key {key_id} is already revoked")
            return seal_draft("key_revoked", by, {api_key_revocations.name: {"id": key_id}})

        self._transact(transact)
        self._changed()

    def list(self) -> tuple[KeyInfo, ...]:
        """Every key ever made, oldest first."""
        keys, gone, lanes = api_keys.c, api_key_revocations.c, api_key_lanes.c
        query = (
            select(keys.id, keys.role, keys.name, keys.at, gone.at.label("revoked_at"), lanes.lane)
            .select_from(
                api_keys.outerjoin(api_key_revocations, keys.id == gone.id).outerjoin(
                    api_key_lanes, keys.id == lanes.id
                )
            )
            .order_by(keys.at, keys.chain_id, keys.seq)
        )
        with self._reader.connect() as connection:
            rows = connection.execute(query).all()
        return tuple(KeyInfo(r.id, Role(r.role), r.name, r.at, r.revoked_at, _lane(r.lane)) for r in rows)

    def fits(self, stored: StoredKey, key: KeyText) -> bool:
        """Whether a presented key is the stored one; constant time in the secret."""
        return self._ring.check("pepper", secret_input(key, stored.principal.role), stored.mac)

    def waste(self, key: KeyText) -> None:
        """Spend on an unknown id the time that a known one costs."""
        self._ring.check("pepper", secret_input(key, Role.TECHNICIAN), Mac(self._ring.current("pepper"), "0" * 64))

    def marker(self, connection: Connection) -> tuple[int, int]:
        """Changes whenever a key is made or revoked (both tables only grow)."""
        counts = select(
            select(func.count()).select_from(api_keys).scalar_subquery(),
            select(func.count()).select_from(api_key_revocations).scalar_subquery(),
        )
        made, gone = connection.execute(counts).one()
        return made, gone

    def valid(self, connection: Connection) -> dict[str, StoredKey]:
        """Every key that is not revoked, by id."""
        query = _STORED.where(api_keys.c.id.not_in(select(api_key_revocations.c.id)))
        return {r.id: _stored(*r) for r in connection.execute(query)}

    def _stored(self, key_id: str) -> StoredKey | None:
        with self._reader.connect() as connection:
            row = connection.execute(_STORED.where(api_keys.c.id == key_id)).first()
        return _stored(*row) if row else None

    def _add(
        self, key: KeyText, role: Role, name: str, lane: Lane, by: str | None, *, only_first: bool = False
    ) -> None:
        _check_name(name)
        mac = self._ring.mac("pepper", secret_input(key, role))
        section = {"id": key.id, "role": role, "name": name, "pepper_id": mac.key_id, "secret_mac": mac.digest}
        payload = {api_keys.name: section}
        if lane != "routine":
            payload[api_key_lanes.name] = {"id": key.id, "lane": lane}

        def transact(connection: Connection) -> Draft:
            if only_first and connection.execute(select(api_keys.c.id).limit(1)).first() is not None:
                raise RecordsError("keys_exist", "there are keys already")
            if connection.execute(select(api_keys.c.id).where(api_keys.c.id == key.id)).first() is not None:
                raise RecordsError("key_conflict", f"another key with the id {key.id} exists")
            return seal_draft("key_created", by, payload)

        self._transact(transact)


_STORED: Final = select(
    api_keys.c.id, api_keys.c.name, api_keys.c.role, api_keys.c.pepper_id, api_keys.c.secret_mac, api_key_lanes.c.lane
).select_from(api_keys.outerjoin(api_key_lanes, api_keys.c.id == api_key_lanes.c.id))


def _stored(  # noqa: PLR0917 (one row, in the order of `_STORED`)
    key_id: str, name: str, role: str, pepper_id: str, secret_mac: str, lane: str | None
) -> StoredKey:
    return StoredKey(Principal(key_id, name, Role(role), _lane(lane)), Mac(pepper_id, secret_mac))


def _lane(stored: str | None) -> Lane:
    """No row, or a word that no version of ours wrote (`verify` reports it): routine."""
    return next((lane for lane in LANES if lane == stored), "routine")


def _check_name(name: str) -> None:
    if not (0 < len(name) <= NAME_MAX_LENGTH and name.isprintable()):
        raise RecordsError("invalid_key_name", f"a key's name has 1 to {NAME_MAX_LENGTH} printable characters")


def _read_import(path: Path) -> list[tuple[KeyText, Role, str, Lane]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordsError("import_unreadable", f"{path} cannot be read: {error}") from error
    wanted: list[tuple[KeyText, Role, str, Lane]] = []
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        key = parse_key_text(parts[2]) if len(parts) in {3, 4} else None
        lane = parts[3] if len(parts) == 4 else "routine"
        if key is None or parts[0] not in set(Role) or lane not in LANES:
            raise RecordsError(
                "import_malformed",
                f"line {number}: expected `role name key-text [lane]`, with a whole key text; lanes: {', '.join(LANES)}",
            )
        _check_name(parts[1])
        wanted.append((key, Role(parts[0]), parts[1], _lane(lane)))
    return wanted
