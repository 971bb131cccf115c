"""Exploration noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import exploration, rollout


def test_noise_has_the_moments_of_its_closed_form():
    """Deviation d once settled, correlation (1 - theta)^k k steps apart; independent where theta is one."""

    def run(reversion):
        normal = jax.random.normal(jax.random.key(0), (300, 4_000))

        def step(x, normal):
            x = exploration.correlated_noise(x, normal, 0.7, reversion)
            return x, x

        return jax.lax.scan(step, jnp.zeros(4_000), normal)[1]

    noises = np.asarray(jax.jit(jax.vmap(run))(jnp.array([1.0, 0.15, 0.02])))
    for noise, reversion in zip(noises, (1.0, 0.15, 0.02), strict=True):
        steps = np.arange(1, 301)
        deviation = 0.7 * np.sqrt(1 - (1 - reversion) ** (2 * steps))  # it starts at zero
        np.testing.assert_allclose(noise.std(axis=1), deviation, rtol=0.06)
        np.testing.assert_allclose(noise.mean(axis=1), 0.0, atol=0.06)
        for lag in (1, 5, 20):
            correlation = np.corrcoef(noise[-1], noise[-1 - lag])[0, 1]
            assert correlation == pytest.approx((1 - reversion) ** lag, abs=0.06)
    # The textbook's form: theta 0.15 and sigma 0.2 settle at sigma / sqrt(theta (2 - theta)).
    deviation = 0.2 / np.sqrt(0.15 * 1.85)
    assert exploration.correlated_noise(jnp.zeros(()), jnp.ones(()), deviation, 0.15) == pytest.approx(0.2)


def test_exploration_is_the_same_in_64_bit_mode():
    env = rljax.make("CartPole-v1")

    def actions():
        collector = rollout.reset(jax.random.key(0), env, 8)
        values = lambda key, obs: jnp.tile(jnp.array([1.0, 0.0], jnp.float32), (8, 1))  # noqa: E731
        _, steps, _ = exploration.epsilon_greedy_rollout(jax.random.key(1), values, 0.5, collector, env, 200)
        return np.asarray(steps.action)

    expected = actions()
    assert 0.2 < expected.mean() < 0.3  # half of the steps explore, half of those choose the other action
    with jax.enable_x64(True):
        np.testing.assert_array_equal(actions(), expected)
