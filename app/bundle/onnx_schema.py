"""Which parts of an ONNX file are accepted: tables of field numbers (onnx.proto, IR version 13), types and operators.

A field that is not in a table is an error; one with `refused` is an error with that code. Nothing recursive is left: subgraphs,
functions and nested types are refused, so a file is at most model > graph > node > attribute > tensor > entry deep.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from app.bundle.protobuf import Kind, Slot, Table

IR_VERSIONS = range(7, 14)
OPSETS = range(13, 24)  # 13: per-channel quantisation; 17: LayerNormalization; beyond 23 nothing was tried

# What the exporter writes for torchvision's ResNet, DenseNet, EfficientNet and Swin and for plain convolution networks, and what
# static quantisation (QDQ format) adds. No control flow, no file or string operator, no random numbers, no loops.
_NAMES = (
    "Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv DequantizeLinear Div Equal Erf Expand "
    "Flatten Gather Gelu Gemm GlobalAveragePool Identity LayerNormalization MatMul MaxPool Mod Mul Neg Not Pad Pow "
    "QuantizeLinear Range ReduceMean Relu Reshape ScatterND Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Transpose "
    "Unsqueeze Where"
)
OPERATORS = frozenset(_NAMES.split())
QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})  # of a network in int8, and of no other
DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})

FLOAT = 1
# TensorProto.DataType -> (bytes of one element, name of the field that may hold it besides raw_data)
ELEMENTS: Mapping[int, tuple[int, str]] = MappingProxyType(
    {
        FLOAT: (4, "float_data"),
        2: (1, "int32_data"),  # uint8
        3: (1, "int32_data"),  # int8
        6: (4, "int32_data"),  # int32
        7: (8, "int64_data"),
        9: (1, "int32_data"),  # bool
        11: (8, "double_data"),
    }
)
DATA_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "float_data": Kind.FIXED32,
        "int32_data": Kind.VARINT,
        "int64_data": Kind.VARINT,
        "double_data": Kind.FIXED64,
    }
)
# AttributeProto.AttributeType -> the only field that may be filled
ATTRIBUTE_FIELDS: Mapping[int, str] = MappingProxyType(
    {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
)

_CUSTOM = "custom_operator"
_FORBIDDEN = "forbidden_operator"
_EXTERNAL = "external_data"
_MALFORMED = "malformed_network"


def _number(name: str) -> Slot:
    return Slot(name, Kind.VARINT)


def _bytes(name: str) -> Slot:
    return Slot(name, Kind.BYTES)


def _text(name: str, *, repeated: bool = False) -> Slot:
    return Slot(name, Kind.BYTES, repeated=repeated, text=True)


def _many(name: str, kind: Kind = Kind.BYTES) -> Slot:
    return Slot(name, kind, repeated=True)


def _never(name: str, code: str, kind: Kind = Kind.BYTES) -> Slot:
    return Slot(name, kind, repeated=True, refused=code)


MODEL: Table = {
    1: _number("ir_version"),
    2: _text("producer_name"),
    3: _text("producer_version"),
    4: _text("domain"),
    5: _number("model_version"),
    6: _text("doc_string"),
    7: _bytes("graph"),
    8: _many("opset_import"),
    14: _many("metadata_props"),
    20: _never("training_info", _FORBIDDEN),
    25: _never("functions", _CUSTOM),
    26: _never("configuration", _MALFORMED),
}
OPSET: Table = {1: _text("domain"), 2: _number("version")}
ENTRY: Table = {1: _text("key"), 2: _text("value")}
GRAPH: Table = {
    1: _many("node"),
    2: _text("name"),
    5: _many("initializer"),
    10: _text("doc_string"),
    11: _many("input"),
    12: _many("output"),
    13: _many("value_info"),
    14: _never("quantization_annotation", _MALFORMED),
    15: _many("sparse_initializer"),
    16: _many("metadata_props"),
}
NODE: Table = {
    1: _text("input", repeated=True),
    2: _text("output", repeated=True),
    3: _text("name"),
    4: _text("op_type"),
    5: _many("attribute"),
    6: _text("doc_string"),
    7: _text("domain"),
    8: _never("overload", _CUSTOM),
    9: _many("metadata_props"),
    10: _never("device_configurations", _MALFORMED),
}
ATTRIBUTE: Table = {
    1: _text("name"),
    2: Slot("f", Kind.FIXED32),
    3: _number("i"),
    4: _bytes("s"),
    5: _bytes("t"),
    6: _never("g", _FORBIDDEN),
    7: _many("floats", Kind.FIXED32),
    8: _many("ints", Kind.VARINT),
    9: _many("strings"),
    10: _many("tensors"),
    11: _never("graphs", _FORBIDDEN),
    13: _text("doc_string"),
    14: _never("tp", _MALFORMED),
    15: _never("type_protos", _MALFORMED),
    20: _number("type"),
    21: _never("ref_attr_name", _CUSTOM),
    22: _bytes("sparse_tensor"),
    23: _many("sparse_tensors"),
}
TENSOR: Table = {
    1: _many("dims", Kind.VARINT),
    2: _number("data_type"),
    3: _never("segment", _MALFORMED),
    4: _many("float_data", Kind.FIXED32),
    5: _many("int32_data", Kind.VARINT),
    6: _never("string_data", _MALFORMED),
    7: _many("int64_data", Kind.VARINT),
    8: _text("name"),
    9: _bytes("raw_data"),
    10: _many("double_data", Kind.FIXED64),
    11: _never("uint64_data", _MALFORMED),
    12: _text("doc_string"),
    13: _never("external_data", _EXTERNAL),
    14: _number("data_location"),
    16: _many("metadata_props"),
}
SPARSE_TENSOR: Table = {1: _bytes("values"), 2: _bytes("indices"), 3: _many("dims", Kind.VARINT)}
VALUE_INFO: Table = {1: _text("name"), 2: _bytes("type"), 3: _text("doc_string"), 4: _many("metadata_props")}
TYPE: Table = {
    1: _bytes("tensor_type"),
    4: _never("sequence_type", _MALFORMED),
    5: _never("map_type", _MALFORMED),
    6: _text("denotation"),
    7: _never("opaque_type", _MALFORMED),
    8: _never("sparse_tensor_type", _MALFORMED),
    9: _never("optional_type", _MALFORMED),
}
TENSOR_TYPE: Table = {1: _number("elem_type"), 2: _bytes("shape")}
SHAPE: Table = {1: _many("dim")}
DIMENSION: Table = {1: _number("dim_value"), 2: _text("dim_param"), 3: _text("denotation")}
