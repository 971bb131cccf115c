"""Random numbers from uint32 words of random bits, so that the bits of several draws come from one call.

`jax.random.randint` hashes two keys, and two words per number, and hashing a few words takes dozens of tiny operations.
One call of `jax.random.bits` with these functions makes an update of a small learner much faster.
"""

import math

import jax
import jax.numpy as jnp

_ROUNDS = 8

_MIN_ROWS = 8  # eight rounds do not mix smaller tables


def word(key: jax.Array) -> jax.Array:
    """32 random bits `[]` uint32 from a key that is used for nothing else.

    Keys from `jax.random.split` are already random, so mixing their words is enough and much cheaper than another hash.
    In keys made by hand all bits of the key affect all bits of the result.
    """
    *other_words, mixed = jax.random.key_data(key)
    mixed = _mix(mixed + jnp.uint32(0x9E3779B9))  # so that a key of zeros does not give zero
    for other_word in other_words:
        mixed = _mix(mixed ^ other_word)
    return mixed


def pairs(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Two arrays of random bits `[*shape]` uint32. A hash gives two words, and `jax.random.bits` keeps only one."""
    words = jax.random.key_data(jax.random.split(key, shape))
    return words[..., 0], words[..., 1]


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which every output bit depends on every input bit (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def integers(bits: jax.Array, below: jax.typing.ArrayLike) -> jax.Array:
    r"""Integers `[...]` int32 in $[0, n)$ from random bits $w$ `[...]` uint32: $\lfloor w n / 2^{32} \rfloor$.

    Lemire (2019, section 3) without rejection: probabilities differ from $1 / n$ by at most $2^{-32}$.

    Args:
        bits: `[...]` uint32, as from `jax.random.bits(key, shape, jnp.uint32)`.
        below: n, `[...]`, at least 1 and less than 2**31.
    """
    # The upper 32 bits of a 64-bit product, computed in 16-bit halves: by default JAX has no 64-bit integers.
    n = jnp.asarray(below).astype(jnp.uint32)
    low, high = bits & 0xFFFF, bits >> 16
    n_low, n_high = n & 0xFFFF, n >> 16
    middle = high * n_low + (low * n_low >> 16)
    carry = low * n_high + (middle & 0xFFFF)
    return (high * n_high + (middle >> 16) + (carry >> 16)).astype(jnp.int32)


def uniforms(bits: jax.Array) -> jax.Array:
    """Floats `[...]` in [0, 1) from random bits `[...]` uint32: multiples of 2**-24, all equally likely."""
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def permutation(key: jax.Array, n: int) -> jax.Array:
    """A random permutation of `0 .. n - 1`, `[n]` int32, without a sort if n has suitable factors.

    The generalised Feistel cipher of Black and Rogaway (2002) with eight rounds under random keys. Each number is a
    cell of a table with n cells. A round shifts it along its column by a hash of the column, then swaps rows and
    columns. Batches of environment steps have suitable factors unless they are small.
    """
    rows = next(i for i in range(math.isqrt(n), 0, -1) if n % i == 0)
    columns = n // rows
    if rows < _MIN_ROWS or columns >= 2**16:
        return jax.random.permutation(key, n).astype(jnp.int32)
    numbers = jnp.arange(n, dtype=jnp.uint32)
    row, column = numbers // columns, numbers % columns
    for round_key in jax.random.bits(key, (_ROUNDS,), jnp.uint32):
        shifted = row + (_mix(column + round_key) >> 16) * rows // 2**16
        row, column = column, jnp.where(shifted >= rows, shifted - rows, shifted)
        rows, columns = columns, rows
    return (row * columns + column).astype(jnp.int32)
