"""Numbers from random bits, compared with Python's integers and with the uniform distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax.backend import random_bits


def test_integers_are_the_upper_word_of_the_product():
    random = np.random.default_rng(0)
    words = random.integers(0, 2**32, 20_000, np.uint64)
    below = 2 ** random.uniform(0, 31, 20_000)  # of every size
    below = np.clip(below.astype(np.uint64), 1, 2**31 - 1)
    drawn = random_bits.integers(jnp.asarray(words, jnp.uint32), jnp.asarray(below, jnp.int32))
    np.testing.assert_array_equal(drawn, words * below >> np.uint64(32))


@pytest.mark.parametrize("below", [1, 2, 3, 2**16 - 1, 2**16, 2**16 + 1, 2**31 - 1])
def test_integers_reach_both_ends_of_their_range(below):
    words = jnp.array([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1], jnp.uint32)
    drawn = jax.jit(random_bits.integers)(words, jnp.int32(below))
    assert drawn.dtype == jnp.int32
    assert drawn[0] == 0
    assert drawn[-1] == below - 1


def test_integers_are_uniform():
    drawn = random_bits.integers(jax.random.bits(jax.random.key(0), (60_000,)), 6)
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=6)).pvalue > 1e-4


@pytest.mark.parametrize("word", [0, 255, 256, 2**31, 2**32 - 257, 2**32 - 1])
def test_uniforms_are_below_one(word):
    drawn = float(random_bits.uniforms(jnp.uint32(word)))
    assert drawn == (word >> 8) / 2**24 < 1.0


def test_uniforms_are_uniform():
    drawn = np.asarray(random_bits.uniforms(jax.random.bits(jax.random.key(1), (20_000,))))
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-4


def test_pairs_are_uniform_and_independent():
    first, second = (np.asarray(random_bits.uniforms(x)) for x in random_bits.pairs(jax.random.key(2), (100, 200)))
    assert first.shape == second.shape == (100, 200)
    assert scipy.stats.kstest(first.ravel(), "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(second.ravel(), "uniform").pvalue > 1e-4
    assert scipy.stats.pearsonr(first.ravel(), second.ravel()).pvalue > 1e-4


@pytest.mark.parametrize(
    "keys",
    [
        jax.random.split(jax.random.key(3), 20_000),
        jax.vmap(jax.random.key)(jnp.arange(20_000)),  # made by hand: their bits are hardly random
        jax.random.wrap_key_data(jnp.stack([jnp.arange(20_000, dtype=jnp.uint32), jnp.zeros(20_000, jnp.uint32)], 1)),
        jax.random.split(jax.random.key(4, impl="rbg"), 20_000),
    ],
    ids=["split", "counted", "counted above", "rbg"],
)
def test_words_of_keys_are_uniform_and_uncorrelated(keys):
    words = np.asarray(jax.vmap(random_bits.word)(keys))
    assert len(np.unique(words)) > 19_900
    drawn = words / 2.0**32
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 1e-4
    assert scipy.stats.pearsonr(drawn[1:], drawn[:-1]).pvalue > 1e-4
    bits = (words[:, None] >> np.arange(32) & 1).sum(axis=0)  # each bit is one as often as zero
    assert scipy.stats.binomtest(int(bits.max()), len(words)).pvalue > 1e-5
    assert scipy.stats.binomtest(int(bits.min()), len(words)).pvalue > 1e-5


def test_word_accepts_old_style_keys():
    assert random_bits.word(jax.random.PRNGKey(5)) == random_bits.word(jax.random.key(5))


@pytest.mark.parametrize("n", [1, 2, 60, 64, 128, 131, 512, 1000, 5000, pytest.param(2**19, marks=pytest.mark.slow)])
def test_a_permutation_has_every_number_once(n):
    order = np.asarray(jax.vmap(lambda key: random_bits.permutation(key, n))(jax.random.split(jax.random.key(0), 20)))
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(n), (20, 1)))
    if n > 50:
        assert (order == np.arange(n)).mean() < 3 / n  # one number stays where it is
        assert (order[0] == order[1:]).mean() < 3 / n


@pytest.mark.parametrize("n", [8, 64, 128, 200])
def test_permutations_are_uniform_in_pairs(n):
    """Over many keys, where a number lands and how far from another, near ones and far ones, by chi-square."""
    keys = jax.random.split(jax.random.key(1), 40_000)
    order = np.asarray(jax.jit(jax.vmap(lambda key: random_bits.permutation(key, n)))(keys))
    for first, second in [(0, 1), (0, n // 2), (n - 2, n - 1), (1, n - 1)]:
        assert scipy.stats.chisquare(np.bincount(order[:, first], minlength=n)).pvalue > 1e-3
        apart = (order[:, first] - order[:, second]) % n
        assert scipy.stats.chisquare(np.bincount(apart, minlength=n)[1:]).pvalue > 1e-3
    half = (order[:, : n // 2] < n // 2).sum(axis=1)  # of one minibatch of two, how many are of the first half
    chances = scipy.stats.hypergeom(n, n // 2, n // 2)
    assert half.mean() == pytest.approx(n / 4, abs=4 * chances.std() / 200)
    assert half.var() == pytest.approx(chances.var(), rel=0.05)


def test_a_permutation_is_one_in_64_bit_mode():
    with jax.enable_x64(True):
        order = np.asarray(random_bits.permutation(jax.random.key(0), 4096))
    np.testing.assert_array_equal(np.sort(order), np.arange(4096))
