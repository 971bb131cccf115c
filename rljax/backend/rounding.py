"""Arithmetic that rounding does not spoil: exact sums of two floats, and a root with a derivative everywhere."""

import jax
import jax.numpy as jnp


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


def add(high: jax.Array, low: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Add `x` to `high + low`: the nearest float to the sum, and what is missing from it.

    A float32 pair has 48 bits, so that sums keep growing where single floats would stop (Knuth 1969, section 4.2.2,
    theorem B).
    """
    x = x + low
    total = high + x
    part = total - high
    return total, (high - (total - part)) + (x - part)
