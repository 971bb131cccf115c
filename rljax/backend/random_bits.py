"""Uniform numbers out of words of random bits, so that what several draws need can be had in one call.

`jax.random.randint` hashes two keys and two words a number, and a hash of few words is dozens of tiny operations: with
`jax.random.bits` once and these afterwards, an update of a small learner is much shorter.
"""

import math

import jax
import jax.numpy as jnp

_ROUNDS = 8

_ROWS = 8  # of a table, and more columns: fewer are not mixed by eight rounds


def word(key: jax.Array) -> jax.Array:
    """One word of 32 random bits `[]` uint32 out of a key from which nothing else is drawn.

    For keys that come out of `jax.random.split`, whose own words are random, it is a bijection of one of them, far
    cheaper than another hash of the key; keys made by hand are mixed until all bits depend on all.
    """
    *others, mixed = jax.random.key_data(key)
    mixed = _mixed(mixed + jnp.uint32(0x9E3779B9))  # no key of zeros gives zero
    for other in others:
        mixed = _mixed(mixed ^ other)
    return mixed


def pairs(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Two arrays of words `[*shape]` uint32. A hash gives two words, of which `jax.random.bits` keeps one."""
    words = jax.random.key_data(jax.random.split(key, shape))
    return words[..., 0], words[..., 1]


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of words whose every bit of output depends on every bit of input (MurmurHash3's finaliser)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def integers(bits: jax.Array, below: jax.typing.ArrayLike) -> jax.Array:
    r"""Whole numbers `[...]` int32 in $[0, n)$ from uint32 words $w$ `[...]`: $\lfloor w n / 2^{32} \rfloor$.

    Lemire (2019, section 3) without its rejection: a number's chance differs from $1 / n$ by at most $2^{-32}$.

    Args:
        bits: words of 32 uniform bits, as `jax.random.bits` gives them.
        below: n, `[...]`, at least 1 and less than 2**31.
    """
    # The upper word of a product of 64 bits, by halves: JAX has no such integers unless a user asks for them.
    n = jnp.asarray(below).astype(jnp.uint32)
    low, high = bits & 0xFFFF, bits >> 16
    n_low, n_high = n & 0xFFFF, n >> 16
    middle = high * n_low + (low * n_low >> 16)
    carried = low * n_high + (middle & 0xFFFF)
    return (high * n_high + (middle >> 16) + (carried >> 16)).astype(jnp.int32)


def uniforms(bits: jax.Array) -> jax.Array:
    """Floats `[...]` in [0, 1) from uint32 words `[...]`: multiples of 2**-24, all equally likely."""
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def permutation(key: jax.Array, n: int) -> jax.Array:
    """The numbers below n in random order, `[n]` int32; only where n has no fitting factors are they sorted.

    The generalised Feistel cipher of Black and Rogaway (2002), eight rounds under random keys. A number is a place in a
    table of n entries, and a round moves it along its column by a hash of that column, then rows and columns change
    their parts. A batch of steps of environments has such a table unless it is small.
    """
    rows = next(i for i in range(math.isqrt(n), 0, -1) if n % i == 0)
    columns = n // rows
    if rows < _ROWS or columns >= 2**16:
        return jax.random.permutation(key, n).astype(jnp.int32)
    numbers = jnp.arange(n, dtype=jnp.uint32)
    place, other = numbers // columns, numbers % columns
    for round_key in jax.random.bits(key, (_ROUNDS,)):
        moved = place + (_mixed(other + round_key) >> 16) * rows // 2**16
        place, other = other, jnp.where(moved >= rows, moved - rows, moved)
        rows, columns = columns, rows
    return (place * columns + other).astype(jnp.int32)
