"""Pairs of floats against 64-bit numbers, and the root's derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.backend import rounding


def wide(pair):
    return np.asarray(pair[0], np.float64) + np.asarray(pair[1], np.float64)


def pairs(seed, size=2000):
    random = np.random.default_rng(seed)
    values = random.normal(size=size) * 10.0 ** random.integers(-6, 7, size)
    high = values.astype(np.float32)
    return high, (values - high).astype(np.float32)


def test_sums_and_products_of_pairs_have_45_bits():
    x, y = pairs(0), pairs(1)
    total = jax.jit(rounding.add)(x, y[0])
    size = np.maximum(np.abs(wide(x)), np.abs(y[0]))
    assert (np.abs(wide(total) - (wide(x) + y[0])) <= 2.0**-45 * size).all()
    product = jax.jit(rounding.multiply)(x, y)
    np.testing.assert_allclose(wide(product), wide(x) * wide(y), rtol=2.0**-43)


@pytest.mark.parametrize("increment", [1.0, 0.1, 1e-9])
def test_a_sum_of_many_small_numbers_keeps_growing(increment):
    """A single float32 stops at 2**24 increments."""
    start = (jnp.float32(2**26 * increment), jnp.float32(0.0))
    step = jnp.float32(increment)
    end, _ = jax.jit(lambda: jax.lax.scan(lambda pair, _: (rounding.add(pair, step), None), start, length=100_000))()
    np.testing.assert_allclose(wide(end) - wide(start), 100_000 * np.float64(step), rtol=1e-5)


def test_all_derivatives_of_the_root_are_zero_at_zero():
    first, second = jax.grad(rounding.root), jax.grad(jax.grad(rounding.root))
    assert rounding.root(0.0) == first(0.0) == second(0.0) == jax.jacfwd(first)(0.0) == 0.0
    np.testing.assert_allclose([rounding.root(4.0), first(4.0), second(4.0)], [2.0, 0.25, -1 / 32], rtol=1e-6)
