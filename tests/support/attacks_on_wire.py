"""Attacks on network.onnx, byte by byte: what no protobuf library would write."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tests.support.bundle_victim import AttackList

ON_WIRE = AttackList()

# the network, byte by byte


def _wire(code: str, change: Callable[[bytes], bytes], name: str) -> None:
    ON_WIRE.add(name, code, lambda v: v.write(v.network, change(v.read(v.network))))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def _in_graph(extra: bytes) -> Callable[[bytes], bytes]:
    """Append fields to the graph."""

    def change(data: bytes) -> bytes:
        model = onnx.load_from_string(data)
        graph = model.graph.SerializeToString() + extra
        model.ClearField("graph")
        return bytes(model.SerializeToString()) + field(7, graph)

    return change


_EXTERNAL_MOD_2_32 = field(5, field(8, b"w") + b"\x10\x01" + b"\x70" + varint((1 << 32) + 1))
_wire("malformed_network", lambda _: b"\0", "network of one byte")
_wire("malformed_network", lambda _: b"not a network", "network that is text")
_wire("malformed_network", lambda d: d[: len(d) // 2], "network cut in half")
_wire("malformed_network", lambda d: d[:-1], "network cut by one byte")
_wire("malformed_network", lambda d: d + b"\x3a\x00", "graph twice")
_wire("malformed_network", lambda d: d + b"\x08\x08", "version twice")
_wire("malformed_network", lambda d: d + field(99, b"x"), "unknown field")
_wire("malformed_network", lambda d: d + b"\x00\x01", "field number zero")
_wire("malformed_network", lambda d: d + b"\x33\x34", "group")
_wire("malformed_network", lambda d: d + b"\x37", "wire type that does not exist")
_wire("malformed_network", lambda d: d + b"\x32\xff\xff\xff\xff\x0f", "length of 4 GB")
_wire("malformed_network", lambda d: d + b"\x32" + b"\xff" * 9 + b"\x01", "length of 2^64 - 1")
_wire("malformed_network", lambda d: d + b"\x32" + b"\xff" * 20, "length without an end")
_wire("malformed_network", lambda d: d + b"\xb2\x80\x00\x00", "tag longer than it needs to be")
_wire("malformed_network", lambda d: d + b"\x32\x80\x00", "length longer than it needs to be")
_wire("malformed_network", lambda d: d + b"\x30\x05", "number where text belongs")
_wire("malformed_network", lambda d: d.replace(b"\x12\x02c0", b"\x12\x02\xff0", 1), "name that is not UTF-8")
_wire("external_data", _in_graph(_EXTERNAL_MOD_2_32), "external only after cutting to 32 bits")
_wire("malformed_network", _in_graph(field(12, b"") * 500_001), "half a million empty fields")
_wire("malformed_network", _in_graph(field(1, field(4, b"Relu")) * 20_001), "too many nodes")
