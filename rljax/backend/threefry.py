"""JAX's Threefry hash without loops: the same bits, but faster to run and to compile on CPUs.

On CPUs JAX computes the rounds of its hash in a loop, which XLA executes as about two hundred small operations. Without
a loop they are a single one, and a learner hashes a few words a dozen times per update.
"""

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import mlir

from rljax.backend.unrolling import compiles_quickly

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3.3).

    Args:
        key_0, key_1: the two words of the key, uint32 `[...]`.
        x_0, x_1: the two words to hash, uint32 `[...]`; all four arguments are broadcast.

    Returns:
        two words, uint32 `[...]`.
    """
    # This is traced for every shape. Array operators instead of `lax`, about a hundred, would take three times as long.
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
    # If XLA fused the hash with its uses, each use would hash again, also the keys that are split from this key.
    return lax.optimization_barrier((x_0, x_1))


_RULE = mlir.lower_fun(threefry, multiple_results=True)


def install() -> None:
    """Replace JAX's hash on CPUs with `threefry` in this process, except while programs are to compile quickly."""
    if not compiles_quickly():
        mlir.register_lowering(jax.extend.random.threefry2x32_p, _RULE, platform="cpu")
