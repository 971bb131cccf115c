r"""A layer's product, whose gradient CPUs compute from a transposed copy of what went in.

The gradient of $xW$ by $W$ is $x^T g$. XLA leaves a product whose first matrix must be read by columns to a library
that, in the midst of a gradient step, takes half as long again and more. To copy the columns out first takes less.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def product(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`x [..., I]` times `kernel [I, O]`, `[..., O]`; also what Flax's layers take for `jax.lax.dot_general`.

    Whatever else a layer hands on, the axes to sum over and the precision, is as it is here. Elsewhere than on CPUs it
    is the plain product.
    """
    if jax.default_backend() != "cpu":
        return x @ kernel
    rows = x.reshape(-1, x.shape[-1])
    return _product.bind(rows, kernel).reshape(*x.shape[:-1], kernel.shape[1])


_product = Primitive("product")  # [..., B, I] times [..., I, O]


def _of_input(gradient: jax.Array, _: Any, kernel: jax.Array) -> jax.Array:
    return gradient @ kernel.mT


def _of_kernel(gradient: jax.Array, x: jax.Array, _: Any) -> jax.Array:
    # The compiler would take the transpose into the product again.
    return jax.lax.optimization_barrier(x.mT) @ gradient


def _mapped(inputs: tuple[jax.Array, jax.Array], axes: tuple[int | None, int | None]) -> tuple[jax.Array, int]:
    (x, kernel), (of_x, of_kernel) = inputs, axes
    if of_kernel is None:  # one kernel for all: nothing but more rows
        assert of_x is not None
        x = jnp.moveaxis(x, of_x, -3)
        rows = x.reshape(*x.shape[:-3], -1, x.shape[-1])
        out = _product.bind(rows, kernel)
        return out.reshape(*x.shape[:-1], out.shape[-1]), out.ndim - 2
    kernel = jnp.moveaxis(kernel, of_kernel, 0)
    x = jnp.broadcast_to(x, (len(kernel), *x.shape)) if of_x is None else jnp.moveaxis(x, of_x, 0)
    return _product.bind(x, kernel), 0


_product.def_impl(jnp.matmul)
_product.def_abstract_eval(lambda x, kernel: x.update(shape=(*x.shape[:-1], kernel.shape[-1])))
ad.defbilinear(_product, _of_input, _of_kernel)
batching.primitive_batchers[_product] = _mapped
mlir.register_lowering(_product, mlir.lower_fun(jnp.matmul, multiple_results=False))
