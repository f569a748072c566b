"""What is accepted; what is refused stands in test_attacks.py. The `onnx` package is the second opinion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.bundle.onnx_schema import OPERATORS
from app.bundle.onnx_walk import TensorInfo, inspect_network
from app.errors import BundleError
from tests.support.tiny_network import random_weights, tiny_network


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return tiny_network(random_weights("multiclass", "gap_mlp_relu", 1), logits=3)


@pytest.fixture(scope="module")
def data(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def test_the_summary_of_a_network(data: bytes) -> None:
    summary = inspect_network(data)
    assert summary.inputs == (TensorInfo("image", (None, 1, 64, 64)),)
    assert summary.outputs == (TensorInfo("logits", (None, 3)), TensorInfo("features", (None, 16, 8, 8)))
    assert summary.operators == {"Conv": 3, "Gemm": 2, "ReduceMean": 1, "Relu": 4}
    assert summary.opset == 17
    assert summary.parameters == (8 * 9 + 8) + (16 * 72 + 16) + (16 * 144 + 16) + (12 * 16 + 12) + (3 * 12 + 3)


def test_a_fixed_batch_of_one_is_accepted() -> None:
    fixed = tiny_network(random_weights("binary", "gap_linear", 0), logits=1, batch=1)
    assert inspect_network(fixed.SerializeToString()).inputs[0].shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("data_type", "field", "values"),
    [
        (TensorProto.FLOAT, "float_data", [1.0, -2.0, 0.5]),
        (TensorProto.INT32, "int32_data", [1, -2, 300]),
        (TensorProto.INT8, "int32_data", [1, -2, 3]),
        (TensorProto.UINT8, "int32_data", [1, 2, 255]),
        (TensorProto.BOOL, "int32_data", [1, 0, 1]),
        (TensorProto.INT64, "int64_data", [1, -2, 2**40]),
        (TensorProto.DOUBLE, "double_data", [1.0, -2.0, 0.5]),
    ],
)
def test_tensors_may_use_the_field_of_their_type(
    model: onnx.ModelProto, data_type: int, field: str, values: list[float]
) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    tensor = changed.graph.initializer.add(name="t", data_type=data_type, dims=[3])
    getattr(tensor, field).extend(values)
    changed.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    assert inspect_network(changed.SerializeToString()).operators["Constant"] == 1


def test_scalars_and_empty_tensors_are_as_long_as_they_say(model: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for values in (np.float32(1), np.zeros((0, 4), np.int64)):
        changed.graph.initializer.append(numpy_helper.from_array(np.array(values), f"t{changed.ByteSize()}"))
    before = inspect_network(model.SerializeToString()).parameters
    assert inspect_network(changed.SerializeToString()).parameters == before + 1


def test_metadata_of_an_exporter_is_let_pass(model: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.metadata_props.add(key="exporter", value="any")
    changed.graph.node[0].metadata_props.add(key="scope", value="any")
    assert inspect_network(changed.SerializeToString()).opset == 17


def test_no_control_flow_and_nothing_random_is_on_the_list() -> None:
    schemas = {s.name: s for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    assert set(schemas) >= OPERATORS
    for name in OPERATORS:
        kinds = {attribute.type for attribute in schemas[name].attributes.values()}
        assert onnx.defs.OpSchema.AttrType.GRAPH not in kinds
        assert not name.startswith(("Random", "Bernoulli", "Multinomial", "String"))


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for child in value if descriptor.is_repeated else [value]:
                yield from _messages(child)


def _assert_harmless(data: bytes) -> None:
    """By another reader's understanding of the same bytes."""
    parsed = onnx.load_from_string(data)
    summary = inspect_network(data)
    assert summary.operators == dict(sorted(Counter(node.op_type for node in parsed.graph.node).items()))
    assert not parsed.functions
    assert not parsed.training_info
    assert {opset.domain for opset in parsed.opset_import} <= {"", "ai.onnx"}
    for message in _messages(parsed):
        if isinstance(message, TensorProto):
            assert message.data_location == TensorProto.DEFAULT
            assert not message.external_data
        if isinstance(message, onnx.NodeProto):
            assert message.op_type in OPERATORS
            assert message.domain in {"", "ai.onnx"}
        if isinstance(message, onnx.AttributeProto):
            assert not message.HasField("g")
            assert not message.graphs


def test_what_is_accepted_after_damage_is_harmless_to_another_reader(data: bytes) -> None:
    """2,000 damaged copies: refused by name, or accepted and then understood alike by the protobuf library."""
    rng = np.random.default_rng(0)
    interesting = np.flatnonzero(_structure(data))
    accepted = 0
    for _ in range(2_000):
        copy = bytearray(data)
        for at in rng.choice(interesting, size=rng.integers(1, 4)):
            copy[at] = rng.choice([copy[at] ^ (1 << int(rng.integers(8))), int(rng.integers(256))])
        if rng.random() < 0.2:
            at, length = int(rng.choice(interesting)), int(rng.integers(1, 20))
            copy[at : at + length] = copy[at + 3 : at + 3 + length] if rng.random() < 0.5 else b""
        try:
            inspect_network(bytes(copy))
        except BundleError:
            continue
        accepted += 1
        _assert_harmless(bytes(copy))
    assert 100 < accepted < 1_900  # the test would say nothing if one side were empty


def _structure(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Everything but the weights, where damage is only another number."""
    parsed = onnx.load_from_string(data)
    mask = np.ones(len(data), dtype=np.bool_)
    for tensor in parsed.graph.initializer:
        at = data.index(tensor.raw_data)
        mask[at : at + len(tensor.raw_data)] = False
    return mask


def test_every_cut_is_refused(data: bytes) -> None:
    for length in {*range(0, len(data), 97), len(data) - 1}:
        with pytest.raises(BundleError):
            inspect_network(data[:length])
