from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from app.bundle.tensors import ArraySpec, npz_names, read_npz, read_safetensors, write_npz, write_safetensors
from app.errors import BundleError

ARRAYS: dict[str, NDArray[Any]] = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(7, dtype=np.int64),
    "c": np.array('{"x":1}'),
    "d": np.zeros((3, 4), dtype=np.uint16),
}
SPECS = {
    "a": ArraySpec(("float32",), (2, 3)),
    "b": ArraySpec(("int64",), ()),
    "c": ArraySpec(("str",), (), max_chars=16),
    "d": ArraySpec(("uint8", "uint16"), (None, 4)),
}


def test_arrays_come_back_read_only() -> None:
    arrays = read_npz(write_npz(ARRAYS), SPECS, file="x.npz", max_bytes=1_000)
    assert set(arrays) == set(ARRAYS)
    for name, want in ARRAYS.items():
        assert arrays[name].dtype == want.dtype
        np.testing.assert_array_equal(arrays[name], want)
        with pytest.raises(ValueError, match="read-only"):
            arrays[name][...] = want


def test_numpy_reads_what_is_written_and_the_other_way_round() -> None:
    with np.load(io.BytesIO(write_npz(ARRAYS)), allow_pickle=False) as loaded:
        assert sorted(loaded) == ["a", "b", "c", "d"]
        np.testing.assert_array_equal(loaded["a"], ARRAYS["a"])
    out = io.BytesIO()
    np.savez(out, **ARRAYS)  # type: ignore[arg-type]  # its stub has `allow_pickle` before the arrays
    assert str(read_npz(out.getvalue(), SPECS, file="x.npz", max_bytes=1_000)["c"]) == '{"x":1}'


def test_the_same_arrays_give_the_same_bytes() -> None:
    backwards = dict(reversed(ARRAYS.items()))
    assert write_npz(ARRAYS) == write_npz(backwards)
    assert npz_names(write_npz(backwards), file="x.npz") == ("a", "b", "c", "d")
    head = {"weight": np.ones((1, 4), np.float32), "bias": np.zeros(1, np.float32)}
    assert write_safetensors(head) == write_safetensors(dict(reversed(head.items())))


@given(hnp.arrays(st.sampled_from([np.uint8, np.float32, np.float64, np.int64]), hnp.array_shapes(max_dims=4)))
def test_any_plain_array_comes_back(values: NDArray[Any]) -> None:
    spec = ArraySpec((values.dtype.name,), (None,) * values.ndim, finite=False)
    read = read_npz(write_npz({"v": values}), {"v": spec}, file="x.npz", max_bytes=1 << 20)["v"]
    np.testing.assert_array_equal(read, values)


def test_objects_are_not_written() -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz({"o": np.array([None])})


def test_size_is_checked_before_anything_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_npz({"a": np.zeros(1_000_000, np.float32)})

    def never(*_: object, **__: object) -> None:
        raise AssertionError("inflated")

    monkeypatch.setattr(zipfile.ZipFile, "open", never)
    with pytest.raises(BundleError, match=r"declares 4000\d\d\d bytes"):
        read_npz(data, {"a": ArraySpec(("float32",), (None,))}, file="x.npz", max_bytes=1_000_000)


@settings(max_examples=300)
@given(st.data())
def test_damage_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    """One or two bytes changed: the checksum or a check finds it, or it lies in a part that says nothing (times, permissions)."""
    damaged = bytearray(write_npz(ARRAYS))
    for _ in range(data.draw(st.integers(1, 2))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays = read_npz(bytes(damaged), SPECS, file="x.npz", max_bytes=1_000)
    except BundleError:
        return
    for name, want in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], want)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        read_npz(data, SPECS, file="x.npz", max_bytes=1_000)
    with pytest.raises(BundleError):
        read_safetensors(b"\x40" + data, file="x.safetensors")


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_arbitrary_npy_payloads_are_refused(payload: bytes) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("b.npy", b"\x93NUMPY\x01\x00" + payload)
    with pytest.raises(BundleError):
        read_npz(out.getvalue(), {"b": SPECS["b"]}, file="x.npz", max_bytes=1_000)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros((2, 3)), "has the type float64, wanted float32"),
        (np.zeros((2, 4), np.float32), r"has the shape \[2, 4\], wanted \[2, 3\]"),
        (np.zeros(6, np.float32), r"has the shape \[6\]"),
        (np.full((2, 3), np.inf, np.float32), "not finite"),
        (np.zeros((2, 3), ">f4"), "not an npy array of plain numbers"),
        (np.asfortranarray(ARRAYS["a"]), "C order"),
        (np.zeros((2, 3), "S4"), "not an npy array of plain numbers"),
        (np.zeros((2, 3), np.complex64), "not an npy array of plain numbers"),
        (np.zeros((2, 3), [("x", "<f4")]), "not an npy array of plain numbers"),
        (np.zeros((2, 3), "U3"), "has the type <U3"),
    ],
)
def test_an_array_of_another_kind_is_refused(values: object, why: str) -> None:
    out = io.BytesIO()
    np.savez(out, a=values)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(BundleError, match=why):
        read_npz(out.getvalue(), {"a": SPECS["a"]}, file="x.npz", max_bytes=1_000)


def test_head_tensors_come_back_read_only() -> None:
    head = {"weight": np.ones((1, 4), np.float32), "bias": np.zeros(1, np.float32)}
    tensors = read_safetensors(write_safetensors(head), file="head.safetensors")
    assert list(tensors) == ["bias", "weight"]
    np.testing.assert_array_equal(tensors["weight"], head["weight"])
    assert not tensors["weight"].flags.writeable
