"""The checker: silent about healthy environments, and about broken ones a sentence that names what is broken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import envs
from rljax.envs import TimeStep

PLANE = rljax.Box(-1.0, 1.0, (2,))


def reset(key, params):
    """Somewhere in the square."""
    del params
    return jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5), jnp.int32(0)


def step(key, state, action, params):
    del action, params
    obs = jax.random.uniform(key, (2,), minval=-1.0)
    return rljax.timestep(obs, 1.0, state + 1 >= 7), state + 1


def env_of(**changes):
    given = {"reset": reset, "step": step, "observation_space": PLANE, "action_space": rljax.Discrete(2), **changes}
    return rljax.Env(**given)


def step_giving(obs=None, reward=1.0, terminated=False, truncated=False):
    """A step that gives just that."""

    def broken(key, state, action, params):
        del key, action, params
        return rljax.timestep(jnp.zeros(2) if obs is None else obs, reward, terminated, truncated), state + 1

    return broken


def raw_step(*fields):
    """A step whose TimeStep is filled in by hand."""

    def broken(key, state, action, params):
        del key, action, params
        return TimeStep(*fields), state + 1

    return broken


OBS, REWARD, NO = jnp.zeros(2), jnp.float32(1.0), jnp.bool_(False)


# Healthy ones


def reset_with_key(key, params):
    """Keeps a key in its state."""
    key_obs, own_key = jax.random.split(key)
    return reset(key_obs, params)[0], (jnp.int32(0), own_key)


def step_with_key(key, state, action, params):
    del key
    time, own_key = state
    own_key, key_step = jax.random.split(own_key)
    result, time = step(key_step, time, action, params)
    return result, (time, own_key)


def reset_bytes(key, params):
    del key
    return jnp.zeros_like(params["image"]), jnp.int32(0)


def step_bytes(key, state, action, params):
    del key
    return rljax.timestep(params["image"], action.sum(), state + 1 >= 3), state + 1


def reset_flag(key, params):
    return jax.random.bernoulli(key, params), ()


def step_flag(key, state, action, params):
    return rljax.timestep(jax.random.bernoulli(key, params), action, True), state


def a_stack():
    env = envs.sticky_actions(envs.mask_observation(rljax.make("CartPole-v1"), (0, 2)))
    env = envs.shape_reward(env, jnp.sum, 0.99)
    return envs.normalize_rewards(envs.normalize_observations(envs.time_limit(envs.frame_stack(env, 3), 20)))


HEALTHY = {
    "CartPole-v1": lambda: rljax.make("CartPole-v1"),
    "Pendulum-v1": lambda: rljax.make("Pendulum-v1"),
    "FrozenLake-misc": lambda: rljax.make("FrozenLake-misc"),
    "Breakout-MinAtar": lambda: rljax.make("Breakout-MinAtar"),
    "wrapped stack": a_stack,
    "key in the state": lambda: env_of(reset=reset_with_key, step=step_with_key),
    "bytes, unbounded actions, arrays in the params": lambda: env_of(
        reset=reset_bytes,
        step=step_bytes,
        observation_space=rljax.Box(0, 255, (3, 3, 1), np.uint8),
        action_space=rljax.Box(-np.inf, np.inf, (2, 2)),
        params={"image": jnp.full((3, 3, 1), 255, jnp.uint8)},
    ),
    "one flag, one number for an action": lambda: env_of(
        reset=reset_flag,
        step=step_flag,
        observation_space=rljax.Box(0, 1, (), bool),
        action_space=rljax.Box(-2.0, 2.0, ()),
        params=0.3,
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_valid_environment_passes(name):
    env = HEALTHY[name]()
    assert envs.check(env) == []
    envs.require(env)


# What shapes show; `require` refuses the same

SHAPES = {
    "shape of obs changes": (env_of(step=step_giving(jnp.zeros(3))), ["float32[3]", "float32[2]", "obs"]),
    "dtype of obs changes": (env_of(step=step_giving(jnp.zeros(2, int))), ["int32[2]", "float32[2]", "obs"]),
    "only next_obs changes": (env_of(step=raw_step(OBS, jnp.zeros(1), REWARD, NO, NO)), ["next_obs", "float32[1]"]),
    "not the space's shape": (env_of(observation_space=rljax.Box(-1.0, 1.0, (3,))), ["(2,)", "(3,)", "observation"]),
    "reward not scalar": (env_of(step=step_giving(reward=jnp.ones(1))), ["reward", "scalar", "float32[1]"]),
    "reward whole": (env_of(step=raw_step(OBS, OBS, jnp.int32(1), NO, NO)), ["reward", "int32[]", "rljax.timestep"]),
    "terminated not scalar": (env_of(step=step_giving(terminated=[False])), ["terminated", "bool[1]"]),
    "truncated not bool": (env_of(step=raw_step(OBS, OBS, REWARD, NO, jnp.int32(0))), ["truncated", "int32[]"]),
    "state's shape": (
        env_of(step=lambda key, state, action, params: (step(key, state, action, params)[0], jnp.zeros(2, int))),
        ["state", "int32[]", "int32[2]"],
    ),
    "state's dtype": (
        env_of(step=lambda key, state, action, params: (step(key, state, action, params)[0], jnp.float32(0))),
        ["state", "int32[]", "float32[]"],
    ),
    "state's structure": (
        env_of(step=lambda key, state, action, params: (step(key, state, action, params)[0], (state, state))),
        ["state", "structure"],
    ),
    "obs in two arrays": (
        env_of(reset=lambda key, params: ({"a": jnp.zeros(2), "b": jnp.zeros(2)}, jnp.int32(0))),
        ["not one array"],
    ),
    "reward missing": (env_of(step=raw_step(OBS, OBS, None, NO, NO)), ["reward"]),
    "reward in a dict": (env_of(step=raw_step(OBS, OBS, {"r": REWARD}, NO, NO)), ["reward"]),
    "terminated in a tuple": (env_of(step=raw_step(OBS, OBS, REWARD, (NO,), NO)), ["terminated"]),
    "obs missing": (env_of(step=raw_step(None, None, REWARD, NO, NO)), ["obs"]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_broken_shapes_are_named(name):
    env, words = SHAPES[name]
    found = envs.check(env)
    assert len(found) >= 1
    assert any(all(word in sentence for word in words) for sentence in found), found
    with pytest.raises(rljax.UsageError, match=env.name) as caught:
        envs.require(env)
    assert found[0] in str(caught.value)


def test_every_breach_is_listed():
    env = env_of(step=step_giving(jnp.zeros(3), reward=jnp.ones(1), terminated=[False]))
    found = envs.check(env)
    assert len(found) == 4  # obs, next_obs, the reward, terminated
    assert len(set(found)) == 4
    assert all("\n" not in sentence for sentence in found)


# What does not trace


def python_if(key, state, action, params):
    if state > 3:
        return step_giving(reward=2.0)(key, state, action, params)
    return step_giving()(key, state, action, params)


UNTRACEABLE = {
    "reset gives three": (env_of(reset=lambda key, params: (OBS, jnp.int32(0), {})), ["reset", "too many values"]),
    "reset gives one": (env_of(reset=lambda key, params: OBS[0]), ["reset"]),
    "reset raises": (env_of(reset=lambda key, params: 1 / 0), ["reset", "ZeroDivisionError"]),
    "reset gives a string": (env_of(reset=lambda key, params: ("left", jnp.int32(0))), ["reset"]),
    "reset takes no params": (env_of(reset=lambda key: (OBS, jnp.int32(0))), ["reset", "TypeError"]),
    "step as gymnasium's": (
        env_of(step=lambda key, state, action, params: (OBS, 1.0, False, False, {})),
        ["step", "too many values"],
    ),
    "step gives the result alone": (env_of(step=lambda *arguments: rljax.timestep(OBS, 1.0, False)), ["step"]),
    "step gives None": (env_of(step=lambda *arguments: None), ["step"]),
    "four fields": (env_of(step=lambda *arguments: ((OBS, OBS, REWARD, NO), jnp.int32(0))), ["step", "TimeStep"]),
    "six fields": (
        env_of(step=lambda *arguments: ((OBS, OBS, REWARD, NO, NO, {}), jnp.int32(0))),
        ["step", "TimeStep"],
    ),
    "python if": (env_of(step=python_if), ["step", "TracerBoolConversionError"]),
    "float of a traced state": (
        env_of(step=lambda key, state, action, params: (rljax.timestep(OBS, float(state), False), state)),
        ["step", "ConcretizationTypeError"],
    ),
    "numpy of a traced state": (
        env_of(step=lambda key, state, action, params: (rljax.timestep(OBS, np.sin(state), False), state)),
        ["step", "TracerArrayConversionError"],
    ),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_functions_that_do_not_trace_are_named(name):
    env, words = UNTRACEABLE[name]
    (sentence,) = envs.check(env)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "env",
    [
        env_of(observation_space=None),
        env_of(action_space=None),
        env_of(action_space="two"),
        env_of(step=None),
        env_of(reset=3),
        env_of(step=lambda *arguments: (tuple(rljax.timestep(OBS, 1.0, False)), jnp.int32(0))),
    ],
    ids=["no observation space", "no action space", "a string for a space", "no step", "no reset", "plain tuple"],
)
def test_check_never_raises(env):
    found = envs.check(env)
    assert len(found) >= 1
    assert all(isinstance(sentence, str) and sentence for sentence in found)


def test_a_plain_tuple_is_refused_before_a_run():
    # The engine reads the fields of a step by name.
    plain = env_of(step=lambda *arguments: (tuple(rljax.timestep(OBS, 1.0, False)), jnp.int32(0)))
    with pytest.raises(rljax.UsageError, match="TimeStep"):
        envs.require(plain)


# What only running shows

_random = np.random.default_rng(0)


def from_the_host(vmap_method):
    """A function that draws an observation on the host and ignores the key."""

    def draw(x):
        return _random.uniform(-1, 1, (*np.shape(x), 2)).astype(np.float32)

    return lambda x: jax.pure_callback(draw, jax.ShapeDtypeStruct((2,), jnp.float32), x, vmap_method=vmap_method)


def step_on_the_host(vmap_method):
    draw = from_the_host(vmap_method)
    return lambda key, state, action, params: (rljax.timestep(draw(state), 1.0, False), state + 1)


def two_draws(key):
    return 0.1 * jnp.tanh(jax.random.normal(key, (2,)) + jax.random.normal(key, (2,)))


def step_reusing(key, state, action, params):
    del action, params
    return rljax.timestep(two_draws(key), 1.0, False), state + 1


def step_using_what_it_split(key, state, action, params):
    del action, params
    _, other = jax.random.split(key)
    return rljax.timestep(jax.random.uniform(key, (2,)), jax.random.uniform(other), False), state + 1


def late(value, usual):
    """A step whose observation (or reward, where that is given) goes wrong only after a while."""

    def broken(key, state, action, params):
        del key, action, params
        return rljax.timestep(jnp.where(state == 40, value, usual) * jnp.ones(2), 1.0, False), state + 1

    return broken


def step_with_bad_reward(key, state, action, params):
    result, following = step(key, state, action, params)
    return result._replace(reward=jnp.where(action == 1, jnp.nan, result.reward)), following


RUNNING = {
    "NaN": (env_of(step=late(jnp.nan, 0.0)), ["NaN"]),
    "NaN at the reset": (env_of(reset=lambda key, params: (OBS + jnp.nan, jnp.int32(0))), ["NaN"]),
    "NaN reward": (env_of(step=step_with_bad_reward), ["reward", "NaN"]),
    "above the space": (env_of(step=late(3.0, 0.5)), ["observation_space", "3"]),
    "below the space": (env_of(step=late(-1.5, 0.5)), ["observation_space", "-1.5"]),
    "beyond a discrete space": (
        env_of(
            reset=lambda key, params: (jnp.int32(0), jnp.int32(0)),
            step=lambda key, state, action, params: (rljax.timestep(state % 4, 1.0, False), state + 1),
            observation_space=rljax.Discrete(3),
        ),
        ["Discrete", "3"],
    ),
    "halves in a discrete space": (
        env_of(
            reset=lambda key, params: (jnp.float32(0.5), jnp.int32(0)),
            step=lambda key, state, action, params: (rljax.timestep(jnp.float32(0.5), 1.0, False), state + 1),
            observation_space=rljax.Discrete(3),
        ),
        ["Discrete"],
    ),
    "step reuses its key": (envs.time_limit(env_of(step=step_reusing), 9), ["step", "key twice"]),
    "reset reuses its key": (env_of(reset=lambda key, params: (two_draws(key), jnp.int32(0))), ["reset", "key twice"]),
    "key split and used": (env_of(step=step_using_what_it_split), ["step", "key twice"]),
    "step draws on the host": (env_of(step=step_on_the_host("broadcast_all")), ["step", "same key"]),
    "reset draws on the host": (
        env_of(reset=lambda key, params: (from_the_host("broadcast_all")(jnp.int32(0)), jnp.int32(0))),
        ["reset", "same key"],
    ),
    "no vmap": (env_of(step=step_on_the_host(None)), ["step", "vmap", "NotImplementedError"]),
}


@pytest.mark.parametrize("name", RUNNING)
def test_errors_that_only_running_shows_are_named(name):
    env, words = RUNNING[name]
    found = envs.check(env)
    assert any(all(word in sentence for word in words) for sentence in found), found
    assert all("\n" not in sentence for sentence in found)


def test_a_reset_that_cannot_be_vmapped_is_not_blamed_on_step():
    env = env_of(reset=lambda key, params: (from_the_host(None)(jax.random.bits(key)), jnp.int32(0)))
    (sentence,) = envs.check(env)
    assert sentence.startswith("reset")


def test_num_steps_bounds_the_search():
    assert envs.check(env_of(step=late(jnp.nan, 0.0)), num_steps=30) == []


def branching_step(key, state, action, params):
    if action > 0:  # a Python branch on a traced value
        return step(key, state, action, params)
    return step(key, state, 1 - action, params)


def branching_reset(key, params):
    while jax.random.bernoulli(key):
        key, _ = jax.random.split(key)
    return reset(key, params)


@pytest.mark.parametrize(
    ("changes", "function", "wrap"),
    [
        ({"step": branching_step}, branching_step, lambda env: env),
        ({"step": branching_step}, branching_step, lambda env: envs.time_limit(envs.flatten_observation(env), 5)),
        ({"reset": branching_reset}, branching_reset, lambda env: env),
    ],
)
def test_an_error_in_an_environment_names_its_file_and_line(changes, function, wrap):
    env = wrap(env_of(**changes))
    line = function.__code__.co_firstlineno + 1
    with pytest.raises(rljax.UsageError, match=rf"\(test_checker.py, line {line}\)") as caught:
        envs.require(env)
    assert isinstance(caught.value.__cause__, jax.errors.TracerBoolConversionError)
    assert "\n" not in str(caught.value)
    assert f"(test_checker.py, line {line})" in envs.check(env)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"observation_space": (PLANE, PLANE)},
            "observation_space must be an rljax.Box, Discrete or MultiDiscrete, or an rljax.envs.Dict",
        ),
        ({"observation_space": {"a": PLANE}}, "observation_space must be"),
        ({"action_space": (rljax.Discrete(2), PLANE)}, "action_space must be"),
        (
            {"observation_space": rljax.Box(-1, 1, (0,))},
            r"observation_space must have at least one entry, got .* \(0,\)",
        ),
        ({"observation_space": rljax.Box(-1, 1, (3, 0))}, "observation_space must have at least one entry"),
        ({"action_space": rljax.Box(-1, 1, (0,))}, "action_space must have at least one entry"),
    ],
)
def test_a_space_that_is_not_supported_is_one_sentence(changes, words):
    env = env_of(**changes)
    for call in (lambda: envs.require(env), lambda: rljax.make(env), lambda: rljax.ppo.Config(env=env)):
        with pytest.raises(rljax.UsageError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert len(envs.check(env)) == 1
