"""The pages: complete without the internet, and nothing but themselves."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from app.api.assets import PAGES, STATIC_DIR, load_assets

LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "use": "href",
    "image": "href",
}


class Loaded(HTMLParser):
    """What a page makes a browser load, and what it would run from inside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get(LOADING.get(tag, ""))
        if address:
            self.addresses.append(address)
        if tag == "script" and "src" not in given:
            self.inline.append(tag)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]


def loaded(html: str) -> Loaded:
    parser = Loaded()
    parser.feed(html)
    return parser


@pytest.mark.parametrize("path", sorted(PAGES))
def test_a_page_loads_only_what_is_served(client: httpx.Client, path: str) -> None:
    reply = client.get(path)
    page = loaded(reply.text)
    assert page.addresses
    assert page.inline == []
    for address in page.addresses:
        assert address.startswith("/static/"), address
        assert client.get(address).status_code == 200
    assert "unsafe" not in reply.headers["content-security-policy"]


def test_what_pages_load_loads_nothing_from_elsewhere() -> None:
    """Style sheets and our own scripts; the documentation's bundle is guarded by the page's Content-Security-Policy."""
    for path in STATIC_DIR.rglob("*"):
        if path.suffix in {".css", ".html"}:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?:url\(\s*['\"]?|@import\s+['\"]?|src=['\"])(?:https?:)?//", text), path
    for own in STATIC_DIR.glob("*.js"):
        assert "http" not in own.read_text(encoding="utf-8"), own


def test_the_check_sees_an_address_elsewhere() -> None:
    bad = loaded('<script src="https://cdn.example/x.js"></script><p style="color:red" onclick="x()">')
    assert bad.addresses == ["https://cdn.example/x.js"]
    assert bad.inline == ["style", "onclick"]


def test_vendored_files_are_those_of_their_readme() -> None:
    folder = STATIC_DIR / "swagger-ui"
    rows = dict(re.findall(r"^\| ([\w.-]+) \| ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.MULTILINE))
    assert rows == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in rows}
    assert {p.name for p in folder.iterdir()} == {*rows, "README.md", "LICENSE", "NOTICE"}
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_assets_are_named_by_content(client: httpx.Client) -> None:
    first = client.get("/static/landing.css")
    assert first.headers["content-type"] == "text/css; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/landing.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/static/nothing.css",
        "/static/../policy.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static//etc/passwd",
        "/static/landing.html",
        "/static/swagger-ui/README.md",
    ],
)
def test_only_assets_are_served(client: httpx.Client, path: str) -> None:
    reply = client.get(httpx.URL(str(client.base_url).rstrip("/") + path))
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_assets_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.css").write_text("p {}")
    (tmp_path / "a/README.md").write_text("not served")
    assets = load_assets(tmp_path)
    assert set(assets) == {"a/x.css"}
    assert assets["a/x.css"].content == b"p {}"
