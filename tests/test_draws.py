"""Numbers out of random bits against whole numbers of any size, and against the uniform distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax import draws


def test_integers_are_the_upper_word_of_the_product():
    random = np.random.default_rng(0)
    words = random.integers(0, 2**32, 20_000, np.uint64)
    below = 2 ** random.uniform(0, 31, 20_000)  # of every size
    below = np.clip(below.astype(np.uint64), 1, 2**31 - 1)
    drawn = draws.integers(jnp.asarray(words, jnp.uint32), jnp.asarray(below, jnp.int32))
    np.testing.assert_array_equal(drawn, words * below >> np.uint64(32))


@pytest.mark.parametrize("below", [1, 2, 3, 2**16 - 1, 2**16, 2**16 + 1, 2**31 - 1])
def test_integers_reach_both_ends_and_no_further(below):
    words = jnp.array([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1], jnp.uint32)
    drawn = jax.jit(draws.integers)(words, jnp.int32(below))
    assert drawn.dtype == jnp.int32
    assert drawn[0] == 0
    assert drawn[-1] == below - 1


def test_integers_are_uniform():
    drawn = draws.integers(jax.random.bits(jax.random.key(0), (60_000,)), 6)
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=6)).pvalue > 1e-4


@pytest.mark.parametrize("word", [0, 255, 256, 2**31, 2**32 - 257, 2**32 - 1])
def test_uniforms_are_below_one(word):
    drawn = float(draws.uniforms(jnp.uint32(word)))
    assert drawn == (word >> 8) / 2**24 < 1.0


def test_uniforms_are_uniform():
    drawn = np.asarray(draws.uniforms(jax.random.bits(jax.random.key(1), (20_000,))))
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-4
