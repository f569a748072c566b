"""The static files, held in memory: read once at start, never by a path that a request could name."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response

from app.api.call import call_of
from app.errors import RequestError

STATIC_DIR = Path(__file__).resolve().parent.parent / "ui" / "static"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
PAGES = {"/": "landing.html", "/docs": "docs.html"}


@dataclass(frozen=True)
class Asset:
    content: bytes
    media_type: str
    etag: str


def load_assets(root: Path = STATIC_DIR) -> Mapping[str, Asset]:
    """Every file of a served type below `root`, by its path relative to it. Licences and notes are not served."""
    paths = sorted(p for p in root.rglob("*") if p.suffix in MEDIA_TYPES and p.is_file())
    return {p.relative_to(root).as_posix(): _asset(p) for p in paths}


def add_assets(app: FastAPI, assets: Mapping[str, Asset]) -> None:
    """`/static/...` for what pages load, and the pages themselves."""

    @app.get("/static/{asset:path}", include_in_schema=False)
    async def static(request: Request, asset: str) -> Response:
        found = assets.get(asset)
        if found is None or asset in PAGES.values():
            raise RequestError("not_found")
        return _answer(request, found)

    for path, name in PAGES.items():
        app.add_api_route(path, _page(assets[name]), methods=["GET"], include_in_schema=False)


def _page(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        return _answer(request, asset)

    return page


def _answer(request: Request, asset: Asset) -> Response:
    headers = {"ETag": asset.etag}
    if call_of(request).headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
