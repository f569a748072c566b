"""Attacks on network.onnx, made through the `onnx` package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.bundle_victim import AttackList, Victim

Change: TypeAlias = Callable[[onnx.ModelProto], None]


class _ModelAttacks(AttackList):
    def model(
        self, code: str, name: str | None = None, *, by: Literal["store", "run"] = "store"
    ) -> Callable[[Change], Change]:
        """Decorator: the function changes the parsed model and gives the name."""

        def register(change: Change) -> Change:
            def apply(v: Victim) -> None:
                model = v.model()
                change(model)
                v.write_model(model)

            self.add(name or change.__name__, code, apply, by=by)
            return change

        return register


ON_NETWORK = _ModelAttacks()


def _externalise(tensor: TensorProto, location: str = "weights.bin") -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def _constant(tensor: TensorProto | None = None, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["unused"], **({"value": tensor} if tensor is not None else attributes))


def _one(name: str = "one") -> TensorProto:
    return numpy_helper.from_array(np.ones(1, np.float32), name)


def _sparse(*, external: bool) -> onnx.SparseTensorProto:
    values, indices = _one("sparse"), numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    if external:
        _externalise(values)
    return helper.make_sparse_tensor(values, indices, [4])


def _subgraph() -> onnx.GraphProto:
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
    return helper.make_graph([helper.make_node("Constant", [], ["inner"], value=_one())], "inner", [], [out])


@ON_NETWORK.model("external_data")
def initializer_outside_the_file(m: onnx.ModelProto) -> None:
    _externalise(m.graph.initializer[0])


@ON_NETWORK.model("external_data")
def initializer_by_memory_address(m: onnx.ModelProto) -> None:
    _externalise(m.graph.initializer[0], "*/_ORT_MEM_ADDR_/*")


@ON_NETWORK.model("external_data")
def external_location_alone(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_location = TensorProto.EXTERNAL


@ON_NETWORK.model("external_data")
def external_entry_alone(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


@ON_NETWORK.model("external_data")
def attribute_outside_the_file(m: onnx.ModelProto) -> None:
    tensor = _one()
    _externalise(tensor, "../../secret")
    m.graph.node.append(_constant(tensor))


@ON_NETWORK.model("external_data")
def attribute_list_outside_the_file(m: onnx.ModelProto) -> None:
    tensor = _one()
    _externalise(tensor)
    attribute = onnx.AttributeProto(name="x", type=onnx.AttributeProto.TENSORS, tensors=[tensor])
    m.graph.node[0].attribute.append(attribute)


@ON_NETWORK.model("external_data")
def sparse_initializer_outside_the_file(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.append(_sparse(external=True))


@ON_NETWORK.model("external_data")
def sparse_attribute_outside_the_file(m: onnx.ModelProto) -> None:
    m.graph.node.append(_constant(sparse_value=_sparse(external=True)))


@ON_NETWORK.model("malformed_network")
def sparse_initializer(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.append(_sparse(external=False))


@ON_NETWORK.model("malformed_network")
def sparse_attribute(m: onnx.ModelProto) -> None:
    m.graph.node.append(_constant(sparse_value=_sparse(external=False)))


@ON_NETWORK.model("custom_operator")
def node_of_a_custom_domain(m: onnx.ModelProto) -> None:
    m.graph.node[0].domain = "com.evil"


@ON_NETWORK.model("custom_operator")
def node_of_the_runtime_s_own_domain(m: onnx.ModelProto) -> None:
    m.graph.node[0].domain = "com.microsoft"


@ON_NETWORK.model("custom_operator")
def import_of_a_custom_domain(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))


@ON_NETWORK.model("custom_operator")
def function(m: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    m.functions.append(helper.make_function("com.evil", "F", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))


@ON_NETWORK.model("custom_operator")
def overload(m: onnx.ModelProto) -> None:
    m.graph.node[0].overload = "fast"


@ON_NETWORK.model("custom_operator")
def attribute_by_reference(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute[0].ref_attr_name = "x"


for _operator in ("RandomNormal", "Loop", "If", "Scan", "SequenceMap", "StringConcat", "ImageDecoder", "Conv ", "conv"):

    @ON_NETWORK.model("forbidden_operator", f"operator {_operator!r}")
    def _forbidden(m: onnx.ModelProto, operator: str = _operator) -> None:
        m.graph.node[0].op_type = operator


@ON_NETWORK.model("forbidden_operator")
def branch(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=_subgraph(), else_branch=_subgraph()))


@ON_NETWORK.model("forbidden_operator")
def subgraph_on_an_allowed_operator(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("body", _subgraph()))


@ON_NETWORK.model("forbidden_operator")
def list_of_subgraphs(m: onnx.ModelProto) -> None:
    attribute = onnx.AttributeProto(name="x", type=onnx.AttributeProto.GRAPHS, graphs=[_subgraph()])
    m.graph.node[0].attribute.append(attribute)


@ON_NETWORK.model("forbidden_operator")
def external_data_in_a_subgraph(m: onnx.ModelProto) -> None:
    inner = _subgraph()
    _externalise(inner.node[0].attribute[0].t)
    m.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner))


@ON_NETWORK.model("forbidden_operator")
def branches_30_deep(m: onnx.ModelProto) -> None:
    graph = _subgraph()
    for _ in range(30):
        node = helper.make_node("If", ["c"], ["inner"])
        node.attribute.append(onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH, g=graph))
        graph = helper.make_graph([node], "g", [], [])
    m.graph.node.append(graph.node[0])


@ON_NETWORK.model("forbidden_operator")
def training_graph(m: onnx.ModelProto) -> None:
    m.training_info.add().algorithm.CopyFrom(_subgraph())


@ON_NETWORK.model("malformed_network")
def session_options_in_metadata(m: onnx.ModelProto) -> None:
    m.metadata_props.add(key="ort_config", value='{"session_options": {}}')


@ON_NETWORK.model("malformed_network")
def attribute_of_two_types(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute[0].i = 3


@ON_NETWORK.model("malformed_network")
def attribute_of_another_type(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute[0].type = onnx.AttributeProto.GRAPH


@ON_NETWORK.model("malformed_network")
def tensor_shorter_than_its_shape(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].raw_data = m.graph.initializer[0].raw_data[:-4]


@ON_NETWORK.model("malformed_network")
def tensor_longer_than_its_shape(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] -= 1


@ON_NETWORK.model("malformed_network")
def tensor_of_2_to_the_64_elements(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[:] = [1 << 32, 1 << 32]
    m.graph.initializer[0].raw_data = b""


@ON_NETWORK.model("malformed_network")
def tensor_with_an_axis_below_zero(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].dims[0] = -8


@ON_NETWORK.model("malformed_network")
def tensor_with_two_kinds_of_data(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].float_data.append(1.0)


@ON_NETWORK.model("malformed_network")
def typed_data_shorter_than_its_shape(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 3)


@ON_NETWORK.model("malformed_network")
def data_of_another_type(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.int64_data.extend([0] * 8)


@ON_NETWORK.model("malformed_network")
def tensor_of_text(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(TensorProto(name="s", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"]))


@ON_NETWORK.model("malformed_network")
def tensor_of_an_unknown_type(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_type = 999


@ON_NETWORK.model("malformed_network")
def tensor_in_segments(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].segment.begin = 0


@ON_NETWORK.model("malformed_network")
def initializer_twice(m: onnx.ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


@ON_NETWORK.model("malformed_network")
def value_of_a_nested_type(m: onnx.ModelProto) -> None:
    info = m.graph.value_info.add(name="v")
    kind = info.type
    for _ in range(60):
        kind = kind.sequence_type.elem_type
    kind.tensor_type.elem_type = 1


@ON_NETWORK.model("malformed_network")
def no_nodes(m: onnx.ModelProto) -> None:
    del m.graph.node[:]


@ON_NETWORK.model("malformed_network")
def no_graph(m: onnx.ModelProto) -> None:
    m.ClearField("graph")


@ON_NETWORK.model("malformed_network")
def no_operator_set(m: onnx.ModelProto) -> None:
    del m.opset_import[:]


@ON_NETWORK.model("malformed_network")
def operator_set_twice(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("ai.onnx", 17))


for _version in (9, 99):

    @ON_NETWORK.model("unsupported_opset", f"operator set {_version}")
    def _unsupported(m: onnx.ModelProto, version: int = _version) -> None:
        m.opset_import[0].version = version


@ON_NETWORK.model("malformed_network")
def format_of_the_future(m: onnx.ModelProto) -> None:
    m.ir_version = 99


@ON_NETWORK.model("malformed_network")
def node_name_of_a_megabyte(m: onnx.ModelProto) -> None:
    m.graph.node[0].op_type = "x" * (1 << 20)


@ON_NETWORK.model("malformed_network", by="run")
def node_that_feeds_itself(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("Relu", ["loop"], ["loop"]))


@ON_NETWORK.model("malformed_network", by="run")
def initializer_that_is_not_there(m: onnx.ModelProto) -> None:
    del m.graph.initializer[0]


@ON_NETWORK.model("wrong_inputs_outputs")
def output_of_another_name(m: onnx.ModelProto) -> None:
    m.graph.output[1].name = "gap"


@ON_NETWORK.model("wrong_inputs_outputs")
def one_output_only(m: onnx.ModelProto) -> None:
    del m.graph.output[1]


@ON_NETWORK.model("wrong_inputs_outputs")
def one_more_input(m: onnx.ModelProto) -> None:
    m.graph.input.append(helper.make_tensor_value_info("switch", TensorProto.FLOAT, [1]))


@ON_NETWORK.model("wrong_inputs_outputs")
def input_that_replaces_a_weight(m: onnx.ModelProto) -> None:
    m.graph.input.append(helper.make_tensor_value_info("conv0.bias", TensorProto.FLOAT, [8]))


@ON_NETWORK.model("wrong_inputs_outputs")
def input_of_float64(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@ON_NETWORK.model("wrong_inputs_outputs")
def input_of_another_size(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128


@ON_NETWORK.model("wrong_inputs_outputs")
def input_of_eight_films(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


@ON_NETWORK.model("wrong_inputs_outputs")
def output_of_two_logits(m: onnx.ModelProto) -> None:
    m.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2


@ON_NETWORK.model("wrong_inputs_outputs")
def output_of_other_features(m: onnx.ModelProto) -> None:
    m.graph.output[1].type.tensor_type.shape.dim[2].dim_value = 4


@ON_NETWORK.model("wrong_inputs_outputs")
def output_without_a_shape(m: onnx.ModelProto) -> None:
    m.graph.output[1].type.tensor_type.ClearField("shape")


@ON_NETWORK.model("golden_mismatch", by="run")
def network_that_fails_when_run(m: onnx.ModelProto) -> None:
    m.graph.node[-1].output[0] = "one"
    m.graph.initializer.append(numpy_helper.from_array(np.array([9]), "tenth"))
    m.graph.node.append(helper.make_node("Gather", ["one", "tenth"], ["logits"], axis=1))


@ON_NETWORK.model("golden_mismatch", by="run")
def weights_of_nan(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[0]
    tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()


@ON_NETWORK.model("golden_mismatch", by="run")
def weights_a_little_larger(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[0]
    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.02)).tobytes()


@ON_NETWORK.model("head_mismatch", by="run")
def features_before_the_last_relu(m: onnx.ModelProto) -> None:
    """The head no longer follows from what is explained."""
    m.graph.node[5].output[0] = "hidden"
    m.graph.node[6].input[0] = "hidden"
    m.graph.node.insert(5, helper.make_node("Identity", [m.graph.node[5].input[0]], ["features"]))
