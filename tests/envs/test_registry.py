"""`make` and the registry: ids, settings, equal environments that compile once, and clear errors."""

import gymnasium
import gymnax
import jax
import numpy as np
import pytest
from tiny_ppo import TINY
from toys import same_structure, walk

import rljax
from rljax import ppo


def count_traces():
    traces = []

    @jax.jit
    def first_observation(key, env):
        traces.append(env.name)
        return env.reset(key, env.params)[0]

    return first_observation, traces


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"gravity": 5.0}),
        ("DeepSea-bsuite", {"size": 5}),
        ("DeepSea-bsuite", {"size": 5, "unscaled_move_cost": 0.02}),
        ("FrozenLake-misc", {"is_slippery": False, "map_name": "8x8"}),
    ],
)
def test_equal_environments_compile_once(name, settings):
    first, second = rljax.make(name, **settings), rljax.make(name, **settings)
    assert same_structure(first, second)
    function, traces = count_traces()
    for env in (first, second):
        function(jax.random.key(0), env)
    assert traces == [name]


def test_params_are_traced_and_constructor_arguments_static():
    function, traces = count_traces()
    for gravity in (1.0, 2.0, 3.0):
        function(jax.random.key(0), rljax.make("CartPole-v1", gravity=gravity))
    assert len(traces) == 1
    for size in (4, 5, 4):
        assert function(jax.random.key(0), rljax.make("DeepSea-bsuite", size=size)).shape == (size, size)
    assert len(traces) == 3


def test_a_gymnax_object_made_twice_compiles_once():
    environment = gymnax.make("CartPole-v1")[0]
    first, second = rljax.make(environment), rljax.make(environment, gravity=5.0)
    assert same_structure(first, second)
    assert (first.params.gravity, second.params.gravity) == (9.8, 5.0)
    function, traces = count_traces()
    for env in (first, second):
        function(jax.random.key(0), env)
    assert traces == ["CartPole-v1"]


def test_settings_reach_params_and_constructor():
    env = rljax.make("DeepSea-bsuite", size=5, unscaled_move_cost=0.5)
    assert env.observation_space.shape == (5, 5)
    assert env.params.max_steps_in_episode == 5
    assert env.params.unscaled_move_cost == 0.5
    assert rljax.make("FrozenLake-misc", map_name="8x8").observation_space == rljax.Discrete(64)


def test_settings_need_not_be_hashable():
    lake = rljax.make("FrozenLake-misc", desc=["SFF", "FHG"])
    assert lake.observation_space == rljax.Discrete(6)
    sea = rljax.make("DeepSea-bsuite", size=3, action_mapping_key=jax.random.key(7))

    @jax.jit
    def mappings():
        expected = jax.random.bernoulli(jax.random.key(7), 0.5, (3, 3))
        return sea.reset(jax.random.key(0), sea.params)[1].action_mapping, expected

    assert np.array_equal(*mappings())


def test_make_returns_an_env_unchanged():
    env = walk
    assert rljax.make(env) is env
    with pytest.raises(rljax.UsageError, match=r"env\.replace"):
        rljax.make(env, gravity=5.0)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: rljax.make("CartPole"), "CartPole-v1"),
        (lambda: rljax.make("cartpole-v2"), "CartPole-v1"),
        (lambda: rljax.make("Breakout-MinAtari"), "Breakout-MinAtar"),
        (lambda: ppo.Config(env="Pendulum"), "Pendulum-v1"),
        (lambda: rljax.make("CartPole-v1", gravty=5.0), "gravity"),
        (lambda: rljax.make("DeepSea-bsuite", sise=5), "size"),
        (lambda: rljax.make(gymnax.make("CartPole-v1")[0], gravty=5.0), "gravity"),
    ],
)
def test_unknown_names_suggest_the_nearest(call, nearest):
    with pytest.raises(rljax.UsageError) as caught:
        call()
    assert nearest in str(caught.value).split(":")[-1]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thing", [3, None, object(), gymnasium.spaces.Discrete(2)])
def test_make_refuses_other_objects(thing):
    with pytest.raises(rljax.UsageError, match=type(thing).__name__):
        rljax.make(thing)


def test_make_refuses_a_class():
    with pytest.raises(rljax.UsageError):
        rljax.make(type(gymnax.make("CartPole-v1")[0]))


def test_an_id_and_its_env_give_equal_configs():
    by_name, by_env = ppo.Config(env="CartPole-v1", **TINY), ppo.Config(env=rljax.make("CartPole-v1"), **TINY)
    assert isinstance(by_name.env, rljax.Env)
    assert same_structure(by_name, by_env)
    assert by_name.env.params == by_env.env.params
