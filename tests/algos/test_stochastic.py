"""Stochastic policies: each algorithm's `act` with `greedy=False` draws the actions that training draws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import toys

import rljax
from rljax import a2c, dqn, ppo, pqn, q_learning, reinforce, sac, td3
from rljax.distributions import policy_head, squashed_head
from rljax.types import RecurrentPolicy

N = 4_000


def _step(key, state, action, params):
    return rljax.timestep(jnp.zeros(1), action.sum(), state >= 2), state + 1


LINE = toys.walk.replace(step=_step, action_space=rljax.Box(-2.0, 2.0, (2,)))
SMALL = {"total_steps": 400, "num_envs": 1, "num_steps": 4, "hidden_sizes": (4,)}
PREFILLED = {**SMALL, "prefill_steps": 8, "buffer_size": 64}


def drawn(algorithm, config, state, greedy=False):
    """Actions for N copies of one observation."""
    policy = algorithm.act(state, config, greedy=greedy)
    obs = jnp.zeros((N, *config.env.observation_space.shape), config.env.observation_space.dtype)
    if isinstance(policy, RecurrentPolicy):
        return np.asarray(policy.step(jax.random.key(7), obs, policy.initial_hidden_state(N))[0])
    return np.asarray(policy(jax.random.key(7), obs))


def scattered(params):
    """Parameters with which no two actions are alike."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)


def check_frequencies(actions, probabilities):
    counts = np.bincount(actions, minlength=len(probabilities))
    assert scipy.stats.chisquare(counts, N * np.asarray(probabilities, np.float64)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("algorithm", "config", "head"),
    [
        (ppo, ppo.Config(env=toys.game, num_minibatches=1, **SMALL), policy_head),
        (ppo, ppo.Config(env=toys.game, recurrent="gru", num_minibatches=1, **SMALL), policy_head),
        (a2c, a2c.Config(env=toys.game, **SMALL), policy_head),
        (reinforce, reinforce.Config(env=toys.game, max_episode_steps=4, **SMALL), policy_head),
        (sac, sac.Config(env=toys.game, **PREFILLED), squashed_head),
    ],
    ids=["ppo", "recurrent_ppo", "a2c", "reinforce", "sac"],
)
def test_discrete_actions_have_the_probabilities_of_the_network(algorithm, config, head):
    state = algorithm.init(jax.random.key(0), config)
    state = state._replace(params=scattered(state.params))
    if algorithm is sac:
        network = sac.default_network(config.env, config).actor
        outputs = network.apply(state.params.actor, jnp.zeros((1, 1)))
    else:
        network = algorithm.default_network(config.env, config)
        hidden = [network.initial_hidden_state(1)] if getattr(config, "recurrent", None) else []
        outputs = network.apply(state.params, jnp.zeros((1, 1)), *hidden)[0]
    probabilities = np.asarray(head(config.env.action_space).distribution(outputs).probs())[0].astype(np.float64)
    check_frequencies(drawn(algorithm, config, state), probabilities / probabilities.sum())
    assert set(drawn(algorithm, config, state, greedy=True)) == {np.argmax(probabilities)}


@pytest.mark.parametrize(
    ("algorithm", "config"),
    [
        (ppo, ppo.Config(env=LINE, num_minibatches=1, **SMALL)),
        (ppo, ppo.Config(env=LINE, squash_actions=True, num_minibatches=1, **SMALL)),
        (sac, sac.Config(env=LINE, **PREFILLED)),
    ],
    ids=["ppo", "squashed ppo", "sac"],
)
def test_continuous_actions_have_the_deviations_of_the_network(algorithm, config):
    """Actions before clipping or tanh are normal: their quantiles are those of the network's outputs."""
    state = algorithm.init(jax.random.key(0), config)
    if algorithm is sac:
        outputs = sac.default_network(LINE, config).actor.apply(state.params.actor, jnp.zeros((1, 1)))
        distribution = squashed_head(LINE.action_space).distribution(outputs)
    else:
        outputs = ppo.default_network(LINE, config).apply(state.params, jnp.zeros((1, 1)))[0]
        distribution = policy_head(LINE.action_space, config.squash_actions).distribution(outputs)
    mean, deviation = np.asarray(distribution.mean)[0], np.exp(np.asarray(distribution.log_std)[0])
    actions = drawn(algorithm, config, state)
    is_squashed = algorithm is sac or config.squash_actions
    for dimension in range(2):
        raw = np.arctanh(actions[:, dimension] / 2) if is_squashed else actions[:, dimension] / 2
        expected = mean[dimension] + deviation[dimension] * scipy.stats.norm.ppf([0.2, 0.35, 0.5, 0.65, 0.8])
        got = np.quantile(raw, [0.2, 0.35, 0.5, 0.65, 0.8])
        inside = np.abs(expected) < 0.9 if not is_squashed else np.full(5, True)  # the rest is clipped
        assert inside.sum() >= 3
        np.testing.assert_allclose(got[inside], expected[inside], atol=5 * deviation[dimension] / math.sqrt(N) * 1.5)


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (q_learning, {"total_steps": 400, "num_envs": 1, "num_steps": 4}),
        (dqn, PREFILLED),
        (pqn, {**SMALL, "num_minibatches": 1}),
    ],
    ids=["q_learning", "dqn", "pqn"],
)
def test_values_are_explored_with_the_epsilon_of_the_next_update(algorithm, fields):
    """Linear from 1 to 0.2 over the run: after half of it, 0.6."""
    env = toys.game if algorithm is not q_learning else rljax.make("GridWorld-misc")
    config = algorithm.Config(env=env, epsilon="linear(1.0, 0.2)", **fields)
    state = algorithm.init(jax.random.key(0), config)
    state = state._replace(step=jnp.int32(config.schedule_updates // 2))
    if algorithm is q_learning:
        values = state.tables.action_values.at[:, :, 2].set(1.0)
        state = state._replace(tables=state.tables._replace(action_values=values))
    else:
        state = state._replace(params=scattered(state.params))
    count, epsilon = env.action_space.n, 1.0 - 0.8 * int(state.step) / config.schedule_updates
    actions = drawn(algorithm, config, state)
    best = np.bincount(actions).argmax()
    probabilities = np.full(count, epsilon / count)
    probabilities[best] += 1.0 - epsilon
    check_frequencies(actions, probabilities)
    if algorithm is not dqn:  # whose greedy policy has averaged parameters
        assert set(drawn(algorithm, config, state, greedy=True)) == {best}


def test_noisy_networks_explore_by_their_noise():
    config = dqn.Config(env=toys.game, noisy=True, epsilon=0.0, **PREFILLED)
    state = dqn.init(jax.random.key(0), config)
    policy = jax.jit(lambda key: dqn.act(state, config, greedy=False)(key, jnp.zeros((1, 1)))[0])
    assert len({int(policy(key)) for key in jax.random.split(jax.random.key(1), 60)}) > 1
    assert len(set(drawn(dqn, config, state, greedy=True))) == 1


def test_the_exploration_noise_of_td3_is_correlated_from_step_to_step():
    config = td3.Config(env=LINE, noise_std=0.1, noise_reversion=0.3, **PREFILLED)
    state = td3.init(jax.random.key(0), config)
    state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))  # in the middle: nothing is clipped
    policy = td3.act(state, config, greedy=False)
    noise, seen = policy.initial_hidden_state(N), []
    assert np.abs(noise).max() == 0
    for key in jax.random.split(jax.random.key(3), 12):
        action, noise = policy.step(key, jnp.zeros((N, 1)), noise)
        seen.append(np.asarray(action) / 2)  # in [-1, 1]
    assert abs(seen[0].std() - 0.1 * math.sqrt(1 - 0.7**2)) < 0.003
    assert abs(seen[-1].std() - 0.1) < 0.003
    assert abs(np.corrcoef(seen[-1].ravel(), seen[-2].ravel())[0, 1] - 0.7) < 0.03
    assert np.abs(drawn(td3, config, state, greedy=True)).max() == 0
