"""JAX's own random numbers on CPUs, hashed in a straight line: the same bits, sooner, and sooner compiled.

JAX has CPUs go through the rounds of its hash in a loop. A learner hashes a dozen times an update, mostly a few words,
and to XLA's executor each such loop is some two hundred small operations, where straight code is one.
"""

import functools

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import mlir

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011, section 3.3): two words `[...]` of two under a key of two.

    Args:
        key_0, key_1: the key, uint32 `[...]`.
        x_0, x_1: the words, uint32 `[...]`; all four broadcast.
    """
    # This is traced for every shape of words; the operators of arrays, a hundred here, would take three times as long.
    key_0, key_1, x_0, x_1 = jnp.broadcast_arrays(key_0, key_1, x_0, x_1)
    keys = (key_0, key_1, lax.bitwise_xor(lax.bitwise_xor(key_0, key_1), np.uint32(0x1BD11BDA)))
    x_0, x_1 = lax.add(x_0, keys[0]), lax.add(x_1, keys[1])
    for injection in range(1, 6):
        for bits in _ROTATIONS[(injection - 1) % 2]:
            x_0 = lax.add(x_0, x_1)
            left = lax.shift_left(x_1, np.uint32(bits))
            right = lax.shift_right_logical(x_1, np.uint32(32 - bits))
            x_1 = lax.bitwise_xor(x_0, lax.bitwise_or(left, right))
        x_0 = lax.add(x_0, keys[injection % 3])
        x_1 = lax.add(lax.add(x_1, keys[(injection + 1) % 3]), np.uint32(injection))
    # What uses the words must not be fused with what makes them: each use would hash again, and keys are made of keys.
    return lax.optimization_barrier((x_0, x_1))


@functools.cache
def without_loops() -> None:
    """Have JAX compile its hash for CPUs in this process as `threefry` has it."""
    rule = mlir.lower_fun(threefry, multiple_results=True)
    mlir.register_lowering(jax.extend.random.threefry2x32_p, rule, platform="cpu")
