"""What the benchmarks ask, with the answers that are right: the logits of the same films, computed in this process by the reference
engine (ONNX Runtime, fp32)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import REFERENCE_VARIANT
from app.bundle.store import BundleRef, BundleStore, VerifiedBundle
from app.imaging.decode import decode
from app.inference.engine import Engine
from app.preprocessing import prepare
from benchmarks.competitors.running import logits as competitors_logits
from benchmarks.engines import build
from benchmarks.films import CONTENT_TYPES, Format, films
from benchmarks.floor import LIMITS
from benchmarks.http_client import Request
from benchmarks.load import Question

FILMS: Final = 8
BATCHED: Final = 0.01  # of a precision whose batches round otherwise
FP32: Final = 1e-3  # largest |dz| / max(1, |z|) of an answer in float32
_BOUNDARY: Final = "cxr-bench-boundary"


@dataclass(frozen=True)
class Reference:
    """A bundle and what its network says of films."""

    bundle: VerifiedBundle
    engine: Engine
    tolerance: float

    @classmethod
    def of(cls, root: Path, ref: BundleRef, engine: str = REFERENCE_VARIANT) -> Reference:
        """engine: what computes the answers that are right. Another than the reference may round otherwise when it runs batches."""
        bundle = BundleStore(root).verify(ref)
        variant = bundle.manifest.variant(engine)
        tolerance = FP32 if variant is None else max(FP32, min(BATCHED, variant.tolerance / 5))
        return cls(bundle, build(bundle, engine), tolerance)

    @property
    def names(self) -> tuple[str, ...]:
        """Classes whose logits the network gives, in its order."""
        classes = self.bundle.manifest.classes
        return classes[1:] if self.bundle.manifest.task == "binary" else classes

    def logits(self, data: bytes) -> NDArray[np.float64]:
        """float64 [K] of one film."""
        tensor = prepare(decode(data, LIMITS), self.bundle.manifest.input).tensor
        return self.engine.run(tensor).logits.astype(np.float64)

    def of_films(self, form: Format, px: int) -> NDArray[np.float64]:
        return np.stack([self.logits(film) for film in films(form, px, FILMS)])


def ours(names: Sequence[str]) -> Callable[[bytes], list[float]]:
    """The logits in an answer of /predict or /gradcam, in the order of `names`."""

    def logits(body: bytes) -> list[float]:
        answer = json.loads(body)
        classes = (answer if "classes" in answer else answer["prediction"])["classes"]
        found = {row["name"]: row["logit"] for row in classes}
        return [found[name] for name in names]

    return logits


def ours_of_batch(names: Sequence[str]) -> Callable[[bytes], list[float]]:
    """The logits of every film of a batch, one after the other."""

    def logits(body: bytes) -> list[float]:
        results = json.loads(body)["results"]
        rows = [{row["name"]: row["logit"] for row in item["result"]["classes"]} for item in results]
        return [row[name] for row in rows for name in names]

    return logits


def predict(
    reference: Reference,
    key: str,
    *,
    form: Format = "jpeg",
    px: int = 1_024,
    path: str = "/predict",
    tolerance: float | None = None,
    multipart: bool = False,
) -> Question:
    """One film at a time, as the raw body or as an upload; any route whose JSON holds the classes."""
    headers = {"X-API-Key": key, "Accept": "application/json"}
    kind = CONTENT_TYPES[form]
    requests = tuple(
        upload(path, [film], kind, "file", headers)
        if multipart
        else Request.of("POST", path, {**headers, "Content-Type": kind}, film)
        for film in films(form, px, FILMS)
    )
    name = f"{path} {form.upper()} {px:,} px{', multipart' if multipart else ''}"
    return Question(
        name, requests, ours(reference.names), reference.of_films(form, px), tolerance or reference.tolerance
    )


def picture(reference: Reference, key: str, accept: str, px: int = 1_024) -> Question:
    """/gradcam drawn as a picture: an answer is right when it begins as such a file does."""
    begins = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff"}[accept]
    asked = predict(reference, key, px=px, path="/gradcam")
    requests = tuple(
        Request(r.head.replace(b"Accept: application/json", f"Accept: {accept}".encode()), r.body)
        for r in asked.requests
    )
    return replace(
        asked,
        name=f"/gradcam JPEG {px:,} px as {accept.removeprefix('image/').upper()}",
        requests=requests,
        logits=None,
        reference=None,
        shape=lambda body: body.startswith(begins),
    )


def batch(reference: Reference, key: str, count: int, px: int = 1_024) -> Question:
    """/batch_predict with `count` films in a request; no film stands at the same place in two of the requests."""
    given, rows = films("jpeg", px, FILMS), reference.of_films("jpeg", px)
    requests, wanted = [], []
    for start in range(FILMS):
        turn = [(start + i) % FILMS for i in range(count)]
        headers = {"X-API-Key": key, "Accept": "application/json"}
        requests.append(upload("/batch_predict", [given[i] for i in turn], "image/jpeg", "files", headers))
        wanted.append(rows[turn].ravel())
    name = f"/batch_predict, {count} JPEG {px:,} px"
    return Question(name, tuple(requests), ours_of_batch(reference.names), np.stack(wanted), films=count)


def theirs(reference: Reference, px: int = 1_024) -> Question:
    """The question to the other servers: the same films as uploads."""
    requests = tuple(upload("/predict", [film], "image/jpeg", "file") for film in films("jpeg", px, FILMS))
    rows = reference.of_films("jpeg", px)
    return Question(f"/predict JPEG {px:,} px, multipart", requests, competitors_logits, rows)


def with_urgent(question: Question, every: str = "stat") -> Question:
    """The same requests once more behind themselves, with the header that makes them urgent."""
    line = f"X-Priority: {every}\r\n\r\n".encode()
    urgent = tuple(Request(r.head.removesuffix(b"\r\n") + line, r.body) for r in question.requests)
    reference = None if question.reference is None else np.concatenate([question.reference] * 2)
    return replace(question, requests=(*question.requests, *urgent), reference=reference)


def upload(
    path: str, given: Sequence[bytes], content_type: str, field: str, headers: dict[str, str] | None = None
) -> Request:
    """A multipart request with these files."""
    parts = []
    for i, film in enumerate(given):
        head = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
            f'name="{field}"; filename="{i}"\r\nContent-Type: {content_type}\r\n\r\n'
        )
        parts += [head.encode(), film, b"\r\n"]
    body = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])
    return Request.of(
        "POST", path, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", **(headers or {})}, body
    )
