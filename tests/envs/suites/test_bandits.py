"""Bandits: what their rewards and the oracle's are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import bandits
from rljax.envs.suites import bandits as suite


def played(env, actions, seed=0):
    """The info and the rewards of a sequence of actions `[T]`."""
    _, state = env.reset(jax.random.key(seed), env.params)

    def step(state, inputs):
        result, following = env.step(*inputs[:1], state, inputs[1], env.params)
        return following, (state.means, result.reward, result.info)

    keys = jax.random.split(jax.random.key(seed + 1), len(actions))
    return jax.lax.scan(step, state, (keys, jnp.asarray(actions)))[1]


@pytest.mark.parametrize("name", [pytest.param("bandits/abrupt-4", marks=pytest.mark.slow), "bandits/linear-4"])
def test_bandits_keep_the_contract_of_environments(name):
    assert rljax.envs.check(rljax.make(name), num_steps=4) == []


def test_rewards_have_the_means_that_are_reported():
    for env in (
        rljax.make("bandits/bernoulli-2", means=[0.3, 0.8]),
        rljax.make("bandits/gaussian-2", means=[0.3, 0.8]),
    ):
        _, rewards, info = played(env, np.arange(4000) % 2)
        for arm, mean in enumerate((0.3, 0.8)):
            assert np.mean(rewards[arm::2]) == pytest.approx(mean, abs=0.09)
            np.testing.assert_allclose(info["expected_reward"][arm::2], mean, rtol=1e-6)
        np.testing.assert_allclose(info["oracle_reward"], 0.8, rtol=1e-6)
        np.testing.assert_array_equal(info["optimal"], np.arange(4000) % 2)


def test_means_drift():
    means, _, _ = played(rljax.make("bandits/drifting-50", walk=0.1), np.zeros(400, int))
    assert np.std(means[-1]) == pytest.approx(0.1 * np.sqrt(399), rel=0.3)
    means, _, _ = played(rljax.make("bandits/abrupt-3", period=7), np.zeros(20, int))
    changed = np.any(np.diff(means, axis=0) != 0, axis=1)
    assert (np.flatnonzero(changed) + 1).tolist() == [7, 14]


def test_the_best_arm_in_hindsight_is_the_adversarys_oracle():
    env = rljax.make("bandits/adversarial-3", period=2)
    actions = np.array([0, 1, 2] * 5)
    means, rewards, info = played(env, actions)
    best = np.array([0] * 2 + [1] * 4 + [2] * 8 + [0])
    np.testing.assert_array_equal(means, np.eye(3)[best])
    np.testing.assert_array_equal(rewards, best == actions)
    assert np.sum(info["oracle_reward"]) == 8
    table = bandits.from_table(np.eye(3)[best[:5]])
    means, rewards, info = played(table, actions[:7])
    np.testing.assert_array_equal(means, np.eye(3)[best[[0, 1, 2, 3, 4, 0, 1]]])
    assert np.sum(info["oracle_reward"]) == 4


def test_expected_rewards_are_linear_in_features():
    env = rljax.make("bandits/linear-4", theta=[1.0, -2.0])
    obs, state = env.reset(jax.random.key(0), env.params)
    np.testing.assert_allclose(state.means, obs @ np.array([1.0, -2.0]), rtol=1e-5)


def test_ids_and_settings():
    assert set(suite.registered()) <= set(rljax.envs.registered())
    env = rljax.make("bandits/bernoulli-2", means=(0.25, 0.5), low=0.1)
    assert env.label == "bandits/bernoulli-2(means=(0.25, 0.5), low=0.1)"
    for name, settings, text in [
        ("bandits/bernouli-10", {}, "did you mean bandits/bernoulli-10"),
        ("bandits/bernoulli-1", {}, "2 arms or more"),
        ("bandits/bernoulli-2", {"mean": 1}, "has no setting 'mean'"),
        ("bandits/bernoulli-2", {"means": (0.5, 1.5)}, "must be probabilities"),
        ("bandits/bernoulli-2", {"means": (0.5,)}, "must be 2 finite numbers"),
        ("bandits/abrupt-2", {"period": 0}, "integer of at least 1"),
    ]:
        with pytest.raises(rljax.UsageError, match=text):
            rljax.make(name, **settings)
    with pytest.raises(rljax.UsageError, match=r"finite rewards \[T, A\]"):
        bandits.from_table([1.0, 2.0])
