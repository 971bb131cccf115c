"""The tabular worlds against Gymnasium's own transition tables, and environments made of models."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv

import rljax
from rljax import envs
from rljax.envs import toy_text

OWN_MAP = ["SFHF", "FFFG"]


def arrays_of(env):
    """Gymnasium's table as arrays: probabilities, expected rewards, and which transitions end the episode."""
    states, actions = env.observation_space.n, env.action_space.n
    transitions = np.zeros((states, actions, states))
    rewards = np.zeros((states, actions))
    terminated = np.zeros((states, actions, states), bool)
    for state in range(states):
        for action in range(actions):
            for probability, following, reward, ended in env.P[state][action]:
                transitions[state, action, following] += probability
                rewards[state, action] += probability * reward
                terminated[state, action, following] |= ended
    return transitions, rewards, terminated, env.initial_state_distrib


@pytest.mark.parametrize(
    ("theirs", "name", "settings"),
    [
        (TaxiEnv, "Taxi-v3", {}),
        (CliffWalkingEnv, "CliffWalking-v1", {}),
        (FrozenLakeEnv, "FrozenLake-misc", {"map_name": "4x4", "is_slippery": True}),
        (FrozenLakeEnv, "FrozenLake-misc", {"map_name": "4x4", "is_slippery": False}),
        (FrozenLakeEnv, "FrozenLake-misc", {"map_name": "8x8", "is_slippery": True}),
        (FrozenLakeEnv, "FrozenLake-misc", {"map_name": "8x8", "is_slippery": False}),
        (FrozenLakeEnv, "FrozenLake-misc", {"desc": OWN_MAP, "is_slippery": True, "success_rate": 0.6}),
    ],
)
def test_the_model_equals_gymnasiums_table(theirs, name, settings):
    model = envs.tabular_model(rljax.make(name, **settings))
    transitions, rewards, terminated, start = arrays_of(theirs(**settings))
    np.testing.assert_allclose(model.transitions, transitions, atol=1e-7)
    np.testing.assert_allclose(model.rewards, rewards, atol=1e-6)
    np.testing.assert_array_equal(model.terminated, terminated)
    np.testing.assert_allclose(model.start, start, atol=1e-7)


def all_steps(env, states, make_state, num_actions):
    """Every state's every step, through the environment's own function."""
    index, action = np.repeat(states, num_actions), np.tile(np.arange(num_actions), len(states))
    return jax.vmap(lambda i, a: env.step(jax.random.key(0), make_state(i), a, env.params)[0])(index, action)


@pytest.mark.parametrize("name", ["Taxi-v3", "CliffWalking-v1", "GridWorld-misc"])
def test_a_deterministic_environment_steps_as_its_model(name):

    env = rljax.make(name)
    model = envs.tabular_model(env)
    num_states, num_actions = model.rewards.shape
    result = all_steps(env, np.arange(num_states), lambda i: toy_text.State(time=0, index=i), num_actions)
    following = np.asarray(result.next_obs).reshape(num_states, num_actions)
    chosen = np.take_along_axis(np.asarray(model.transitions), following[..., None], -1)[..., 0]
    np.testing.assert_array_equal(chosen, 1.0)
    np.testing.assert_array_equal(np.asarray(result.reward).reshape(num_states, num_actions), model.rewards)
    ended = np.take_along_axis(np.asarray(model.terminated), following[..., None], -1)[..., 0]
    np.testing.assert_array_equal(np.asarray(result.terminated).reshape(num_states, num_actions), ended)


@pytest.mark.parametrize("name", ["Taxi-v3", "CliffWalking-v1", "GridWorld-misc"])
def test_first_states_follow_the_models_probabilities(name):
    env = rljax.make(name)
    start = np.asarray(envs.tabular_model(env).start)
    first = jax.vmap(lambda key: env.reset(key, env.params)[0])(jax.random.split(jax.random.key(0), 30_000))
    counts = np.bincount(first, minlength=len(start))
    assert (counts[start == 0] == 0).all()
    deviation = np.sqrt(30_000 * start * (1 - start))
    assert (np.abs(counts - 30_000 * start) <= 5 * deviation + 1e-2).all()  # the sum is rounded to float32


def test_frozen_lake_transitions_follow_the_models_probabilities():
    env = rljax.make("FrozenLake-misc")
    model = envs.tabular_model(env)
    _, state = env.reset(jax.random.key(0), env.params)
    keys = jax.random.split(jax.random.key(1), 20_000)
    for action in range(4):
        result = jax.vmap(lambda key, action=action: env.step(key, state, action, env.params)[0])(keys)
        frequencies = np.bincount(result.next_obs, minlength=16) / 20_000
        np.testing.assert_allclose(frequencies, model.transitions[0, action], atol=0.02)


def test_tabular_episodes_are_truncated_after_200_steps():
    limit = gymnasium.spec("Taxi-v4").max_episode_steps
    assert limit == 200
    for name in ("Taxi-v3", "CliffWalking-v1", "GridWorld-misc"):
        env = rljax.make(name)
        returns = rljax.evaluate(
            jax.random.key(0), env, lambda key, obs: jnp.zeros(obs.shape, jnp.int32), num_episodes=3, max_steps=limit
        )
        np.testing.assert_array_equal(returns, -200.0 * np.ones(3))  # south, up and left lead nowhere


def test_the_shortest_path_of_a_grid_world_has_its_value():
    from rljax import planning

    assert float(planning.value_iteration(envs.tabular_model("GridWorld-misc"), 1.0).values[18]) == -14.0
    small = rljax.make("GridWorld-misc", desc=("S.", "#G"))
    assert float(planning.value_iteration(envs.tabular_model(small), 1.0).values[0]) == -2.0


@pytest.mark.parametrize("desc", [("S.",), ("S.G", ".."), ("SG", "SG"), ("S?G",)])
def test_an_invalid_maze_is_refused(desc):
    with pytest.raises(rljax.UsageError, match="GridWorld's desc"):
        rljax.make("GridWorld-misc", desc=desc)


def test_an_unknown_map_raises_one_sentence():
    with pytest.raises(rljax.UsageError, match="FrozenLake-misc cannot be made with these settings"):
        rljax.make("FrozenLake-misc", map_name="9x9")
