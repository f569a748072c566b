"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that may be sent again and has one answer."""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import parse_qsl

from fastapi import Request

from app.api.call import call_of
from app.errors import RequestError
from app.service import Asker, IdempotencyKey

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
_KEY: Final = re.compile(r"[!-~]{1,255}")


def asker_of(request: Request, form: str, *, index: int = 0, files: int | None = None) -> Asker:
    """Who asks. Called before the body is read.

    Args:
        form: media type of the answer. index, files: place of the film in a batch, and how many there are.

    Raises:
        RequestError: `malformed_request` for a key that is none.
    """
    call = call_of(request)
    sent = call.headers.getlist(HEADER)
    if not sent:
        return Asker(call.principal, call.request_id)
    if len(sent) > 1 or not _KEY.fullmatch(sent[0]):
        raise RequestError("malformed_request", what=f"{HEADER} must be one of 1 to 255 visible ASCII characters")
    query = sorted(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
    asked = json.dumps([call.template, query, form, files])
    return Asker(call.principal, call.request_id, IdempotencyKey(f"{index} {sent[0]}", asked))


def replayed(is_repeat: bool) -> dict[str, str]:
    """The header that tells a repeated answer from a first one."""
    return {REPLAYED: "true"} if is_repeat else {}
