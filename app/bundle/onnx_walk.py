"""Our own walk over an ONNX file, before any runtime sees it. No `onnx` package, no recursion, nothing is executed.

Accepted is only what `onnx_schema` lists: one graph of known operators of the default domain, every tensor inside the file and
exactly as long as it says, one input `image` and the outputs `logits` and `features`. What a tensor's bytes mean is not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from app.bundle import onnx_schema as schema
from app.bundle.folder import NETWORK
from app.bundle.protobuf import Message, RefusedField, Value, WireError, WireReader, count_numbers, read_varints
from app.errors import BundleError

MAX_FIELDS = 500_000  # Swin-T, the largest graph tried, has about 60,000
MAX_NODES = 20_000
MAX_NAME_BYTES = 1_024
MAX_DIMS = 8
MAX_ELEMENTS = 1 << 28  # 1 GiB of float32
INPUT = "image"
OUTPUTS = ("logits", "features")
_OUTPUT_RANK = {"logits": 2, "features": 4}


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output, float32. shape: a number, or None where the file leaves the size open."""

    name: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class NetworkSummary:
    """What an accepted file holds. operators: type -> count; parameters: numbers in all initializers."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: Mapping[str, int]
    opset: int
    parameters: int


def inspect_network(data: bytes, *, file: str = NETWORK) -> NetworkSummary:
    """Walk an ONNX file and refuse everything that is not expected. `file`: its name, for messages.

    Raises:
        BundleError: `malformed_network` (not a well-formed model, a lying length, an unexpected field), `external_data` (a tensor
            stored outside the file), `custom_operator` (a domain or function of its own), `forbidden_operator` (an operator, subgraph
            or training graph that is not on the list), `unsupported_opset`, `wrong_inputs_outputs`.
    """
    try:
        return _Walk(file).model(memoryview(data))
    except RefusedField as refused:
        raise BundleError(refused.code, f"{file} uses '{refused.name}', which is not accepted") from refused
    except WireError as error:
        raise BundleError("malformed_network", f"{file} is not a well-formed ONNX file: {error}") from error


class _Walk:
    def __init__(self, file: str) -> None:
        self._file = file
        self._reader = WireReader(MAX_FIELDS)

    def model(self, data: memoryview) -> NetworkSummary:
        model = self._reader.parse(data, schema.MODEL)
        ir_version = _number(model, "ir_version")
        if ir_version not in schema.IR_VERSIONS:
            raise WireError(f"IR version {ir_version} is not one of {_words(schema.IR_VERSIONS)}")
        opset = self._opset(model)
        self._metadata(model)
        return self._graph(_piece(model, "graph"), opset)

    def _opset(self, model: Message) -> int:
        versions = []
        for piece in _pieces(model, "opset_import"):
            entry = self._reader.parse(piece, schema.OPSET)
            domain = _text(entry, "domain")
            if domain not in schema.DEFAULT_DOMAINS:
                raise BundleError("custom_operator", f"{self._file} imports the operator domain {domain!r}")
            versions.append(_number(entry, "version"))
        if len(versions) != 1:
            raise WireError(f"{len(versions)} imports of the default operator set")
        if versions[0] not in schema.OPSETS:
            raise BundleError(
                "unsupported_opset", f"{self._file} has opset {versions[0]}, wanted {_words(schema.OPSETS)}"
            )
        return versions[0]

    def _metadata(self, message: Message) -> None:
        """Free entries of an exporter; nothing reads them, as long as they do not address the runtime."""
        for piece in _pieces(message, "metadata_props"):
            key = _text(self._reader.parse(piece, schema.ENTRY), "key")
            if key.startswith("ort_"):  # the runtime can take session options from such entries
                raise WireError(f"metadata entry {key!r} addresses the runtime")

    def _graph(self, data: memoryview, opset: int) -> NetworkSummary:
        graph = self._reader.parse(data, schema.GRAPH)
        self._metadata(graph)
        parameters, initializers = 0, set()
        for piece in _pieces(graph, "initializer"):
            name, elements = self._tensor(piece)
            if not name or name in initializers:
                raise WireError("an initializer without a name of its own")
            initializers.add(name)
            parameters += elements
        self._no_sparse(_pieces(graph, "sparse_initializer"))
        nodes = _pieces(graph, "node")
        if not 1 <= len(nodes) <= MAX_NODES:
            raise WireError(f"{len(nodes)} nodes, wanted 1 to {MAX_NODES}")
        operators = Counter(self._node(piece) for piece in nodes)
        for piece in _pieces(graph, "value_info"):
            self._value_info(piece)
        inputs = tuple(self._float_tensor(piece) for piece in _pieces(graph, "input"))
        outputs = tuple(self._float_tensor(piece) for piece in _pieces(graph, "output"))
        _check_inputs_outputs(inputs, outputs, self._file)
        return NetworkSummary(inputs, outputs, MappingProxyType(dict(sorted(operators.items()))), opset, parameters)

    def _node(self, data: memoryview) -> str:
        node = self._reader.parse(data, schema.NODE)
        self._metadata(node)
        operator, domain = _text(node, "op_type"), _text(node, "domain")
        for piece in _pieces(node, "attribute"):
            self._attribute(piece)
        if domain not in schema.DEFAULT_DOMAINS:
            raise BundleError("custom_operator", f"{self._file} uses {operator!r} of the domain {domain!r}")
        if operator not in schema.OPERATORS:
            raise BundleError("forbidden_operator", f"{self._file} uses the operator {operator!r}, not on the list")
        return operator

    def _attribute(self, data: memoryview) -> None:
        attribute = self._reader.parse(data, schema.ATTRIBUTE)
        for field in ("t", "tensors"):
            for piece in _pieces(attribute, field):
                self._tensor(piece)
        for field in ("sparse_tensor", "sparse_tensors"):
            self._no_sparse(_pieces(attribute, field))
        kind = _number(attribute, "type")
        filled = set(attribute) - {"name", "doc_string", "type"}
        allowed = schema.ATTRIBUTE_FIELDS.get(kind)
        if allowed is None or not filled <= {allowed}:
            raise WireError(f"an attribute of type {kind} with the fields {sorted(filled)}")

    def _no_sparse(self, pieces: list[memoryview]) -> None:
        """Nothing we know of exports sparse tensors. Their parts are still walked, so that the error names the worst fault."""
        for piece in pieces:
            sparse = self._reader.parse(piece, schema.SPARSE_TENSOR)
            for part in ("values", "indices"):
                for tensor in _pieces(sparse, part):
                    self._tensor(tensor)
            raise WireError("sparse tensors are not accepted")

    def _tensor(self, data: memoryview) -> tuple[str, int]:
        """Name and number of elements of a tensor whose bytes are all in the file."""
        tensor = self._reader.parse(data, schema.TENSOR)
        self._metadata(tensor)
        if _number(tensor, "data_location") != 0:  # any value but DEFAULT; never reduced to 32 bits first
            raise BundleError("external_data", f"{self._file} keeps a tensor outside the file (data_location)")
        name, data_type = _text(tensor, "name"), _number(tensor, "data_type")
        if data_type not in schema.ELEMENTS:
            raise WireError(f"tensor {name!r} has the element type {data_type}")
        elements = _elements(read_varints(tensor.get("dims", [])))
        held = {field for field in ("raw_data", *schema.DATA_KINDS) if field in tensor}
        _check_length(tensor, name, data_type, elements, held)
        return name, elements

    def _value_info(self, data: memoryview) -> tuple[str, int, tuple[int | None, ...] | None]:
        """Name, element type and shape (None = open) of a value."""
        info = self._reader.parse(data, schema.VALUE_INFO)
        self._metadata(info)
        kind = self._reader.parse(_piece(info, "type"), schema.TYPE)
        tensor_type = self._reader.parse(_piece(kind, "tensor_type"), schema.TENSOR_TYPE)
        if "shape" not in tensor_type:
            return _text(info, "name"), _number(tensor_type, "elem_type"), None
        dims = []
        for piece in _pieces(self._reader.parse(_piece(tensor_type, "shape"), schema.SHAPE), "dim"):
            dimension = self._reader.parse(piece, schema.DIMENSION)
            dims.append(_number(dimension, "dim_value") if "dim_value" in dimension else None)
        _elements([size for size in dims if size is not None])
        return _text(info, "name"), _number(tensor_type, "elem_type"), tuple(dims)

    def _float_tensor(self, data: memoryview) -> TensorInfo:
        name, element_type, shape = self._value_info(data)
        if element_type != schema.FLOAT or shape is None:
            raise BundleError("wrong_inputs_outputs", f"{self._file}: {name!r} is not a float32 tensor with a shape")
        return TensorInfo(name, shape)


def _check_inputs_outputs(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], file: str) -> None:
    ins, outs = [i.name for i in inputs], [o.name for o in outputs]
    if ins != [INPUT] or sorted(outs) != sorted(OUTPUTS):
        raise BundleError(
            "wrong_inputs_outputs",
            f"{file} has inputs {ins} and outputs {outs}, wanted [{INPUT!r}] and {list(OUTPUTS)}",
        )
    for tensor in (*inputs, *outputs):
        rank = _OUTPUT_RANK.get(tensor.name, 4)
        if len(tensor.shape) != rank or tensor.shape[0] not in (None, 1):
            raise BundleError(
                "wrong_inputs_outputs",
                f"{file}: {tensor.name!r} has the shape {list(tensor.shape)}, wanted {rank} axes, the first open or 1",
            )


def _check_length(tensor: Message, name: str, data_type: int, elements: int, held: set[str]) -> None:
    """A tensor's bytes are in one field, of its own type, and as many as its shape says."""
    size, typed = schema.ELEMENTS[data_type]
    if len(held) > 1 or not held <= {"raw_data", typed}:
        raise WireError(f"tensor {name!r} of type {data_type} with data in {sorted(held)}")
    if "raw_data" in held:
        stored, wanted = len(_piece(tensor, "raw_data")), elements * size
    else:
        stored, wanted = count_numbers(tensor.get(typed, []), schema.DATA_KINDS[typed]), elements
    if stored != wanted:
        raise WireError(f"tensor {name!r} holds {stored} where its shape says {wanted}")


def _elements(dims: list[int]) -> int:
    if len(dims) > MAX_DIMS or any(size < 0 for size in dims):
        raise WireError(f"a shape of {len(dims)} axes, the smallest {min(dims)}")
    count = math.prod(dims)
    if count > MAX_ELEMENTS:
        raise WireError(f"a shape of more than {MAX_ELEMENTS} elements")
    return count


def _pieces(message: Message, name: str) -> list[memoryview]:
    return [value for value in message.get(name, []) if isinstance(value, memoryview)]


def _piece(message: Message, name: str) -> memoryview:
    pieces = _pieces(message, name)
    if len(pieces) != 1:
        raise WireError(f"field {name} is missing")
    return pieces[0]


def _number(message: Message, name: str) -> int:
    """A singular number, 0 where it is missing. Unsigned, so that a negative one is out of every accepted range."""
    values: list[Value] = message.get(name, [])
    return values[0] if values and isinstance(values[0], int) else 0


def _text(message: Message, name: str) -> str:
    values = _pieces(message, name)
    if not values:
        return ""
    if len(values[0]) > MAX_NAME_BYTES:
        raise WireError(f"field {name} has {len(values[0])} bytes")
    return str(values[0], "utf-8")  # the reader has checked it


def _words(numbers: range) -> str:
    return f"{numbers[0]} to {numbers[-1]}"
