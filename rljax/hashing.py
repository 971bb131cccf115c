"""JAX's own random numbers on CPUs, hashed in a straight line: the same bits, sooner, and sooner compiled.

JAX has CPUs go through the rounds of its hash in a loop. A learner hashes a dozen times an update, mostly a few words,
and to XLA's executor each such loop is some two hundred small operations, where straight code is one.
"""

import functools

import jax
import jax.extend.random
import jax.numpy as jnp
from jax.interpreters import mlir

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011, section 3.3): two words `[...]` of two under a key of two.

    Args:
        key_0, key_1: the key, uint32 `[...]`.
        x_0, x_1: the words, uint32 `[...]`; all four broadcast.
    """
    keys = (key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(0x1BD11BDA))
    x_0, x_1 = x_0 + keys[0], x_1 + keys[1]
    for injection in range(1, 6):
        for bits in _ROTATIONS[(injection - 1) % 2]:
            x_0 = x_0 + x_1
            x_1 = x_0 ^ ((x_1 << bits) | (x_1 >> (32 - bits)))
        x_0, x_1 = x_0 + keys[injection % 3], x_1 + keys[(injection + 1) % 3] + jnp.uint32(injection)
    # What uses the words must not be fused with what makes them: each use would hash again, and keys are made of keys.
    return jax.lax.optimization_barrier((x_0, x_1))


@functools.cache
def without_loops() -> None:
    """Have JAX compile its hash for CPUs in this process as `threefry` has it."""
    rule = mlir.lower_fun(threefry, multiple_results=True)
    mlir.register_lowering(jax.extend.random.threefry2x32_p, rule, platform="cpu")
