"""Evaluation: each episode counts once, and an episode that does not end gives NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import Slope, walk

import rljax
from rljax import evaluation


def test_evaluate_counts_each_episode_once():
    """Episodes of different lengths side by side: the return is that of the first episode of each."""

    def reset(key, params):
        length = jax.random.randint(key, (), 1, 9)
        return length[None].astype(jnp.float32), (length, jnp.int32(0))

    def step(key, state, action, params):
        length, time = state
        return rljax.timestep(length[None].astype(jnp.float32), 1.0, time + 1 == length), (length, time + 1)

    env = rljax.Env(reset=reset, step=step, observation_space=rljax.Box(0, 9, (1,)), action_space=rljax.Discrete(2))
    seen = []

    def policy(key, obs):
        seen.append(obs.shape)
        return jnp.zeros(50, jnp.int32)

    returns = jax.jit(lambda key: evaluation.evaluate(key, env, policy, 50))(jax.random.key(0))
    lengths = jax.vmap(lambda key: env.reset(key, ())[1][0])(
        jax.random.split(jax.random.split(jax.random.key(0))[0], 50)
    )
    np.testing.assert_array_equal(returns, lengths)
    assert len(np.unique(returns)) == 8
    assert seen == [(50, 1)]


def test_an_episode_that_does_not_end_gives_nan():
    env = walk.replace(params=Slope(steps=10))
    returns = evaluation.evaluate(jax.random.key(0), env, lambda key, obs: jnp.ones(3, jnp.int32), 3, max_steps=4)
    assert np.isnan(returns).all()
    with pytest.raises(rljax.UsageError, match="num_episodes must be an integer of at least 1"):
        evaluation.evaluate(jax.random.key(0), env, lambda key, obs: obs, 0)


def test_every_step_has_different_keys():
    """Two steps by hand: rewards and actions at random, and an end by a time limit."""
    env = rljax.envs.time_limit(walk.replace(params=Slope(steps=10)), 2)

    def policy(key, obs):
        return jax.random.bernoulli(key, 0.5, obs.shape[:1]).astype(jnp.int32)

    expected, key = np.zeros(6), jax.random.key(3)
    for time in range(2):
        key_policy, key_env = jax.random.split(jax.random.fold_in(jax.random.split(key)[1], time))
        noise = jax.vmap(jax.random.uniform)(jax.random.split(key_env, 6))
        expected += np.asarray(policy(key_policy, jnp.zeros((6, 1))) + noise)
    np.testing.assert_allclose(evaluation.evaluate(key, env, policy, 6), expected, rtol=1e-6)


def test_play_reports_the_returns_so_far():
    env = walk.replace(params=Slope(steps=10))
    played = evaluation.play(jax.random.key(0), env, lambda key, obs: jnp.full(3, 5, jnp.int32), 3, max_steps=4)
    np.testing.assert_array_equal(np.floor(played.returns / 5), 4)  # noise adds less than 1 a step
    np.testing.assert_array_equal(played.measures["length"], 4)
    assert not played.ended.any()


def test_a_recording_has_every_step_of_the_episodes_that_are_played():
    env = rljax.envs.time_limit(walk.replace(params=Slope(steps=3)), 9)

    def policy(key, obs):
        return jax.random.bernoulli(key, 0.5, obs.shape[:1]).astype(jnp.int32)

    recording = jax.jit(lambda key: evaluation.record(key, env, policy, 4, max_steps=6))(jax.random.key(5))
    played = jax.jit(lambda key: evaluation.play(key, env, policy, 4))(jax.random.key(5))
    np.testing.assert_array_equal(recording.episodes.returns, played.returns)
    np.testing.assert_array_equal(recording.episodes.measures["length"], [3, 3, 3, 3])
    np.testing.assert_array_equal(recording.states.inner[:4, 0], [0, 1, 2, 3])  # from the reset on
    np.testing.assert_allclose(recording.rewards[:3].sum(axis=0), played.returns, rtol=1e-6)
    assert recording.actions.shape == (6, 4)
    cut = jax.jit(lambda key: evaluation.record(key, env, policy, 4, max_steps=2))(jax.random.key(5))
    assert not cut.episodes.ended.any()
    np.testing.assert_allclose(cut.episodes.returns, recording.rewards[:2].sum(axis=0), rtol=1e-6)
    with pytest.raises(rljax.UsageError, match="max_steps must be an integer"):
        evaluation.record(jax.random.key(5), env, policy, 4, max_steps=0)


@pytest.mark.parametrize(
    ("key", "policy", "text"),
    [
        (3, None, "key must be one random key, such as jax.random.key.0., got 3"),
        (None, None, "key must be one random key"),
        (jax.random.split(jax.random.key(0), 3), None, r"an array of keys of shape \(3,\): use jax.vmap"),
        (jax.random.key(0), 3, "policy must be a function of a key and observations, got 3"),
        (jax.random.key(0), lambda key, obs: 0, r"actions of shape \(2,\), one for each observation, got 0"),
        (jax.random.key(0), lambda key, obs: "left", "one for each observation, got 'left'"),
        (jax.random.key(0), lambda key, obs: jnp.zeros((len(obs), 2), int), r"got shape \(2, 2\)"),
    ],
)
def test_a_wrong_key_or_policy_is_one_sentence(key, policy, text):
    with pytest.raises(rljax.UsageError, match=text):
        rljax.evaluate(key, "CartPole-v1", policy, 2)


def test_a_key_of_raw_bits_is_one_key():
    def left(key, obs):
        return jnp.zeros(len(obs), jnp.int32)

    with jax.legacy_prng_key("allow"):
        found = rljax.evaluate(jax.random.PRNGKey(0), "CartPole-v1", left, 2)
    np.testing.assert_array_equal(found, rljax.evaluate(jax.random.key(0), "CartPole-v1", left, 2))
    with pytest.raises(rljax.UsageError, match="key must be one random key"):
        rljax.ppo.train(3, rljax.ppo.Config(env=rljax.make("CartPole-v1")))
