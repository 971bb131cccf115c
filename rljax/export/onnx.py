"""ONNX, written from the NumPy calls of `lowering.py`: every runtime of the format takes any batch size.

The library `jax2onnx` is not used: it needs an older Orbax than the checkpoints, and does not know our matrix product.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.export import exportable, extra, lowering
from rljax.report import files

OPSET = 18
IR_VERSION = 9

_NODES = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max", "minimum": "Min",
    "negative": "Neg", "sign": "Sign", "abs": "Abs", "floor": "Floor", "ceil": "Ceil", "exp": "Exp", "log": "Log",
    "sqrt": "Sqrt", "tanh": "Tanh", "sin": "Sin", "cos": "Cos", "equal": "Equal", "less": "Less",
    "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual", "power": "Pow",
    "rint": "Round", "logical_and": "And", "logical_or": "Or", "logical_not": "Not", "logical_xor": "Xor",
    "where": "Where", "asarray": "Identity",
}  # fmt: skip
_REDUCTIONS = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd"}


def write(path: pathlib.Path, policy: exportable.Exportable, metadata: dict[str, Any]) -> list[pathlib.Path]:
    """Write a model, with the metadata as JSON in its property `rljax`; return the file."""
    onnx = extra.imported("onnx")
    program = lowering.lower(*exportable.traced(policy), list(policy.inputs), policy.outputs)
    model = _Graph(onnx, program, policy).model()
    onnx.helper.set_model_props(model, {"rljax": json.dumps(files.plain(metadata), allow_nan=False)})
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    files.replace(path, lambda part: part.write_bytes(data))
    return [path]


class _Graph:
    """The nodes and the constants so far."""

    def __init__(self, onnx: Any, program: lowering.Program, policy: exportable.Exportable) -> None:
        self._onnx, self._program, self._policy = onnx, program, policy
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = dict(program.arrays)
        self._sizes: set[str] = {exportable.BATCH}  # names of values that are sizes, int64 [1]

    def model(self) -> Any:
        helper, program = self._onnx.helper, self._program
        first = program.inputs[0]
        self._add("Shape", [first], exportable.BATCH, start=0, end=1)
        for name, function, arguments, options in program.calls:
            self._call(name, function, arguments, options)
        inputs = [self._value(name, x.dtype, [exportable.BATCH, *x.shape]) for name, x in self._policy.inputs.items()]
        outputs = [
            self._value(name, x.dtype, [exportable.BATCH, *x.shape[1:]])
            for name, x in zip(program.outputs, exportable.results(self._policy), strict=True)
        ]
        constants = [self._onnx.numpy_helper.from_array(x, name) for name, x in self._constants.items()]
        graph = helper.make_graph(self._nodes, "policy", inputs, outputs, constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="rljax")

    def _value(self, name: str, dtype: Any, shape: Sequence[Any]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self._type(dtype), shape)

    def _type(self, dtype: Any) -> int:
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _add(self, node: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or f"n{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(node, list(inputs), [output], **attributes))
        return output

    def _constant(self, value: Any, dtype: Any = np.int64) -> str:
        x = np.asarray(value, dtype)
        name = f"c{len(self._constants)}"
        self._constants[name] = x
        return name

    def _shape(self, sizes: Sequence[Any]) -> str:
        """A shape, of which some sizes may be names of values."""
        if all(isinstance(size, int) for size in sizes):
            return self._constant(list(sizes))
        parts = [self._constant([size]) if isinstance(size, int) else size for size in sizes]
        return self._add("Concat", parts, axis=0)

    def _call(self, name: str, function: str, arguments: Any, options: dict[str, Any]) -> None:
        if function == "multiply" and arguments[0] in self._sizes:
            self._sizes.add(name)
            self._add("Mul", [arguments[0], self._constant([arguments[1]])], name)
        elif function in _NODES:
            self._add(_NODES[function], arguments, name)
        elif function in _REDUCTIONS:
            self._add(_REDUCTIONS[function], [arguments[0], self._constant(options["axis"])], name, keepdims=0)
        else:
            rule = getattr(self, f"_of_{function}", None)
            if rule is None:
                raise UsageError(f"The policy uses {function}, which ONNX does not have: use another format.")
            rule(name, *arguments, **options)

    def _of_not_equal(self, name: str, x: str, y: str) -> None:
        self._add("Not", [self._add("Equal", [x, y])], name)

    def _of_isfinite(self, name: str, x: str) -> None:
        self._add("Not", [self._add("Or", [self._add("IsNaN", [x]), self._add("IsInf", [x])])], name)

    def _of_any(self, name: str, x: str, axis: list[int]) -> None:
        self._of_bools("ReduceMax", name, x, axis)

    def _of_all(self, name: str, x: str, axis: list[int]) -> None:
        self._of_bools("ReduceMin", name, x, axis)

    def _of_bools(self, node: str, name: str, x: str, axis: list[int]) -> None:
        number = self._add("Cast", [x], to=self._type(np.int32))
        reduced = self._add(node, [number, self._constant(axis)], keepdims=0)
        self._add("Cast", [reduced], name, to=self._type(np.bool_))

    def _of_fmod(self, name: str, x: str, y: str) -> None:
        self._add("Mod", [x, y], name, fmod=1)

    def _of_astype(self, name: str, x: str, dtype: str) -> None:
        self._add("Cast", [x], name, to=self._type(dtype))

    def _of_argmax(self, name: str, x: str, axis: int) -> None:
        self._add("ArgMax", [x], name, axis=axis, keepdims=0)

    def _of_reshape(self, name: str, x: str, sizes: list[Any]) -> None:
        self._add("Reshape", [x, self._shape(sizes)], name)

    def _of_squeeze(self, name: str, x: str, axis: list[int]) -> None:
        self._add("Squeeze", [x, self._constant(axis)], name)

    def _of_expand_dims(self, name: str, x: str, axis: list[int]) -> None:
        self._add("Unsqueeze", [x, self._constant(axis)], name)

    def _of_broadcast_to(self, name: str, x: str, sizes: list[Any]) -> None:
        self._add("Expand", [x, self._shape(sizes)], name)

    def _of_transpose(self, name: str, x: str, axes: list[int]) -> None:
        self._add("Transpose", [x], name, perm=axes)

    def _of_concatenate(self, name: str, parts: list[str], axis: int) -> None:
        self._add("Concat", parts, name, axis=axis)

    def _of_slice(self, name: str, x: str, parts: list[list[Any]]) -> None:
        cut = [(axis, *part) for axis, part in enumerate(parts) if part[0] is not None]
        axes, starts, ends, steps = (self._constant(list(numbers)) for numbers in zip(*cut, strict=True))
        self._add("Slice", [x, starts, ends, axes, steps], name)

    def _of_take(self, name: str, x: str, index: str, axis: int) -> None:
        self._add("Gather", [x, index], name, axis=axis)

    def _of_einsum(self, name: str, equation: str, x: str, y: str) -> None:
        self._add("Einsum", [x, y], name, equation=equation)

    def _of_conv(self, name: str, x: str, kernel: str, strides: list[int], padding: list[list[int]]) -> None:
        # ONNX has channels before pixels.
        moved = [self._add("Transpose", [x], perm=[0, 3, 1, 2]), self._add("Transpose", [kernel], perm=[3, 2, 0, 1])]
        pads = [pair[end] for end in (0, 1) for pair in padding]
        self._add("Transpose", [self._add("Conv", moved, strides=strides, pads=pads)], name, perm=[0, 2, 3, 1])

    def _of_max_pool(self, name: str, x: str, size: list[int], strides: list[int], padding: list[list[int]]) -> None:
        pads = [pair[end] for end in (0, 1) for pair in padding]
        moved = self._add("Transpose", [x], perm=[0, 3, 1, 2])
        pooled = self._add("MaxPool", [moved], kernel_shape=size, strides=strides, pads=pads)
        self._add("Transpose", [pooled], name, perm=[0, 2, 3, 1])
