r"""A layer's matrix product and its gradients, in the forms that are fastest on CPUs.

The gradient of $xW$ with respect to $W$ is $x^T g$. For a transposed first matrix XLA calls a library that takes at
least half as long again inside a gradient step; copying the transpose first is faster. With few inputs $xW$ is a sum of
outer products, which XLA fuses with the operations after it.

With mixed precision (Micikevicius et al. 2018) factors are rounded to bfloat16, eight bits of mantissa, and products
are summed in float32. CPUs with units for it (Intel's AMX) are several times as fast.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_FEW_INPUTS = range(1, 9)

_TILE = 16  # smaller matrices are not rounded, since they fill only part of a matrix unit


def product(x: jax.Array, kernel: jax.Array, *_: Any, mixed_precision: bool = False, **__: Any) -> jax.Array:
    """`x [..., I]` times `kernel [I, O]`: `[..., O]`. Flax layers accept it as their `dot_general`.

    Flax's other arguments, the contracted axes and the precision, are ignored. It is the plain product for operands
    that are not floats of one dtype, and on other devices than CPUs without mixed precision.
    """
    fits = x.shape[-1:] == kernel.shape[:1] and x.dtype == kernel.dtype and jnp.issubdtype(x.dtype, jnp.floating)
    if not fits or not kernel.size or (jax.default_backend() != "cpu" and not mixed_precision):
        return x @ kernel
    rows = x.reshape(-1, x.shape[-1])
    return _product.bind(rows, kernel, mixed=mixed_precision).reshape(*x.shape[:-1], kernel.shape[1])


_product = Primitive("product")  # [..., B, I] times [..., I, O]


def _rounded(a: jax.Array, b: jax.Array, mixed: bool) -> tuple[jax.Array, jax.Array]:
    if not mixed or min(*a.shape[-2:], *b.shape[-2:]) < _TILE:
        return a, b
    return a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)


def _copied(x: jax.Array) -> jax.Array:
    """Keep XLA from fusing a transpose `x` into the product, which is faster on CPUs."""
    if jax.default_backend() != "cpu":
        return x
    return with_layout_constraint(jnp.asarray(x), Layout(tuple(range(x.ndim))))


def _forward(x: jax.Array, kernel: jax.Array, mixed: bool) -> jax.Array:
    inputs = kernel.shape[-2]
    if inputs in _FEW_INPUTS and jax.default_backend() == "cpu":
        terms = (x[..., i, None] * kernel[..., i, None, :] for i in range(inputs))
        return functools.reduce(jnp.add, terms)
    a, b = _rounded(x, kernel, mixed)
    return jnp.matmul(a, b, preferred_element_type=x.dtype)


def _input_gradient(gradient: jax.Array, _: Any, kernel: jax.Array, mixed: bool) -> jax.Array:
    a, b = _rounded(gradient, kernel, mixed)
    # A float32 kernel is as fast without the copy.
    transposed = b.mT if b is kernel else _copied(b.mT)
    return jnp.matmul(a, transposed, preferred_element_type=gradient.dtype)


def _kernel_gradient(gradient: jax.Array, x: jax.Array, _: Any, mixed: bool) -> jax.Array:
    a, b = _rounded(x, gradient, mixed)
    return jnp.matmul(_copied(a.mT), b, preferred_element_type=gradient.dtype)


def _batched(
    inputs: tuple[jax.Array, jax.Array], axes: tuple[int | None, int | None], mixed: bool
) -> tuple[jax.Array, int]:
    (x, kernel), (x_axis, kernel_axis) = inputs, axes
    if kernel_axis is None:  # one kernel for all runs: more rows of one product
        assert x_axis is not None
        x = jnp.moveaxis(x, x_axis, -3)
        rows = x.reshape(*x.shape[:-3], -1, x.shape[-1])
        out = _product.bind(rows, kernel, mixed=mixed)
        return out.reshape(*x.shape[:-1], out.shape[-1]), out.ndim - 2
    kernel = jnp.moveaxis(kernel, kernel_axis, 0)
    x = jnp.broadcast_to(x, (len(kernel), *x.shape)) if x_axis is None else jnp.moveaxis(x, x_axis, 0)
    return _product.bind(x, kernel, mixed=mixed), 0


_product.def_impl(_forward)

_product.def_abstract_eval(lambda x, kernel, mixed: x.update(shape=(*x.shape[:-1], kernel.shape[-1])))

ad.defbilinear(_product, _input_gradient, _kernel_gradient)

batching.primitive_batchers[_product] = _batched

mlir.register_lowering(_product, mlir.lower_fun(_forward, multiple_results=False))
