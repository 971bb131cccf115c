"""What on-policy algorithms collect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import rljax
from rljax import on_policy, ppo


class Clock:
    """Values that are the square of what is observed, which an episode's steps count."""

    def init(self, key, obs):
        return jnp.zeros(1)

    def apply(self, params, obs):
        return jnp.zeros((*obs.shape[:-1], 2)), obs[..., 0] ** 2


@pytest.mark.parametrize("limit", [1, 5, 1000])  # always, sometimes and never truncated: not all of them branch alike
@pytest.mark.parametrize("terminates", [False, True])
def test_next_values_are_read_at_the_true_next_observation(limit, terminates):
    def step(key, time, action, params):
        return rljax.timestep(jnp.float32([time + 1]), 0.0, terminates & (time + 1 == 3)), time + 1

    clock = rljax.Env(
        name="clock",
        reset=lambda key, params: (jnp.zeros(1), jnp.int32(0)),
        step=step,
        params=(),
        observation_space=rljax.Box(0, np.inf, (1,)),
        action_space=rljax.Discrete(2),
    )
    config = ppo.Config(env=rljax.envs.time_limit(clock, limit), num_envs=4, num_steps=16, gae_lambda=0.0, discount=0.5)
    config = rljax.replace(config, network=Clock(), total_steps=64)

    @jax.jit
    def targets(key):
        state = ppo.init(key, config)
        _, _, batch, _ = on_policy.collect(*jax.random.split(key), Clock(), state, config)
        return batch.inputs[0][:, 0], batch.target

    obs, target = map(np.asarray, targets(jax.random.key(0)))
    assert obs.max() + 1 == min(limit, 3 if terminates else 16)
    ends = terminates & (obs == 2)
    np.testing.assert_array_equal(target, np.where(ends, 0.0, 0.5 * (obs + 1) ** 2))


def test_squashed_actions_stay_within_bounds_and_keep_their_log_probabilities():
    config = ppo.Config(
        env="Pendulum-v1", num_envs=4, num_steps=16, total_steps=64, hidden_sizes=(8,), squash_actions=True
    )
    network = ppo.default_network(config.env, config)

    @jax.jit
    def collect(key):
        state = ppo.init(key, config)
        _, _, batch, _ = on_policy.collect(*jax.random.split(key), network, state, config)
        return batch, network.apply(state.params, *batch.inputs)[0], ppo.act(state, config)(key, batch.inputs[0])

    batch, outputs, greedy = collect(jax.random.key(0))
    mean, log_std = np.split(np.asarray(outputs, np.float64), 2, axis=-1)
    raw = np.asarray(batch.action, np.float64)
    expected = scipy.stats.norm.logpdf(raw, mean, np.exp(log_std)) - np.log1p(-(np.tanh(raw) ** 2))
    np.testing.assert_allclose(batch.log_prob, expected[:, 0], rtol=1e-4, atol=1e-5)
    assert np.abs(raw).max() > 1.0  # which clipping would have cut
    np.testing.assert_allclose(greedy, 2.0 * np.tanh(mean), rtol=1e-4, atol=1e-5)


def test_samples_hold_the_unclipped_actions_with_their_densities():
    """Only the environment receives clipped actions; here it observes them."""

    def step(key, state, action, params):
        return rljax.timestep(action, action.sum(), False), state

    env = rljax.Env(
        reset=lambda key, params: (jnp.zeros(2), ()),
        step=step,
        observation_space=rljax.Box(-4.0, 4.0, (2,)),
        action_space=rljax.Box(-0.5, 0.5, (2,)),
    )

    class Fixed:
        def init(self, key, obs):
            return jnp.zeros(1)

        def apply(self, params, obs):
            outputs = jnp.array([0.5, -1.0, 0.3, -0.2])  # means, then logarithms of deviations
            return jnp.broadcast_to(outputs, (*obs.shape[:-1], 4)), obs[..., 0]

    config = ppo.Config(env=env, num_envs=3, num_steps=50, total_steps=150, num_minibatches=1, network=Fixed())

    @jax.jit
    def collected(key):
        state = ppo.init(key, config)
        _, _, batch, _ = on_policy.collect(*jax.random.split(key), Fixed(), state, config)
        return batch, ppo.act(state, config)(key, jnp.zeros((5, 2)))

    key = jax.random.key(0)
    batch, greedy = collected(key)
    noise = np.asarray(jax.random.normal(jax.random.split(key)[0], (50, 3, 2)), np.float64)
    mean, deviation = np.array([0.5, -1.0]), np.exp([0.3, -0.2])
    raw = mean + deviation * noise
    np.testing.assert_allclose(batch.action, raw.reshape(-1, 2), atol=1e-5)
    density = scipy.stats.norm(mean, deviation).logpdf(raw).sum(-1)
    np.testing.assert_allclose(batch.log_prob, density.ravel(), rtol=1e-4)
    seen = batch.inputs[0].reshape(50, 3, 2)[1:]
    np.testing.assert_allclose(seen, np.clip(raw, -1, 1)[:-1] / 2, atol=1e-5)
    np.testing.assert_allclose(greedy, [np.clip(mean, -1, 1) / 2] * 5, atol=1e-6)


# --- standardized advantages ------------------------------------------------------------------------------------------

standardize = jax.jit(on_policy.standardize)


@pytest.mark.parametrize("count", [2, 7, 128, 1000, 4096])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, -2.7, 123.4, 1 / 3, 1000.1, -1e-20, 1e37])
def test_equal_advantages_are_standardized_to_zero(count, value):
    advantages = np.full(count, value, np.float32)
    np.testing.assert_array_equal(standardize(advantages), 0.0)
    used = np.arange(count) % 3 != 1
    others = np.where(used, advantages, np.nan).astype(np.float32)
    expected = 0.0 if used.sum() > 1 else np.where(used, advantages, 0.0)
    np.testing.assert_array_equal(standardize(others, used), expected)


@pytest.mark.parametrize("value", [0.1, -123.4, 1e6])
def test_advantages_that_differ_only_by_rounding_are_standardized_to_zero(value):
    advantages = np.full(256, value, np.float32)
    advantages[::2] = np.nextafter(advantages[0], np.float32(np.inf))
    np.testing.assert_array_equal(standardize(advantages), 0.0)


@pytest.mark.parametrize("count", [2, 3, 128, 4096])
@pytest.mark.parametrize(
    ("mean", "spread"), [(0, 1), (3, 1e-2), (1e4, 1), (-1e6, 100), (0, 1e-20), (0, 1e-30), (0, 1e30), (1e-15, 1e-15)]
)
def test_advantages_are_standardized_as_in_64_bits(count, mean, spread):
    advantages = np.random.default_rng(count).normal(mean, spread, count).astype(np.float32)
    wide = advantages.astype(np.float64)
    expected = (wide - wide.mean()) / wide.std()
    np.testing.assert_allclose(standardize(advantages), expected, rtol=1e-4, atol=2e-5)
    used = np.random.default_rng(0).random(count) < 0.7
    used[:2] = True
    wide = wide[used]
    got = standardize(np.where(used, advantages, np.nan), used)
    np.testing.assert_allclose(got[used], (wide - wide.mean()) / wide.std(), rtol=1e-4, atol=2e-5)
    np.testing.assert_array_equal(got[~used], 0.0)


def test_a_single_advantage_stays_unchanged():
    np.testing.assert_array_equal(standardize(jnp.array([3.5])), [3.5])
    np.testing.assert_array_equal(
        standardize(jnp.array([1.0, -2.0, np.nan]), jnp.array([False, True, False])), [0, -2, 0]
    )
    np.testing.assert_array_equal(standardize(jnp.array([1.0, 2.0]), jnp.zeros(2, bool)), [0, 0])


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_an_advantage_that_is_not_finite_is_not_hidden(spoiled):
    assert np.isnan(standardize(jnp.array([1.0, 1.0, spoiled, 1.0]))).any()


@pytest.mark.parametrize("advantages", [[0.3, 0.3, 0.3], [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
def test_standardizing_has_derivatives(advantages):
    def total(scale):
        return jnp.sum(on_policy.standardize(scale * jnp.array(advantages)) * jnp.arange(3))

    assert np.isfinite(jax.grad(total)(1.0))
    np.testing.assert_allclose(jax.grad(total)(1.0), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("targets", "values", "expected"),
    [
        ([0.1] * 9, [0.1] * 9, 0.0),
        ([0.1] * 9, list(range(9)), 0.0),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 0.0),
        ([1e30, 3e30], [1e30, 2e30], 0.75),
        ([1e-25, 3e-25], [1e-25, 2e-25], 0.75),
    ],
)
def test_explained_variance(targets, values, expected):
    got = on_policy.explained_variance(jnp.array(values, jnp.float32), jnp.array(targets, jnp.float32))
    np.testing.assert_allclose(got, expected, atol=1e-6)
