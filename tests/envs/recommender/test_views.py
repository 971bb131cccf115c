"""What bandits and the myopic policy see of a recommender."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import bandits
from rljax.envs import recommender
from rljax.envs.recommender import simulator


def played(env, actions, seed=0):
    """The observations, states and results of some actions in one session, which may have ended."""
    obs, state = env.reset(jax.random.key(seed), env.params)
    seen = [(obs, state, None)]
    step = jax.jit(env.step)
    for i, action in enumerate(actions):
        result, state = step(jax.random.key(100 + i), state, jnp.int32(action), env.params)
        seen.append((result.obs, state, result))
    return seen


def test_the_greedy_policy_shows_the_highest_expected_reward_among_the_candidates():
    env = rljax.make("recommender/drift-9", candidates="category", categories=3)
    view = rljax.envs.masks.masked(recommender.revealed(env))
    obs, states = jax.vmap(view.reset, (0, None))(jax.random.split(jax.random.key(0), 50), view.params)
    rewards = np.asarray(jax.vmap(simulator.expected_rewards, (0, None))(states, env.params))
    np.testing.assert_allclose(obs.observation, rewards, rtol=1e-5)
    chosen = np.where(np.asarray(states.allowed), rewards, -np.inf).argmax(axis=1)
    np.testing.assert_array_equal(recommender.greedy(env)(None, obs), chosen)
    slates = rljax.make("recommender/feed-9")
    obs = jnp.array([[0.0, 3, 1, 9, 2, 8, 0, 0, 7]])
    assert recommender.greedy(slates)(None, obs).tolist() == [[3, 5, 8, 1]]


def test_the_most_popular_policy_skips_what_it_has_just_shown():
    env = rljax.make("recommender/drift-9")
    order = np.argsort(-np.asarray(env.params.catalogue.popularity))
    obs = jax.tree.map(lambda x: x[None], played(env, order[:2])[-1][0])
    assert recommender.most_popular(env)(None, obs).tolist() == [order[2]]


def test_a_bandit_sees_features_and_is_told_its_regret():
    env = rljax.make("recommender/drift-5", dimensions=2)
    view = recommender.as_bandit(env)
    (_, before, _), (features, _, _) = played(view, [3, 1])[1:]
    result = played(view, [3, 1])[-1][2]
    plain = played(env, [3, 1])[-1][0]
    profile = np.asarray(simulator.clicked_mean(plain))
    items = np.asarray(env.params.catalogue.features)
    seen = [[float(i in (1, 3))] for i in range(5)]
    products = items * profile
    expected = np.concatenate([items, products, products.sum(axis=1)[:, None], seen, np.ones((5, 1))], axis=1)
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    rewards = np.asarray(simulator.expected_rewards(before, env.params))
    assert result.info["expected_reward"] == pytest.approx(rewards[1], rel=1e-5)
    assert result.info["oracle_reward"] == pytest.approx(rewards.max(), rel=1e-5)
    assert result.info["optimal"] == (rewards[1] == rewards.max())


def test_bandit_agents_play_a_recommender():
    env = recommender.as_bandit(rljax.make("recommender/small"))
    config = bandits.lin_ucb.Config(env=env, total_steps=2000)
    state, metrics = jax.jit(bandits.lin_ucb.train)(jax.random.key(0), config)
    assert np.all(np.diff(metrics["regret"]) > -1e-3)
    found = rljax.play(jax.random.key(1), env, bandits.lin_ucb.act(state, config), 50)
    assert set(found.measures) >= {"clicks", "length", "optimal"}
