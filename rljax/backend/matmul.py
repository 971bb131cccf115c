r"""A layer's product, and its gradients, in the forms that CPUs multiply fastest.

The gradient of $xW$ by $W$ is $x^T g$. XLA leaves a product whose first matrix must be read by columns to a library
that, in the midst of a gradient step, takes half as long again and more. To copy the columns out first takes less. Of
few inputs $xW$ is a sum of outer products, which is compiled into one loop with what follows it.

In mixed precision (Micikevicius et al. 2018) what is multiplied is rounded to bfloat16, eight bits of mantissa, and
summed in float32, as all else is kept. A CPU with units for it (Intel's AMX) multiplies so several times as fast.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_FEW = range(1, 9)  # inputs

_TILE = 16  # matrices narrower than this either way are not rounded: they would only fill a part of a unit


def product(x: jax.Array, kernel: jax.Array, *_: Any, mixed_precision: bool = False, **__: Any) -> jax.Array:
    """`x [..., I]` times `kernel [I, O]`, `[..., O]`; also what Flax's layers take for `jax.lax.dot_general`.

    Whatever else a layer hands on, the axes to sum over and the precision, is as it is here. Elsewhere than on CPUs,
    and without mixed precision, it is the plain product; so it is of numbers that are not floats of one kind, and of
    shapes that do not fit, which JAX refuses.
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


def _written_out(x: jax.Array) -> jax.Array:
    """A transpose that the compiler does not take into the product again; it is CPUs that gain by it."""
    if jax.default_backend() != "cpu":
        return x
    return with_layout_constraint(jnp.asarray(x), Layout(tuple(range(x.ndim))))


def _forwards(x: jax.Array, kernel: jax.Array, mixed: bool) -> jax.Array:
    inputs = kernel.shape[-2]
    if inputs in _FEW and jax.default_backend() == "cpu":
        terms = (x[..., i, None] * kernel[..., i, None, :] for i in range(inputs))
        return functools.reduce(jnp.add, terms)
    a, b = _rounded(x, kernel, mixed)
    return jnp.matmul(a, b, preferred_element_type=x.dtype)


def _of_input(gradient: jax.Array, _: Any, kernel: jax.Array, mixed: bool) -> jax.Array:
    a, b = _rounded(gradient, kernel, mixed)
    # Kernels of float32 are read as fast by their columns.
    columns = b.mT if b is kernel else _written_out(b.mT)
    return jnp.matmul(a, columns, preferred_element_type=gradient.dtype)


def _of_kernel(gradient: jax.Array, x: jax.Array, _: Any, mixed: bool) -> jax.Array:
    a, b = _rounded(x, gradient, mixed)
    return jnp.matmul(_written_out(a.mT), b, preferred_element_type=gradient.dtype)


def _mapped(
    inputs: tuple[jax.Array, jax.Array], axes: tuple[int | None, int | None], mixed: bool
) -> tuple[jax.Array, int]:
    (x, kernel), (of_x, of_kernel) = inputs, axes
    if of_kernel is None:  # one kernel for all: nothing but more rows
        assert of_x is not None
        x = jnp.moveaxis(x, of_x, -3)
        rows = x.reshape(*x.shape[:-3], -1, x.shape[-1])
        out = _product.bind(rows, kernel, mixed=mixed)
        return out.reshape(*x.shape[:-1], out.shape[-1]), out.ndim - 2
    kernel = jnp.moveaxis(kernel, of_kernel, 0)
    x = jnp.broadcast_to(x, (len(kernel), *x.shape)) if of_x is None else jnp.moveaxis(x, of_x, 0)
    return _product.bind(x, kernel, mixed=mixed), 0


_product.def_impl(_forwards)

_product.def_abstract_eval(lambda x, kernel, mixed: x.update(shape=(*x.shape[:-1], kernel.shape[-1])))

ad.defbilinear(_product, _of_input, _of_kernel)

batching.primitive_batchers[_product] = _mapped

mlir.register_lowering(_product, mlir.lower_fun(_forwards, multiple_results=False))
