"""Numbers as pairs of floats, which rounding does not spoil; a root with a derivative everywhere; 32 bits of 64."""

from typing import Any

import jax
import jax.numpy as jnp

_NARROW = {jnp.dtype("float64"): jnp.float32, jnp.dtype("int64"): jnp.int32}


def narrow(tree: Any) -> Any:
    """Cast 64-bit numbers to 32 bits. Only under `jax_enable_x64` there are any; learners do not use them."""
    return jax.tree.map(lambda x: x.astype(_NARROW[x.dtype]) if x.dtype in _NARROW else x, tree)


@jax.custom_jvp
def root(x: jax.Array) -> jax.Array:
    """The square root, with all derivatives 0 at 0.

    With the true derivative, a gradient through training would be NaN as soon as one gradient is exactly zero.
    """
    return jnp.sqrt(x)


@root.defjvp
def _root_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    result = root(primals[0])
    return result, jnp.where(result > 0, tangents[0] / (2.0 * jnp.where(result > 0, result, 1.0)), 0.0)


Pair = tuple[jax.Array, jax.Array]
"""A number as the nearest float and the rest: 48 bits in float32."""


def add(pair: Pair, x: jax.Array) -> Pair:
    """`pair + x`: a sum that keeps growing where a single float would stop (Knuth 1969, section 4.2.2, theorem B)."""
    high, low = pair
    total = high + x
    part = total - high
    low = low + ((high - (total - part)) + (x - part))
    result = total + low
    return result, low - (result - total)


def multiply(x: Pair, y: Pair) -> Pair:
    """`x * y`, with the exact product of the high parts (Dekker 1971, section 5)."""
    product = x[0] * y[0]
    (a, b), (c, d) = _halves(x[0]), _halves(y[0])
    rest = ((a * c - product) + a * d + b * c) + b * d
    return add((product, jnp.zeros_like(product)), rest + (x[0] * y[1] + x[1] * y[0]))


def _halves(x: jax.Array) -> Pair:
    """Two floats of 12 bits with sum `x`: their products are exact."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return high, x - high
