from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.store import BundleRef, BundleStore, write_bundle
from app.errors import BundleError
from tests.support.tiny_bundle import make_tiny_bundle, tiny_parts, write_tiny


@pytest.mark.parametrize("text", ["tiny/1.0.0", "a-b-2/10.0.3"])
def test_a_reference_is_written_as_it_is_read(text: str) -> None:
    assert str(BundleRef.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tiny",
        "tiny/",
        "tiny/1.0",
        "tiny/01.0.0",
        "../x/1.0.0",
        "Tiny/1.0.0",
        "tiny/1.0.0/",
        "tiny/1.0.0\n",
        "/1.0.0",
    ],
)
def test_words_that_can_name_no_bundle(text: str) -> None:
    with pytest.raises(BundleError) as refused:
        BundleRef.parse(text)
    assert refused.value.code == "bundle_not_found"


def test_bundles_are_listed_by_name_and_number(tmp_path: Path) -> None:
    for name, version in [("b", "1.0.0"), ("a", "1.10.0"), ("a", "1.9.0"), ("a", "2.0.0")]:
        make_tiny_bundle(tmp_path, name=name, version=version)
    for stranger in (".draft-1/1.0.0", "Upper/1.0.0", "a/latest", "a/1.0"):
        (tmp_path / stranger).mkdir(parents=True)
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (tmp_path / "file").touch()
    assert [str(ref) for ref in BundleStore(tmp_path).list()] == ["a/1.9.0", "a/1.10.0", "a/2.0.0", "b/1.0.0"]


def test_an_empty_store(tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "none")
    assert store.list() == []
    assert store.latest() is None
    with pytest.raises(BundleError) as refused:
        store.verify(BundleRef("tiny", "1.0.0"))
    assert refused.value.code == "bundle_not_found"


def test_latest_names_a_bundle(tmp_path: Path) -> None:
    ref = make_tiny_bundle(tmp_path, latest=True)
    assert BundleStore(tmp_path).latest() == ref


@pytest.mark.parametrize(
    "content", [b"", b"../../etc", b"tiny", b"\xff/1.0.0", b"tiny/1.0.0\nother/1.0.0", b"x" * 1000]
)
def test_a_latest_that_names_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "latest").write_bytes(content)
    with pytest.raises(BundleError) as refused:
        BundleStore(tmp_path).latest()
    assert refused.value.code == "bundle_not_found"


def test_a_latest_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError):
        BundleStore(tmp_path).latest()


def test_a_verified_bundle_is_what_was_written(tmp_path: Path) -> None:
    parts = tiny_parts()
    ref = write_tiny(tmp_path, parts)
    bundle = BundleStore(tmp_path).verify(ref)
    assert (bundle.ref, bundle.path) == (ref, tmp_path / "tiny" / "1.0.0")
    assert bundle.digest == hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    assert bundle.network == parts.network
    for have, want in [(bundle.head, parts.head), (bundle.reference, parts.reference), (bundle.golden, parts.golden)]:
        assert set(have) == set(want)
        for name, values in want.items():
            np.testing.assert_array_equal(have[name], values)
            assert not have[name].flags.writeable
    assert bundle.manifest == BundleStore(tmp_path).read_manifest(ref)


def test_the_same_parts_give_the_same_digest(tmp_path: Path) -> None:
    refs = [make_tiny_bundle(tmp_path / root) for root in ("a", "b")]
    digests = {BundleStore(tmp_path / root).verify(ref).digest for root, ref in zip("ab", refs, strict=True)}
    assert len(digests) == 1


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    ref = make_tiny_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert BundleStore(tmp_path / "link").verify(ref).ref == ref


def test_what_was_verified_does_not_change_with_the_files(tmp_path: Path) -> None:
    ref = make_tiny_bundle(tmp_path)
    bundle = BundleStore(tmp_path).verify(ref)
    before = bundle.network, bundle.golden["logits_0"].copy()
    for file in bundle.path.iterdir():
        file.write_bytes(b"changed")
    assert bundle.network == before[0]
    np.testing.assert_array_equal(bundle.golden["logits_0"], before[1])


def test_each_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is what is used: no second look at a path that may have changed."""
    ref = make_tiny_bundle(tmp_path)
    opened: list[str] = []
    really_open = os.open

    def counting(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(str(path))
        return really_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", counting)
    BundleStore(tmp_path).verify(ref)
    files = [name for name in opened if "." in name and name != "1.0.0" and not name.startswith("/")]
    assert sorted(files) == sorted(p.name for p in (tmp_path / "tiny" / "1.0.0").iterdir())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = make_tiny_bundle(tmp_path)
    really_open = os.open

    def failing(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == "golden.npz":
            raise OSError(errno.EIO, "Input/output error")
        return really_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(BundleError, match=r"golden\.npz: Input/output error") as refused:
        BundleStore(tmp_path).verify(ref)
    assert refused.value.code == "unreadable_file"


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    ref = make_tiny_bundle(tmp_path)
    store, before = BundleStore(tmp_path), _open_descriptors()
    store.verify(ref)
    (tmp_path / "tiny" / "1.0.0" / "golden.npz").unlink()
    with pytest.raises(BundleError):
        store.verify(ref)
    with pytest.raises(BundleError):
        store.verify(BundleRef("tiny", "9.9.9"))
    assert _open_descriptors() == before


def test_a_version_is_written_once(tmp_path: Path) -> None:
    ref = make_tiny_bundle(tmp_path)
    before = BundleStore(tmp_path).verify(ref).digest
    with pytest.raises(BundleError) as refused:
        make_tiny_bundle(tmp_path, seed=1)
    assert refused.value.code == "bundle_exists"
    assert BundleStore(tmp_path).verify(ref).digest == before


def test_a_bundle_that_would_not_verify_is_not_written(tmp_path: Path) -> None:
    parts = tiny_parts()
    head = {**parts.head, "weight": parts.head["weight"][:, :4]}
    with pytest.raises(BundleError) as refused:
        write_bundle(
            tmp_path,
            parts.manifest,
            network=parts.network,
            head=head,
            reference=parts.reference,
            golden=parts.golden,
            model_card="x",
        )
    assert refused.value.code == "head_mismatch"
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_breaks_off_leaves_nothing_that_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(BundleError, match="No space left"):
        make_tiny_bundle(tmp_path)
    assert BundleStore(tmp_path).list() == []
    assert not list(tmp_path.glob(".draft-*"))


def test_two_writers_cannot_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked before either wrote: the rename decides."""
    make_tiny_bundle(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(BundleError) as refused:
        make_tiny_bundle(tmp_path, seed=1)
    assert refused.value.code == "bundle_exists"


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("explanation", ["gap_linear", "gap_mlp_relu", "none"])
def test_every_kind_of_tiny_bundle_verifies(tmp_path: Path, task: Any, explanation: Any) -> None:
    ref = make_tiny_bundle(tmp_path, task=task, explanation=explanation)
    bundle = BundleStore(tmp_path).verify(ref)
    assert (bundle.head == {}) == (explanation == "none")
    assert bundle.manifest.task == task
