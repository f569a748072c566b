"""From a request to its files: admission first, then the body; and the record of a request that ends in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from app.api.body import ClientGoneError, File, read_files
from app.api.call import Call, call_of
from app.api.room import Room
from app.api.urgency import urgency_of
from app.errors import CxrError, InternalError
from app.inference.scheduler import Admission, WithdrawnError
from app.records import AuditEvent


@dataclass(frozen=True)
class Upload:
    """The files of an admitted request. files: in order; views on memory that is given back with the upload."""

    call: Call
    files: tuple[File, ...]
    admission: Admission


@asynccontextmanager
async def admitted_upload(request: Request, room: Room, *, places: int = 1) -> AsyncIterator[Upload]:
    """Places in the queue, then the body. Everything is given back at the end, whatever happened.

    Raises:
        UnavailableError: `overloaded` or `not_ready` before a body byte is read; `audit_unavailable`.
        RequestError: what is wrong with the body; recorded first, since the request was admitted.
        ClientGoneError: the client went away before its film was judged; recorded too.
    """
    call = call_of(request)
    if call.policy is None:
        raise InternalError
    asked = urgency_of(call)
    lane, places = asked.lane, min(places, room.service.places_of(asked.lane))
    with (
        room.service.admit(places, lane=lane, owner=asked.owner, begin_within_s=asked.begin_within_s) as admission,
        room.in_flight.hold(urgent=lane == "stat") as hold,
    ):
        call.admitted = True
        try:
            files = await read_files(call.headers, request.receive, room.rules[call.policy.body], hold)
        except (CxrError, ClientGoneError) as error:
            await record_refusal(room, call, error.code if isinstance(error, CxrError) else "client_gone")
            raise
        async with _withdrawn_by_leaving(request, admission):
            yield Upload(call, files, admission)


@asynccontextmanager
async def _withdrawn_by_leaving(request: Request, admission: Admission) -> AsyncIterator[None]:
    """Watch the connection of a request whose body was read. When the client leaves, what has not begun never will.

    Nothing is cancelled: a film that is being judged is judged and recorded to the end.

    Raises:
        ClientGoneError: the client left before its film was judged.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        admission.withdraw()

    watching = asyncio.create_task(watch())
    try:
        yield
    except WithdrawnError:
        raise ClientGoneError from None
    finally:
        watching.cancel()


async def record_refusal(room: Room, call: Call, code: str) -> None:
    """What an admitted request sent was turned away before it reached the pipeline."""
    facts = {"request_id": call.request_id, "route": call.template, "code": code, "bytes": call.body_bytes}
    await room.records.record(AuditEvent("refused", call.principal.key_id, facts))


def only_file(upload: Upload) -> memoryview:
    """The file of a request that takes one."""
    file = upload.files[0]
    if isinstance(file, CxrError):
        raise file
    return file
