"""The upload parser: every way to cut a body gives the same parts; every way to spoil one gives a coded error."""

from __future__ import annotations

import asyncio
import itertools
import logging
import tracemalloc
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.types import Message

from app.api.body import (
    HEADER_BYTES_PER_PART,
    BodyRule,
    ClientGoneError,
    File,
    check_length,
    declared_length,
    read_files,
    rules,
)
from app.api.memory import InFlight
from app.api.policy import Body
from app.errors import CxrError, RequestError, UnavailableError
from app.settings import Settings
from tests.support.asgi import chunk_messages

SINGLE = BodyRule("file", 1, 10_000, 10_000 + 8_192, 30_000, 30_000 + 8_192, 5.0, raw=True)
BATCH = BodyRule("files", 10, 10_000, 40_000, 30_000, 80_000, 5.0, raw=False)
BOUNDARY = "b0undary-of-the-test"


RUNNER = asyncio.Runner()  # one loop for all examples: making one costs more than an example


@pytest.fixture(autouse=True, scope="module")
def one_loop() -> Iterator[None]:
    with RUNNER:
        yield


@pytest.fixture(autouse=True)
def quiet_parser() -> Iterator[None]:
    """As `install` sets it."""
    logger = logging.getLogger("python_multipart")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def multipart(files: Sequence[bytes], name: str = "file", extra: str = "", boundary: str = BOUNDARY) -> bytes:
    parts = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="Doe^John.png"\r\n{extra}\r\n'.encode()
        + file
        + b"\r\n"
        for file in files
    )
    return parts + f"--{boundary}--\r\n".encode()


def read(
    chunks: Sequence[bytes],
    rule: BodyRule = SINGLE,
    *,
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    length: int | None = -1,
    gone: bool = False,
    shared: InFlight | None = None,
    more: dict[str, str] | None = None,
) -> tuple[File, ...]:
    """Run the parser; length -1 = the true one, None = chunked."""
    headers = {"content-type": content_type, **(more or {})}
    if length is None:
        headers["transfer-encoding"] = "chunked"
    else:
        headers["content-length"] = str(sum(map(len, chunks)) if length == -1 else length)
    left = iter(chunk_messages(chunks, gone=gone))

    async def receive() -> Message:
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    async def run() -> tuple[File, ...]:
        with (shared or InFlight(10_000_000)).hold() as hold:
            files = await read_files(Headers(headers), receive, rule, hold)
            return tuple(f if isinstance(f, RequestError) else memoryview(bytes(f)) for f in files)

    return RUNNER.run(run())


def refusal(*args: object, **kwargs: object) -> str:
    with pytest.raises(CxrError) as caught:
        read(*args, **kwargs)  # type: ignore[arg-type]  # the caller's arguments are read's
    return caught.value.code


def outcome_of(chunks: Sequence[bytes]) -> RequestError | tuple[File, ...]:
    try:
        return read(chunks, BATCH)
    except RequestError as error:
        return error


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(p % (len(data) + 1) for p in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@settings(deadline=None)
@given(
    files=st.lists(st.binary(max_size=400), min_size=1, max_size=10),
    places=st.lists(st.integers(0, 10_000), max_size=60),
    chunked=st.booleans(),
)
def test_any_chunking_gives_the_same_files(files: list[bytes], places: list[int], chunked: bool) -> None:
    body = multipart(files, "files")
    got = read(cut(body, places), BATCH, length=None if chunked else -1)
    assert [bytes(f) for f in got if not isinstance(f, RequestError)] == files


@settings(deadline=None)
@given(places=st.lists(st.integers(0, 2_000), max_size=60))
def test_content_that_looks_like_a_boundary_survives(places: list[int]) -> None:
    near = f"\r\n--{BOUNDARY[:-1]}\r\n\r\n-\r\n--\r--{BOUNDARY}\n\r\n--{BOUNDARY[:-1]}x--\r\n".encode() * 3
    got = read(cut(multipart([near]), places))
    assert got == (memoryview(near),)


@settings(deadline=None)
@given(body=st.binary(max_size=600), places=st.lists(st.integers(0, 600), max_size=20))
def test_raw_body_is_taken_as_it_is(body: bytes, places: list[int]) -> None:
    if not body:
        assert refusal([], content_type="image/png") == "missing_file"
    else:
        assert read(cut(body, places), content_type="image/jpeg") == (memoryview(body),)


@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(0, 10_000),
    change=st.sampled_from(["flip", "delete", "insert", "truncate", "repeat"]),
    value=st.binary(min_size=1, max_size=12),
    places=st.lists(st.integers(0, 10_000), max_size=10),
)
def test_a_spoiled_body_is_parts_or_a_coded_refusal(
    position: int, change: str, value: bytes, places: list[int]
) -> None:
    body = multipart([b"a" * 50, b"\r\n--b" * 12], "files", "Content-Type: image/png\r\n")
    i = position % len(body)
    spoiled = {
        "flip": body[:i] + bytes([body[i] ^ (value[0] or 1)]) + body[i + 1 :],
        "delete": body[:i] + body[i + len(value) :],
        "insert": body[:i] + value + body[i:],
        "truncate": body[:i],
        "repeat": body[:i] + body[i // 2 : i] * 3 + body[i:],
    }[change]
    outcome = outcome_of(cut(spoiled, places))
    assert (
        outcome.status in (400, 413) if isinstance(outcome, RequestError) else 1 <= len(outcome) <= BATCH.files_max
    ), outcome


@settings(deadline=None)
@given(st.binary(max_size=500), st.lists(st.integers(0, 500), max_size=10))
def test_noise_is_refused(noise: bytes, places: list[int]) -> None:
    assert refusal(cut(noise, places)) in {"malformed_multipart", "missing_file"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "missing_file"),
        (f"--{BOUNDARY}--\r\n".encode(), "missing_file"),
        (multipart([b"x"])[:-6], "malformed_multipart"),  # no closing boundary
        (b"a preamble\r\n" + multipart([b"x"]), "malformed_multipart"),
        (b"\r\n" + multipart([b"x"]), "malformed_multipart"),
        (multipart([b"x"], "image"), "malformed_multipart"),  # another name
        (multipart([b"x"], "files"), "malformed_multipart"),
        (multipart([b"x", b"y"]), "too_many_files"),
        (multipart([b"x"], extra="Content-Transfer-Encoding: base64\r\n"), "malformed_multipart"),
        (multipart([b"x"], extra="A: b\r\n" * 8), "malformed_multipart"),  # nine headers
        (multipart([b"x"], extra=f"A: {'b' * HEADER_BYTES_PER_PART}\r\n"), "malformed_multipart"),
        (multipart([b"x"], extra=f"A: {'b' * 2_100}\r\nC: {'d' * 2_100}\r\n"), "malformed_multipart"),
        (multipart([b"x"], boundary="another"), "malformed_multipart"),
        (f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--".encode(), "malformed_multipart"),  # no Content-Disposition
        (f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--".encode(), "malformed_multipart"),
        (multipart([b"x" * 10_001]), "payload_too_large"),
        (multipart([b"x"] * 4, boundary=BOUNDARY) * 2, "too_many_files"),
    ],
)
def test_malformed_bodies_by_code(body: bytes, code: str) -> None:
    assert refusal([body]) == code
    assert refusal([bytes([b]) for b in body]) == code


def test_plain_transfer_encodings_and_empty_files_pass() -> None:
    assert read([multipart([b"x"], extra="Content-Transfer-Encoding: binary\r\n")]) == (memoryview(b"x"),)
    assert read([multipart([b""])]) == (memoryview(b""),)


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("multipart/form-data", "malformed_multipart"),
        ("multipart/form-data; boundary=", "malformed_multipart"),
        (f"multipart/form-data; boundary={'b' * 71}", "malformed_multipart"),
        ("multipart/form-data; boundary=a\tb", "malformed_multipart"),
        ("multipart/mixed; boundary=abc", "unsupported_media_type"),
        ("text/plain", "unsupported_media_type"),
        ("application/x-www-form-urlencoded", "unsupported_media_type"),
        ("image/tiff", "unsupported_media_type"),
        ("", "unsupported_media_type"),
    ],
)
def test_content_types_by_code(content_type: str, code: str) -> None:
    assert refusal([b"some body"], content_type=content_type) == code


def test_seventy_characters_of_boundary_pass() -> None:
    boundary = "b" * 70
    got = read([multipart([b"x"], boundary=boundary)], content_type=f'multipart/form-data; boundary="{boundary}"')
    assert got == (memoryview(b"x"),)


def test_a_batch_takes_no_raw_body_and_no_encoded_one() -> None:
    assert refusal([b"x"], BATCH, content_type="image/png") == "unsupported_media_type"
    assert refusal([b"x"], content_type="image/png", more={"content-encoding": "gzip"}) == "unsupported_media_type"


def test_raw_limits() -> None:
    assert len(read([b"x" * 10_000], content_type="image/png")[0]) == 10_000  # type: ignore[arg-type]
    assert refusal([b"x" * 10_001], content_type="image/png") == "payload_too_large"
    assert refusal([b"x" * 5_000] * 3, content_type="image/png", length=None) == "payload_too_large"
    assert refusal([b"x" * 9_000] * 3, length=100) in {"payload_too_large", "malformed_multipart"}


def test_in_a_batch_a_large_file_stands_as_its_error() -> None:
    files = [b"a" * 100, b"b" * 10_001, b"c" * 10_000]
    got = read(cut(multipart(files, "files"), range(0, 30_000, 777)), BATCH)
    assert [f.code if isinstance(f, RequestError) else bytes(f) for f in got] == [
        files[0],
        "payload_too_large",
        files[2],
    ]


def test_the_request_limit_holds_for_chunked_bodies() -> None:
    assert refusal([multipart([b"b" * 9_000] * 9, "files")], BATCH, length=None) == "payload_too_large"


def test_blanks_after_a_boundary_are_bounded() -> None:
    """The parser walks them byte by byte, so a flood of them would hold the event loop."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--{BOUNDARY}'.encode()
    tail = b'\r\nContent-Disposition: form-data; name="files"\r\n\r\ny' + f"\r\n--{BOUNDARY}--".encode()
    assert len(read([head, b" " * 10, tail], BATCH)) == 2
    assert refusal([head, *[b" " * 100] * 5, tail], BATCH) == "malformed_multipart"


def test_a_slow_body_ends_at_the_deadline() -> None:
    rule = BodyRule("file", 1, 100, 200, 100, 200, 0.05, raw=True)

    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def run() -> None:
        with InFlight(1_000).hold() as hold:
            await read_files(Headers({"content-type": "image/png", "content-length": "90"}), receive, rule, hold)

    with pytest.raises(RequestError) as caught:
        RUNNER.run(run())
    assert caught.value.code == "body_timeout"
    assert caught.value.status == 408


def test_a_client_that_leaves() -> None:
    with pytest.raises(ClientGoneError):
        read([b"half"], content_type="image/png", length=100, gone=True)


def test_memory_in_flight_is_shared_and_given_back() -> None:
    seen: list[int] = []
    shared = InFlight(1_000, seen.append)
    with shared.hold() as other:
        other.take(600)
        assert refusal([b"x" * 500], content_type="image/png", shared=shared) == "overloaded"
        assert shared.held == 600
        assert read([b"x" * 400], content_type="image/png", shared=shared) == (memoryview(b"x" * 400),)
        assert shared.held == 600
    assert shared.held == 0
    assert max(seen) == 1_000
    with pytest.raises(UnavailableError) as caught, shared.hold() as hold:
        hold.take(1_001)
    assert caught.value.retry_after_s
    assert shared.held == 0


def test_a_chunked_body_is_charged_as_it_grows() -> None:
    rule = BodyRule("file", 1, 2_000_000, 2_000_000, 2_000_000, 2_000_000, 5.0, raw=True)
    seen: list[int] = []
    shared = InFlight(4_000_000, seen.append)
    body = bytes(range(256)) * 4_096
    assert read(cut(body, range(0, len(body), 60_000)), rule, content_type="image/png", length=None, shared=shared) == (
        memoryview(body),
    )
    assert seen == [262_144, 524_288, 1_048_576, 0]
    assert refusal([body], rule, content_type="image/png", length=None, shared=InFlight(500_000)) == "overloaded"


def test_a_file_is_not_copied_twice() -> None:
    """One buffer of the declared length, and views on it."""
    rule = rules(Settings())[Body.IMAGE]
    body = multipart([b"\x5a" * 4_000_000])
    chunks = [body[i : i + 65_536] for i in range(0, len(body), 65_536)]
    headers = Headers({"content-type": f"multipart/form-data; boundary={BOUNDARY}", "content-length": str(len(body))})
    messages = iter(chunk_messages(chunks))

    async def receive() -> Message:
        return next(messages)

    async def run() -> int:
        with InFlight(10_000_000).hold() as hold:
            tracemalloc.start()
            (file,) = await read_files(headers, receive, rule, hold)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert isinstance(file, memoryview)
            assert file.readonly
            assert len(file) == 4_000_000
            return peak

    assert RUNNER.run(run()) < 1.05 * len(body)


@pytest.mark.parametrize("text", ["-1", "1e3", "", " 12", "+5", "٣", "9" * 30])
def test_a_length_that_is_no_number(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        declared_length(Headers(raw=[(b"content-length", text.encode())]))
    assert caught.value.code == "malformed_request"


def test_length_is_checked_before_the_body() -> None:
    check_length(Headers({"content-length": "100"}), 100)
    check_length(Headers({}), 0)
    check_length(Headers({"transfer-encoding": "chunked"}), 100)
    for headers, limit in [
        ({"content-length": "101"}, 100),
        ({"transfer-encoding": "chunked"}, 0),
        ({"content-length": "1"}, 0),
    ]:
        with pytest.raises(RequestError) as caught:
            check_length(Headers(headers), limit)
        assert caught.value.code == "payload_too_large"


def test_rules_follow_the_settings() -> None:
    settings = Settings(
        upload_max_bytes=5_000,
        batch_max=3,
        batch_max_bytes=9_000,
        dicom_max_bytes=20_000,
        in_flight_max_bytes=100_000,
        body_deadline_s=7,
    )
    made = rules(settings)
    assert made[Body.IMAGE] == BodyRule("file", 1, 5_000, 5_000 + 8_192, 20_000, 20_000 + 8_192, 7, raw=True)
    assert made[Body.BATCH] == BodyRule("files", 3, 5_000, 9_000, 20_000, 50_000, 7, raw=False)
    smaller = rules(settings.model_copy(update={"in_flight_max_bytes": 10_000}))
    assert smaller[Body.BATCH].body_max_bytes == 20_000 + 8_192  # one DICOM film always fits into a batch


def dicom(size: int) -> bytes:
    return b"\0" * 128 + b"DICM" + b"d" * (size - 132)


def sizes(files: Sequence[File]) -> list[int | str]:
    return [f.code if isinstance(f, RequestError) else len(f) for f in files]


@given(st.lists(st.integers(0, 31_000), max_size=40), st.booleans())
@settings(deadline=None)
def test_a_dicom_part_may_be_larger_however_it_is_cut(places: list[int], chunked: bool) -> None:
    film = dicom(30_000)
    assert read(cut(multipart([film]), places), length=None if chunked else -1) == (memoryview(film),)


@pytest.mark.parametrize("first", [1, 127, 128, 130, 131, 132, 133])
def test_the_mark_is_found_across_chunks(first: int) -> None:
    """Cut inside the preamble and inside `DICM`."""
    body = multipart([dicom(30_000)])
    place = body.index(b"\0" * 128) + first
    assert sizes(read([body[:place], body[place:]])) == [30_000]


def test_limits_of_dicom() -> None:
    assert refusal([multipart([dicom(30_001)])]) == "payload_too_large"
    assert sizes(read([multipart([dicom(30_001), dicom(200)], "files")], BATCH)) == ["payload_too_large", 200]
    assert sizes(read([dicom(30_000)], content_type="application/dicom")) == [30_000]
    assert refusal([dicom(30_001)], content_type="application/dicom") == "payload_too_large"
    assert refusal([b"x" * 7_000] * 5, content_type="application/dicom", length=None) == "payload_too_large"


def test_only_the_bytes_make_a_file_dicom() -> None:
    large = b"\xff\xd8" + b"x" * 15_000
    assert refusal([large], content_type="application/dicom") == "payload_too_large"
    assert refusal([multipart([large], extra="Content-Type: application/dicom\r\n")]) == "payload_too_large"
    assert sizes(read([multipart([large], "files", extra="Content-Type: application/dicom\r\n")], BATCH)) == [
        "payload_too_large"
    ]
    assert refusal([dicom(15_000)], content_type="image/png") == "payload_too_large"
    assert refusal([dicom(7_000), b"x" * 8_000], content_type="image/jpeg", length=None) == "payload_too_large"


def test_a_batch_of_dicom_may_be_larger_and_one_of_pictures_not() -> None:
    films = [dicom(25_000), b"p" * 9_000, dicom(25_000), b"p" * 9_000]
    assert sizes(read(cut(multipart(films, "files"), range(0, 70_000, 999)), BATCH)) == [25_000, 9_000, 25_000, 9_000]
    pictures = [b"p" * 9_000] * 5
    assert refusal(cut(multipart(pictures, "files"), range(0, 50_000, 999)), BATCH) == "payload_too_large"
    # in whatever order they come
    late = cut(multipart([*pictures, dicom(20_000)], "files"), range(0, 70_000, 999))
    early = cut(multipart([dicom(20_000), *pictures], "files"), range(0, 70_000, 999))
    assert (refusal(late, BATCH), refusal(early, BATCH)) == ("payload_too_large", "payload_too_large")
    assert refusal([multipart([dicom(29_000)] * 3, "files")], BATCH, length=None) == "payload_too_large"


def test_a_declared_length_alone_takes_no_memory() -> None:
    """Whoever declares a large body holds no more of the shared memory than a JPEG needs, until DICOM bytes have come."""
    seen: list[int] = []
    read(cut(multipart([dicom(30_000)]), range(0, 31_000, 500)), shared=InFlight(100_000, seen.append))
    assert seen[0] == SINGLE.request_max_bytes
    body = multipart([b"x" * 30_000])
    head = body[:400]
    seen.clear()
    assert refusal([head], length=len(body), shared=InFlight(100_000, seen.append)) == "payload_too_large"  # unread
    assert max(seen) == SINGLE.request_max_bytes
