"""Lower a policy's program to a list of NumPy calls, from which the formats without JAX are written.

A call is `[name, function, arguments, options]`: the value `name` becomes `function(*arguments, **options)`. Functions
are NumPy's, and those of `loader.py`. Arguments are names of earlier values, of
inputs, of stored arrays, or `batch`, the number of observations; or plain data; or lists of them.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from rljax.errors import UsageError
from rljax.export.exportable import BATCH


class Program(NamedTuple):
    """A policy as NumPy calls."""

    inputs: list[str]
    outputs: list[str]
    calls: list[list[Any]]
    arrays: dict[str, np.ndarray]


_SAME = {
    "add": "add", "sub": "subtract", "mul": "multiply", "max": "maximum", "min": "minimum", "neg": "negative",
    "sign": "sign", "abs": "abs", "floor": "floor", "ceil": "ceil", "exp": "exp", "log": "log", "log1p": "log1p",
    "expm1": "expm1", "sqrt": "sqrt", "tanh": "tanh", "sin": "sin", "cos": "cos", "eq": "equal", "ne": "not_equal",
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "is_finite": "isfinite", "pow": "power",
}  # fmt: skip
_OF_BOOLS = {"and": "logical_and", "or": "logical_or", "not": "logical_not", "xor": "logical_xor"}
_ALIASES = ("copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision")
_REDUCTIONS = {
    "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_or": "any", "reduce_and": "all",
    "reduce_prod": "prod",
}  # fmt: skip
_INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def lower(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]) -> Program:
    """Lower a jaxpr whose sizes may depend on a symbolic batch size.

    Raises:
        UsageError: it has an operation that has no counterpart here.
    """
    lowering = _Lowering()
    values: list[Any] = [np.asarray(x) for x in consts]
    found = lowering.run(jaxpr, [*values, *map(_Value, inputs)])
    named = {name: lowering.name(value) for name, value in zip(outputs, found, strict=True)}
    calls = [*lowering.calls, *([name, "asarray", [value], {}] for name, value in named.items())]
    needed, kept = set(outputs), []
    for call in reversed(calls):
        if call[0] in needed:
            kept.append(call)
            needed |= set(_names(call[2]))
    arrays = {name: x for name, x in lowering.arrays.items() if name in needed}
    return Program(list(inputs), list(outputs), kept[::-1], arrays)


@dataclasses.dataclass(frozen=True)
class _Value:
    """A value that depends on the inputs; what does not is a NumPy array, computed while lowering."""

    name: str


def _names(arguments: Any) -> list[str]:
    if isinstance(arguments, list):
        return [name for one in arguments for name in _names(one)]
    return [arguments] if isinstance(arguments, str) else []


class _Lowering:
    """The calls and arrays so far."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._stored: dict[tuple[Any, ...], str] = {}

    def run(self, jaxpr: Any, inputs: Sequence[Any]) -> list[Any]:
        """The values of a jaxpr's outputs."""
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

        def read(variable: Any) -> Any:
            return np.asarray(variable.val) if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(x) for x in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def name(self, value: Any) -> str:
        """The name of a value, which is stored if it is an array."""
        if isinstance(value, _Value):
            return value.name
        x = np.asarray(value)
        if x.dtype.name not in _DTYPES:
            raise UsageError(
                f"The policy computes in {x.dtype.name}, which NumPy does not have: train without mixed_precision, or "
                'use the format "stablehlo".'
            )
        identity = (x.dtype.name, x.shape, x.tobytes())
        if identity not in self._stored:
            self._stored[identity] = f"a{len(self._stored)}"
            self.arrays[self._stored[identity]] = x
        return self._stored[identity]

    def call(self, function: str, *arguments: Any, **options: Any) -> _Value:
        """Add a call; its arguments are values, or plain data."""
        result = _Value(f"v{len(self.calls)}")
        self.calls.append([result.name, function, [self._argument(x) for x in arguments], options])
        return result

    def size(self, dimension: Any) -> Any:
        """A size as plain data, or as the name of a value if it depends on the batch."""
        if isinstance(dimension, int):
            return dimension
        if str(dimension) == BATCH:
            return BATCH
        factor = dimension // jax.export.symbolic_shape(BATCH, like=(dimension,))[0]
        if not isinstance(factor, int):
            raise UsageError(f"The policy has an array of the size {dimension}, which only stablehlo can export.")
        return self.call("multiply", BATCH, factor).name

    def _argument(self, x: Any) -> Any:
        if isinstance(x, list | tuple):
            return [self._argument(one) for one in x]
        return self.name(x) if isinstance(x, _Value | np.ndarray) else x

    def _equation(self, equation: Any, inputs: list[Any]) -> list[Any]:
        primitive, params = equation.primitive, equation.params
        inner = next((params[key] for key in _INLINED if key in params), None)
        if inner is not None and primitive.name not in ("scan", "while"):
            return self.run(getattr(inner, "jaxpr", inner), [*getattr(inner, "consts", []), *inputs])
        is_static = all(isinstance(n, int) for x in equation.outvars for n in getattr(x.aval, "shape", ()))
        if is_static and not any(isinstance(x, _Value) for x in inputs):
            results = primitive.bind(*map(jnp.asarray, inputs), **params)
            return [np.asarray(x) for x in (results if primitive.multiple_results else [results])]
        if primitive.name == "split":
            return self._split(inputs[0], **params)
        if primitive.name in _ALIASES:
            return list(inputs)
        return [self._one(primitive.name, equation, inputs, params)]

    def _one(self, name: str, equation: Any, inputs: list[Any], params: dict[str, Any]) -> Any:
        """The value of an operation with one result."""
        avals = [x.aval for x in equation.invars]
        if name in _SAME:
            return self.call(_SAME[name], *inputs)
        if name in _OF_BOOLS and avals[0].dtype == bool:
            return self.call(_OF_BOOLS[name], *inputs)
        if name in _REDUCTIONS:
            return self.call(_REDUCTIONS[name], inputs[0], axis=list(params["axes"]))
        rule: Callable[..., Any] | None = getattr(self, f"_of_{name}", None)
        if rule is None:
            raise UsageError(f'The policy uses the operation {name}, which only the format "stablehlo" can export.')
        return rule(inputs, avals, equation.outvars[0].aval, params)

    def _sizes(self, shape: Sequence[Any]) -> list[Any]:
        return [self.size(n) for n in shape]

    def _of_div(self, inputs: Any, avals: Any, out: Any, _: Any) -> Any:
        if jnp.issubdtype(out.dtype, jnp.integer):
            raise UsageError('The policy divides integers, which only the format "stablehlo" can export.')
        return self.call("divide", *inputs)

    def _of_rem(self, inputs: Any, *_: Any) -> Any:
        return self.call("fmod", *inputs)

    def _of_square(self, inputs: Any, *_: Any) -> Any:
        return self.call("multiply", inputs[0], inputs[0])

    def _of_integer_pow(self, inputs: Any, avals: Any, _: Any, params: Any) -> Any:
        return self.call("power", inputs[0], np.asarray(params["y"], avals[0].dtype))

    def _of_rsqrt(self, inputs: Any, avals: Any, *_: Any) -> Any:
        return self.call("divide", np.ones((), avals[0].dtype), self.call("sqrt", inputs[0]))

    def _of_logistic(self, inputs: Any, avals: Any, *_: Any) -> Any:
        half, one = np.asarray(0.5, avals[0].dtype), np.ones((), avals[0].dtype)  # by tanh, which cannot overflow
        shifted = self.call("add", one, self.call("tanh", self.call("multiply", half, inputs[0])))
        return self.call("multiply", half, shifted)

    def _of_round(self, inputs: Any, *_: Any) -> Any:
        return self.call("rint", inputs[0])

    def _of_clamp(self, inputs: Any, *_: Any) -> Any:
        return self.call("minimum", self.call("maximum", inputs[1], inputs[0]), inputs[2])

    def _of_select_n(self, inputs: Any, avals: Any, *_: Any) -> Any:
        if avals[0].dtype != bool:
            raise UsageError('The policy chooses between several values, which only the format "stablehlo" can export.')
        return self.call("where", inputs[0], inputs[2], inputs[1])

    def _of_convert_element_type(self, inputs: Any, _: Any, out: Any, __: Any) -> Any:
        self.name(np.zeros((), out.dtype))  # or it is refused
        return self.call("astype", inputs[0], out.dtype.name)

    def _of_argmax(self, inputs: Any, _: Any, out: Any, params: Any) -> Any:
        return self.call("astype", self.call("argmax", inputs[0], axis=params["axes"][0]), out.dtype.name)

    def _of_reshape(self, inputs: Any, _: Any, out: Any, __: Any) -> Any:
        symbolic = [i for i, n in enumerate(out.shape) if not isinstance(n, int)]
        sizes = [-1 if symbolic == [i] else self.size(n) for i, n in enumerate(out.shape)]
        return self.call("reshape", inputs[0], sizes)

    def _of_squeeze(self, inputs: Any, _: Any, __: Any, params: Any) -> Any:
        return self.call("squeeze", inputs[0], axis=list(params["dimensions"]))

    def _of_transpose(self, inputs: Any, _: Any, __: Any, params: Any) -> Any:
        return self.call("transpose", inputs[0], list(map(int, params["permutation"])))

    def _of_broadcast_in_dim(self, inputs: Any, avals: Any, out: Any, params: Any) -> Any:
        kept = params["broadcast_dimensions"]
        new = [axis for axis in range(len(out.shape)) if axis not in kept]
        x = self.call("expand_dims", inputs[0], axis=new) if new else inputs[0]
        old = [avals[0].shape[kept.index(axis)] if axis in kept else 1 for axis in range(len(out.shape))]
        return x if tuple(old) == tuple(out.shape) else self.call("broadcast_to", x, self._sizes(out.shape))

    def _of_concatenate(self, inputs: Any, _: Any, __: Any, params: Any) -> Any:
        return self.call("concatenate", inputs, axis=params["dimension"])

    def _of_stack(self, inputs: Any, _: Any, __: Any, params: Any) -> Any:
        return self.call(
            "concatenate", [self.call("expand_dims", x, axis=[params["axis"]]) for x in inputs], axis=params["axis"]
        )

    def _sliced(self, x: Any, shape: Sequence[Any], starts: Any, sizes: Any, strides: Any = None) -> Any:
        """`x[starts:starts + sizes:strides]`; sizes that depend on the batch are whole axes."""
        parts = []
        for whole, start, size, stride in zip(shape, starts, sizes, strides or [1] * len(shape), strict=True):
            if not isinstance(size, int) and (start != 0 or size != whole):
                raise UsageError('The policy takes a part of a batch, which only the format "stablehlo" can export.')
            parts.append([start, start + size, stride] if isinstance(size, int) else [None, None, 1])
        return self.call("slice", x, parts)

    def _of_slice(self, inputs: Any, avals: Any, _: Any, params: Any) -> Any:
        starts = params["start_indices"]
        sizes = [end - start for start, end in zip(starts, params["limit_indices"], strict=True)]
        return self._sliced(inputs[0], avals[0].shape, starts, sizes, params["strides"])

    def _split(self, x: Any, sizes: Sequence[int], axis: int) -> list[Any]:
        ends = np.cumsum(sizes).tolist()
        before = [[None, None, 1]] * axis
        return [self.call("slice", x, [*before, [end - size, end, 1]]) for end, size in zip(ends, sizes, strict=True)]

    def _of_gather(self, inputs: Any, avals: Any, out: Any, params: Any) -> Any:
        x, indices = inputs
        numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
        if isinstance(indices, np.ndarray) and indices.ndim == 1:  # one slice, at a constant place
            starts = [0] * len(sizes)
            for axis, start in zip(numbers.start_index_map, indices.tolist(), strict=True):
                starts[axis] = start
            part = self._sliced(x, avals[0].shape, starts, sizes)
            collapsed = list(numbers.collapsed_slice_dims)
            return self.call("squeeze", part, axis=collapsed) if collapsed else part
        rows = avals[0].shape[1:]
        is_rows = numbers.start_index_map == (0,) and numbers.collapsed_slice_dims == (0,) and sizes[1:] == rows
        last = tuple(range(len(out.shape) - len(rows), len(out.shape)))
        if not is_rows or numbers.offset_dims != last:
            raise UsageError('The policy looks arrays up in a way that only the format "stablehlo" can export.')
        index = self.call("squeeze", indices, axis=[len(avals[1].shape) - 1])
        return self.call("take", x, index, axis=0)

    def _of_product(self, inputs: Any, *_: Any) -> Any:
        if _[-1]["mixed"]:
            self.name(np.zeros((), jnp.bfloat16))  # which is refused
        return self.call("einsum", "ab,bc->ac", *inputs)

    def _of_dot_general(self, inputs: Any, avals: Any, out: Any, params: Any) -> Any:
        (left, right), (left_batch, right_batch) = params["dimension_numbers"]
        letters = iter(_LETTERS)
        first = [next(letters) for _ in avals[0].shape]
        second: list[str] = [""] * len(avals[1].shape)
        for mine, its in zip((*left, *left_batch), (*right, *right_batch), strict=True):
            second[its] = first[mine]
        second = [letter or next(letters) for letter in second]
        batch = [first[i] for i in left_batch]
        rest = [x for i, x in enumerate(first) if i not in (*left, *left_batch)]
        others = [x for i, x in enumerate(second) if i not in (*right, *right_batch)]
        result = "".join([*batch, *rest, *others])
        return self.call("einsum", f"{''.join(first)},{''.join(second)}->{result}", *inputs)

    def _of_conv_general_dilated(self, inputs: Any, avals: Any, _: Any, params: Any) -> Any:
        numbers = params["dimension_numbers"]
        is_plain = (
            (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
            and {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
            and params["feature_group_count"] == params["batch_group_count"] == 1
        )
        if not is_plain:
            raise UsageError('The policy has an unusual convolution, which only the format "stablehlo" can export.')
        strides, padding = params["window_strides"], params["padding"]
        return self.call("conv", *inputs, strides=list(strides), padding=[list(pair) for pair in padding])

    def _of_reduce_window_max(self, inputs: Any, avals: Any, _: Any, params: Any) -> Any:
        window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
        dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
        if len(window) != 4 or dilated or math.prod((window[0], window[3], strides[0], strides[3])) != 1:
            raise UsageError('The policy has an unusual pooling, which only the format "stablehlo" can export.')
        padded = [list(pair) for pair in padding[1:3]]
        return self.call("max_pool", inputs[0], list(window[1:3]), strides=list(strides[1:3]), padding=padded)


_DTYPES = {"float32", "int32", "int8", "int16", "int64", "uint8", "uint16", "uint32", "bool", "float16", "float64"}
