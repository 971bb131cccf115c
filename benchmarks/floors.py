"""Lower bounds of an algorithm's cost on this machine: the operations in its matrix products and their peak rate."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_CPU_SIZE, _GPU_SIZE = 2048, 8192  # rows of a matrix whose product takes a device some milliseconds
_REPEATS = 3


def product_rate() -> float:
    """Operations per second of large float32 matrix products on all devices at once; the best of three."""
    size = _CPU_SIZE if jax.default_backend() == "cpu" else _GPU_SIZE
    product = jax.jit(jnp.matmul)
    matrices = [jax.random.normal(jax.device_put(jax.random.key(0), device), (size, size)) for device in jax.devices()]
    jax.block_until_ready([product(a, a) for a in matrices])
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        jax.block_until_ready([product(a, a) for a in matrices])
        seconds.append(time.perf_counter() - started)
    return len(matrices) * 2.0 * size**3 / min(seconds)


def product_operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Count the floating-point operations in a function's matrix products and convolutions.

    A loop counts once per iteration (XLA counts its body only once), a loop of unknown length once. Of a branch only
    the cheapest side counts, since this is a lower bound.
    """
    return _operations(jax.make_jaxpr(function)(*arguments).jaxpr)


def _operations(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)
        elif name == "product":  # of a layer, see `rljax.backend.matmul`
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * equation.invars[0].aval.shape[-1]
        elif name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            features = params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * math.prod(out) * math.prod(kernel) / kernel[features]
        elif name == "scan":
            total += params["length"] * _operations(params["jaxpr"].jaxpr)
        elif name == "cond":
            total += min(_operations(branch.jaxpr) for branch in params["branches"])
        else:
            total += sum(map(_operations, _inner(params)))
    return total


def _inner(params: dict[str, Any]) -> list[Any]:
    """Programs nested in an equation, for example the body of a `while` or a `jit`."""
    found = []
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                found.append(program)
    return found
