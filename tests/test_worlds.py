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
from rljax.backend import random_bits
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
def test_the_model_is_gymnasiums_table_on_every_state_and_action(theirs, name, settings):
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
def test_a_deterministic_world_steps_as_its_model_says(name):

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
def test_first_states_are_drawn_as_the_model_says(name):
    env = rljax.make(name)
    start = np.asarray(envs.tabular_model(env).start)
    first = jax.vmap(lambda key: env.reset(key, env.params)[0])(jax.random.split(jax.random.key(0), 30_000))
    counts = np.bincount(first, minlength=len(start))
    assert (counts[start == 0] == 0).all()
    deviation = np.sqrt(30_000 * start * (1 - start))
    assert (np.abs(counts - 30_000 * start) <= 5 * deviation + 1e-2).all()  # the sum is rounded to float32


def test_frozen_lake_steps_as_often_to_each_place_as_the_model_says():
    env = rljax.make("FrozenLake-misc")
    model = envs.tabular_model(env)
    _, state = env.reset(jax.random.key(0), env.params)
    keys = jax.random.split(jax.random.key(1), 20_000)
    for action in range(4):
        result = jax.vmap(lambda key, action=action: env.step(key, state, action, env.params)[0])(keys)
        frequencies = np.bincount(result.next_obs, minlength=16) / 20_000
        np.testing.assert_allclose(frequencies, model.transitions[0, action], atol=0.02)


def test_taxi_and_cliff_cut_long_episodes_and_gymnasium_does_so_with_taxi():
    limit = gymnasium.spec("Taxi-v4").max_episode_steps
    assert limit == 200
    for name in ("Taxi-v3", "CliffWalking-v1", "GridWorld-misc"):
        env = rljax.make(name)
        returns = rljax.evaluate(
            jax.random.key(0), env, lambda key, obs: jnp.zeros(obs.shape, jnp.int32), num_episodes=3, max_steps=limit
        )
        np.testing.assert_array_equal(returns, -200.0 * np.ones(3))  # south, up and left lead nowhere


def test_a_grid_worlds_shortest_way():
    from rljax import planning

    assert float(planning.value_iteration(envs.tabular_model("GridWorld-misc"), 1.0).values[18]) == -14.0
    small = rljax.make("GridWorld-misc", desc=("S.", "#G"))
    assert float(planning.value_iteration(envs.tabular_model(small), 1.0).values[0]) == -2.0


@pytest.mark.parametrize("desc", [("S.",), ("S.G", ".."), ("SG", "SG"), ("S?G",)])
def test_a_maze_that_is_none_is_refused(desc):
    with pytest.raises(rljax.UsageError, match="GridWorld's desc"):
        rljax.make("GridWorld-misc", desc=desc)


def test_a_map_that_is_not_there_is_one_sentence():
    with pytest.raises(rljax.UsageError, match="FrozenLake-misc cannot be made with these settings"):
        rljax.make("FrozenLake-misc", map_name="9x9")


def test_an_environment_of_a_model_draws_what_the_model_says():
    env = envs.random_mdp(jax.random.key(3), 5, 2)
    model = envs.tabular_model(env)
    assert model is env.params
    np.testing.assert_allclose(model.transitions.sum(-1), 1.0, atol=1e-6)
    keys = jax.random.split(jax.random.key(0), 20_000)
    first, state = jax.vmap(env.reset, (0, None))(keys, env.params)
    np.testing.assert_allclose(np.bincount(first, minlength=5) / 20_000, 0.2, atol=0.02)
    step_keys = jax.random.split(jax.random.key(1), 20_000)
    result, _ = jax.vmap(env.step, (0, 0, None, None))(step_keys, state, 1, env.params)
    np.testing.assert_array_equal(result.reward, model.rewards[first, 1])
    for start in range(5):
        seen = np.asarray(result.next_obs)[np.asarray(first) == start]
        np.testing.assert_allclose(np.bincount(seen, minlength=5) / len(seen), model.transitions[start, 1], atol=0.035)
    envs.check(env)


def test_a_state_of_probability_zero_is_never_drawn():
    model = envs.Model(
        transitions=jnp.zeros((3, 1, 3)).at[:, :, 1].set(1.0),
        rewards=jnp.zeros((3, 1)),
        terminated=jnp.zeros((3, 1, 3), bool),
        start=jnp.array([0.0, 0.0, 1.0]),
    )
    env = envs.from_model(model)
    keys = jax.random.split(jax.random.key(0), 1_000)
    first, state = jax.vmap(env.reset, (0, None))(keys, env.params)
    result, _ = jax.vmap(env.step, (0, 0, None, None))(keys, state, 0, env.params)
    assert set(np.asarray(first)) == {2}
    assert set(np.asarray(result.next_obs)) == {1}


@pytest.mark.parametrize("states", [1, 2, 3, 4, 5, 9, 10, 17, 50])
def test_a_draw_is_the_inverse_of_the_sums_for_any_number_of_states(states):
    """Squares, numbers next to squares, and rows with zeros in them, against NumPy's search."""
    rng = np.random.default_rng(states)
    transitions = rng.random((states, 2, states)) * (rng.random((states, 2, states)) < 0.6)
    transitions[..., rng.integers(states)] += 0.1  # no row without any
    transitions /= transitions.sum(-1, keepdims=True)
    nothing = np.zeros((states, 2))
    model = envs.Model(transitions, nothing, np.zeros(transitions.shape, bool), np.full(states, 1.0 / states))
    env = envs.from_model(model)
    keys = jax.random.split(jax.random.key(0), 4_000)
    first, state = jax.vmap(env.reset, (0, None))(keys, env.params)
    uniform = np.asarray(random_bits.uniforms(jax.vmap(random_bits.word)(keys)))
    off = np.abs(uniform * states - np.round(uniform * states)) > 1e-4  # where rounding does not decide
    assert off.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(first)[off], (uniform * states)[off].astype(int))
    step_keys = jax.random.split(jax.random.key(1), 4_000)
    uniform = np.asarray(random_bits.uniforms(jax.vmap(random_bits.word)(step_keys)))
    result, _ = jax.vmap(env.step, (0, 0, None, None))(step_keys, state, 1, env.params)
    sums = transitions[np.asarray(first), 1].cumsum(-1)
    following = (sums <= uniform[:, None] * sums[:, -1:]).sum(-1)
    clear = np.abs(sums - uniform[:, None]).min(-1) > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(result.next_obs)[clear], following[clear])


def test_a_model_of_what_has_none_is_refused():
    with pytest.raises(rljax.UsageError, match="CartPole-v1 has no tabular model"):
        envs.tabular_model("CartPole-v1")
    with pytest.raises(rljax.UsageError, match="wrapped environment"):
        envs.tabular_model(envs.time_limit(rljax.make("Taxi-v3"), 10))
    with pytest.raises(rljax.UsageError, match="number of states of at least 1"):
        envs.random_mdp(jax.random.key(0), 0, 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"transitions": jnp.ones((2, 2, 3)) / 3}, r"needs transitions \(2, 2, 2\), got \(2, 2, 3\)"),
        ({"transitions": jnp.ones((2, 2, 2))}, "transitions must be probabilities"),
        ({"start": jnp.array([1.5, -0.5])}, "start must be probabilities"),
        ({"terminated": jnp.zeros(2, bool)}, "needs terminated"),
        ({"rewards": jnp.zeros((2, 2, 2))}, r"rewards must be a table \[S, A\]"),
    ],
)
def test_a_model_that_does_not_fit_together_is_refused(change, sentence):
    model = envs.random_mdp(jax.random.key(0), 2, 2).params
    with pytest.raises(rljax.UsageError, match=sentence):
        envs.from_model(model._replace(**change))
    with pytest.raises(rljax.UsageError, match="from_model needs an"):
        envs.from_model(envs.from_model(model))


def test_lists_make_a_model_and_a_model_is_had_inside_a_traced_function():
    env = envs.from_model(envs.Model([[[1.0]]], [[2]], [[[False]]], [1]))
    assert env.params.rewards.dtype == jnp.float32
    result, _ = jax.vmap(env.step, (0, None, None, None))(
        jax.random.split(jax.random.key(0), 2), env.reset(jax.random.key(0), env.params)[1], 0, env.params
    )
    np.testing.assert_array_equal(result.reward, [2.0, 2.0])

    @jax.jit
    def inside(scale):
        return scale * envs.tabular_model("GridWorld-misc").transitions.sum()

    assert inside(2.0) == 2 * 54 * 4
