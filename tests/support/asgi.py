"""Drives an ASGI application by hand: what it read, what it answered, in how many pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message


@dataclass
class Told:
    """What came out. reads: how often the application asked for a piece of the body; read_bytes: what it was given."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reads: int = 0
    read_bytes: int = 0

    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(method: str, path: str, headers: Mapping[str, str] | None = None, query: str = "") -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


def chunk_messages(chunks: Iterable[bytes], *, gone: bool = False) -> list[Message]:
    """The body as ASGI messages; gone: the client leaves instead of finishing."""
    messages: list[Message] = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    messages.append({"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False})
    return messages


async def tell(app: ASGIApp, scope: dict[str, Any], messages: Iterable[Message] = ()) -> Told:
    """One request. After the last message the channel is silent for ever, like a client that waits."""
    told = Told()
    left = iter(list(messages) or chunk_messages(()))

    async def receive() -> Message:
        told.reads += 1
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        told.read_bytes += len(message.get("body", b""))
        return message

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            told.status = message["status"]
            names = [name.decode() for name, _ in message["headers"]]
            assert len(set(names)) == len(names), f"a header twice: {names}"
            told.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            told.body += message.get("body", b"")

    await app(scope, receive, send)
    return told
