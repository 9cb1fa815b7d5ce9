"""The structure of an ONNX file, read without its libraries, and checked before they open it.

An ONNX file is data: a graph of operators that onnxruntime knows, and their weights. But what it
declares is allocated: a few bytes declare weights of terabytes. So each tensor is compared with the
bytes that hold it, here, and the file is tried out in a child process (`milpath.store.onnxtrial`)
before this one opens it.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from milpath.errors import UsageError
from milpath.store.protobuf import Field, Message, ProtobufError, ProtobufFile

MAX_FILE_BYTES = (1 << 31) - 1
"""Of the file itself, as protobuf allows; external data may be larger."""
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Whose operators onnxruntime brings."""

_MAX_TEXT = 1 << 16
_MAX_DEPTH = 16  # of graphs in graphs
_MAX_AXES = 16
_MAX_DIM_BYTES = 200
_MAX_INDEX_BYTES = 1 << 20
_OTHER_PROGRAMS = frozenset({"EPContext", "PythonOp", "PythonOpGrad"})
"""Operators that run what is not in the graph: compiled code, or Python."""
_REMEDY = "export the network again"

# numbers of the fields, as in onnx.proto
_MODEL_IR, _MODEL_GRAPH, _MODEL_PROPS, _MODEL_TRAINING, _MODEL_FUNCTION = 1, 7, 14, 20, 25
_GRAPH_NODE, _GRAPH_WEIGHTS, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_ATTRIBUTE = 1, 7, 10, 11
_ATTR_TENSOR, _ATTR_GRAPH, _ATTR_TENSORS, _ATTR_GRAPHS = 5, 6, 10, 11
_ATTR_SPARSE = (22, 23)
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_STRINGS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 6, 8, 9
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_TENSOR_NUMBERS = (4, 5, 7, 10, 11)

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64}
_BITS |= {14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4}
_BITS |= {24: 8, 25: 2, 26: 2}
"""Bits of a number of each type, by its code in the format."""
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}
_TYPES |= {8: "string", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"}
_FLOAT16 = 10


@dataclass(frozen=True)
class OnnxValue:
    """An input or output of the network.

    Attributes
    ----------
    name : of the value
    dtype : NumPy's name of its type; "string", "bfloat16" and others that are not NumPy's
    shape : lengths of its axes, None for one that is not fixed; None if it is not stated
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def describe(self) -> str:
        """Return its type and shape, such as "float32 (?, 3, 224, 224)"."""
        if self.shape is None:
            return f"{self.dtype} of an unstated shape"
        return f"{self.dtype} ({', '.join('?' if n is None else str(n) for n in self.shape)})"


@dataclass(frozen=True)
class OnnxDescription:
    """What an ONNX file holds.

    Attributes
    ----------
    metadata : texts that the exporting program stored, by their key
    inputs, outputs : of the network; inputs that are weights are left out
    external : the files beside it that hold weights, sorted
    weight_bytes : bytes of all weights, in the file and beside it
    half : whether weights are float16
    """

    metadata: Mapping[str, str]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    external: tuple[Path, ...]
    weight_bytes: int
    half: bool


def read_onnx(path: Path) -> OnnxDescription:
    """Read and check the structure of an ONNX file; it need not be trusted.

    No weights are read. Every tensor must be as large as the bytes that hold it; external data must
    lie in the file's own folder; operators must be those that onnxruntime brings.

    Raises
    ------
    UsageError : missing, not ONNX, damaged, or not as above
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path.name}: not a file; expected an ONNX file (.onnx)")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(
                f"{path.name}: has more than 2 GiB, which no ONNX file has; export it with its "
                "weights as external data"
            )
        with path.open("rb") as file:
            return _Reader(path, ProtobufFile(file)).read()
    except OSError as error:
        raise UsageError(f"{path.name}: cannot be read ({error.strerror})") from None
    except ProtobufError as error:
        raise UsageError(f"{path.name}: not an ONNX file, or damaged ({error})") from None
    except _RefusedError as error:
        raise UsageError(f"{path.name}: {error}") from None


class _RefusedError(Exception):
    """The file is ONNX, but not opened; the text is the fact and the remedy."""


@dataclass
class _Found:
    """What was found so far."""

    external: set[Path] = field(default_factory=set)
    weight_bytes: int = 0
    types: set[int] = field(default_factory=set)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)


class _Reader:
    """Reads the structure of one file."""

    def __init__(self, path: Path, file: ProtobufFile) -> None:
        self._path = path
        self._file = file
        self._found = _Found()

    def read(self) -> OnnxDescription:
        whole = self._file.whole
        numbers: dict[int, int] = {}
        graphs: list[Message] = []
        metadata: dict[str, str] = {}
        for each in self._file.iter_fields(whole):
            if each.body is None:
                numbers[each.number] = each.value
            elif each.number == _MODEL_PROPS:
                metadata.update([self._read_pair(each.body)])
            elif each.number == _MODEL_GRAPH:
                graphs.append(each.body)
            elif each.number == _MODEL_FUNCTION:
                self._read_function(each.body)
            elif each.number == _MODEL_TRAINING:
                raise _RefusedError("holds graphs for training; export it for inference")
        if numbers.get(_MODEL_IR, 0) < 1 or len(graphs) != 1:
            raise ProtobufError("it has no version of ONNX, or no graph")
        inputs, outputs = self._read_graph(graphs[0], 0)
        self._check_operators()
        return OnnxDescription(
            metadata,
            inputs,
            outputs,
            tuple(sorted(self._found.external)),
            self._found.weight_bytes,
            _FLOAT16 in self._found.types,
        )

    # -- graphs and operators ----------------------------------------------------------------------

    def _read_graph(
        self, graph: Message, depth: int
    ) -> tuple[tuple[OnnxValue, ...], tuple[OnnxValue, ...]]:
        """Check a graph and those inside it, and return its inputs and outputs."""
        if depth > _MAX_DEPTH:
            raise _RefusedError(f"holds graphs in graphs, more than {_MAX_DEPTH} deep; {_REMEDY}")
        inputs, outputs, weights = [], [], set()
        for number, body in self._iter_bodies(graph):
            if number == _GRAPH_NODE:
                self._read_node(body, depth)
            elif number == _GRAPH_WEIGHTS:
                weights.add(self._check_tensor(body))
            elif number == _GRAPH_INPUT:
                inputs.append(self._read_value(body))
            elif number == _GRAPH_OUTPUT:
                outputs.append(self._read_value(body))
            elif number == _GRAPH_SPARSE:
                raise _RefusedError(f"holds sparse weights; {_REMEDY} with dense ones")
        return tuple(each for each in inputs if each.name not in weights), tuple(outputs)

    def _read_node(self, node: Message, depth: int) -> None:
        kind, domain = "", ""
        for number, body in self._iter_bodies(node):
            if number == _NODE_TYPE:
                kind = self._file.read_text(body, _MAX_TEXT)
            elif number == _NODE_DOMAIN:
                domain = self._file.read_text(body, _MAX_TEXT)
            elif number == _NODE_ATTRIBUTE:
                self._read_attribute(body, depth)
        self._found.operators.add((domain, kind))

    def _read_attribute(self, attribute: Message, depth: int) -> None:
        for number, body in self._iter_bodies(attribute):
            if number in (_ATTR_TENSOR, _ATTR_TENSORS):
                self._check_tensor(body)
            elif number in (_ATTR_GRAPH, _ATTR_GRAPHS):
                self._read_graph(body, depth + 1)
            elif number in _ATTR_SPARSE:
                raise _RefusedError(f"holds sparse constants; {_REMEDY} with dense ones")

    def _read_function(self, function: Message) -> None:
        name, domain = "", ""
        for number, body in self._iter_bodies(function):
            if number == _FUNCTION_NAME:
                name = self._file.read_text(body, _MAX_TEXT)
            elif number == _FUNCTION_DOMAIN:
                domain = self._file.read_text(body, _MAX_TEXT)
            elif number == _FUNCTION_NODE:
                self._read_node(body, 1)
            elif number == _FUNCTION_ATTRIBUTE:
                self._read_attribute(body, 1)
        self._found.functions.add((domain, name))

    def _check_operators(self) -> None:
        for domain, kind in sorted(self._found.operators - self._found.functions):
            if domain not in DOMAINS or kind in _OTHER_PROGRAMS:
                raise _RefusedError(
                    f"needs the operator {_show(kind)} of {_show(domain or 'ONNX')}, which "
                    "onnxruntime does not bring; libraries of operators are not loaded; "
                    "export it with the operators of ONNX"
                )

    def _iter_bodies(self, message: Message) -> Iterator[tuple[int, Message]]:
        """Yield the number and the place of each field that has a length."""
        for each in self._file.iter_fields(message):
            if each.body is not None:
                yield each.number, each.body

    def _read_pair(self, body: Message) -> tuple[str, str]:
        """Return a key and its text; one that is too long is left empty."""
        found = {1: "", 2: ""}
        for number, text in self._iter_bodies(body):
            if number in found and text.nbytes <= _MAX_TEXT:
                found[number] = self._file.read_text(text, _MAX_TEXT)
        return found[1], found[2]

    # -- inputs and outputs ------------------------------------------------------------------------

    def _read_value(self, body: Message) -> OnnxValue:
        name, dtype, shape = "", "no tensor", None
        for number, part in self._iter_bodies(body):
            if number == 1:
                name = self._file.read_text(part, _MAX_TEXT)
            elif number == 2:
                dtype, shape = self._read_type(part)
        return OnnxValue(name, dtype, shape)

    def _read_type(self, body: Message) -> tuple[str, tuple[int | None, ...] | None]:
        dtype, shape = "no tensor", None
        for number, tensor in self._iter_bodies(body):
            if number != 1:  # a sequence, a map, an optional value
                continue
            for each in self._file.iter_fields(tensor):
                if each.number == 1 and each.body is None:
                    dtype = _TYPES.get(each.value, f"type {each.value}")
                elif each.number == 2 and each.body:
                    shape = self._read_shape(each.body)
        return dtype, shape

    def _read_shape(self, body: Message) -> tuple[int | None, ...]:
        shape: list[int | None] = []
        for number, dimension in self._iter_bodies(body):
            if number != 1:
                continue
            length = None
            for each in self._file.iter_fields(dimension):
                if each.number == 1 and each.body is None and each.value > 0:
                    length = each.value
            shape.append(length)
            if len(shape) > _MAX_AXES:
                raise _RefusedError(f"has an input or output of more than {_MAX_AXES} axes")
        return tuple(shape)

    # -- weights -----------------------------------------------------------------------------------

    def _check_tensor(self, body: Message) -> str:
        """Check that a tensor is as large as the bytes that hold it, and return its name."""
        tensor = _Tensor()
        for each in self._file.iter_fields(body):
            self._add_to_tensor(tensor, each)
        if len(tensor.dims) > _MAX_AXES or any(length < 0 for length in tensor.dims):
            raise _RefusedError(f"the weights {_show(tensor.name)} have an impossible shape")
        if tensor.is_external:
            self._check_external(tensor)
        else:
            self._check_size(tensor)
        self._found.weight_bytes += tensor.nbytes
        self._found.types.add(tensor.type)
        return tensor.name

    def _add_to_tensor(self, tensor: _Tensor, each: Field) -> None:
        number, body = each.number, each.body
        if number == _TENSOR_DIMS:
            tensor.dims += (
                [each.value] if body is None else self._file.read_varints(body, _MAX_DIM_BYTES)
            )
        elif body is None:
            tensor.set_number(number, each.value)
        elif number == _TENSOR_NAME:
            tensor.name = self._file.read_text(body, _MAX_TEXT)
        elif number == _TENSOR_RAW:
            tensor.raw = body.nbytes
        elif number in _TENSOR_NUMBERS:
            tensor.stored += body.nbytes
        elif number == _TENSOR_STRINGS:
            tensor.stored += 1
        elif number == _TENSOR_EXTERNAL:
            tensor.external.update([self._read_pair(body)])

    def _check_size(self, tensor: _Tensor) -> None:
        if tensor.raw is not None:
            fits = tensor.raw == tensor.nbytes
        else:  # a number takes a byte or more, but a byte may hold several small ones
            fits = math.prod(tensor.dims) * min(8, _BITS.get(tensor.type, 8)) <= 8 * tensor.stored
        if not fits:
            raise _RefusedError(
                f"the weights {_show(tensor.name)} declare other numbers than the file holds "
                f"(shape {'x'.join(map(str, tensor.dims))[:80]}); {_REMEDY}"
            )

    def _check_external(self, tensor: _Tensor) -> None:
        path = self._find_external(tensor)
        size = path.stat().st_size
        try:
            offset = int(tensor.external.get("offset") or 0)
            length = int(tensor.external.get("length") or size - offset)
        except ValueError:
            offset = length = -1
        if offset < 0 or length != tensor.nbytes or offset + length > size:
            raise _RefusedError(
                f"the weights {_show(tensor.name)} declare other numbers than "
                f"{_show(path.name)} holds; copy both files again, or {_REMEDY}"
            )
        self._found.external.add(path)

    def _find_external(self, tensor: _Tensor) -> Path:
        """Return the file that holds the numbers of a tensor; it must lie in the folder."""
        location = tensor.external.get("location", "")
        place = PurePosixPath(location.replace("\\", "/"))
        folder = self._path.resolve().parent
        strange = any(mark in location for mark in "*?:") or not location.isprintable()
        if not location or strange or place.is_absolute() or ".." in place.parts:
            raise _RefusedError(
                f"its weights are in {_show(location)}, which is not a file in its folder; "
                f"{_REMEDY} with its weights beside it"
            )
        path = folder / place
        if not path.resolve().is_relative_to(folder):
            raise _RefusedError(f"its weights are in {_show(location)}, which leads elsewhere")
        if not path.is_file():
            raise _RefusedError(
                f"its weights are in {_show(location)}, which is missing; copy it to the same "
                "folder"
            )
        return path


@dataclass
class _Tensor:
    """A tensor, as far as it is read; `stored` counts bytes, and items of unpacked lists."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    type: int = 0
    raw: int | None = None
    stored: int = 0
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers that it declares."""
        return -(-math.prod(self.dims) * _BITS.get(self.type, 8) // 8)

    def set_number(self, number: int, value: int) -> None:
        """Take a field that is a number: its type, where it is, or one number of an open list."""
        if number == _TENSOR_TYPE:
            self.type = value
        elif number == _TENSOR_LOCATION:
            self.is_external = value == 1
        elif number in _TENSOR_NUMBERS:
            self.stored += 1


def _show(text: str) -> str:
    """Return a text of the file for a message: short, and without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80]) or "''"
