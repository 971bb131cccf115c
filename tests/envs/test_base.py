"""The environment interface: time steps, copies, the next episode, features, and custom environments in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_ppo import TINY, assert_finite_losses, evaluate, train_two_seeds, two_keys
from toys import same_structure

import rljax
from rljax import envs, ppo, rollout, running_statistics


def reset_own(key, params):
    obs = params["start"] * jax.random.uniform(key, (), minval=0.5, maxval=1.0)
    return obs, (obs, jnp.int32(0), key)


def step_own(key, state, action, params):
    """A drift on the line, with a scalar observation, a scalar action and a key in the state."""
    x, time, own_key = state
    own_key, key_drift = jax.random.split(own_key)
    drift = params["noise"].sum() * jax.random.normal(key_drift)
    x = jnp.clip(x + 0.1 * jnp.tanh(action) + 0.01 * drift, -2.0, 2.0)
    return rljax.timestep(x, -(x**2), x > 1.9, time + 1 >= 5), (x, time + 1, own_key)


def own_env():
    return rljax.Env(
        reset=reset_own,
        step=step_own,
        observation_space=rljax.Box(-2.0, 2.0, ()),
        action_space=rljax.Box(-np.inf, np.inf, ()),
        params={"start": jnp.float32(1.0), "noise": jnp.array([0.5, 0.25, 0.25])},
    )


def image_env(side=4):
    """Bytes that brighten from step to step."""

    def reset(key, params):
        del key, params
        return jnp.zeros((side, side, 1), jnp.uint8), jnp.int32(0)

    def step(key, state, action, params):
        del key, params
        obs = jnp.full((side, side, 1), 50 * (state + 1), jnp.uint8)
        return rljax.timestep(obs, action == 0, state + 1 >= 5), state + 1

    return rljax.Env(
        reset=reset,
        step=step,
        observation_space=rljax.Box(0, 255, (side, side, 1), np.uint8),
        action_space=rljax.Discrete(2),
    )


def test_a_custom_environment_trains_and_evaluates():
    """Scalar observation and action, an unbounded action, arrays in the params, a key in the state."""
    config = ppo.Config(env=own_env(), **TINY)
    states, metrics = train_two_seeds(two_keys(), config)
    assert_finite_losses(metrics)
    assert np.all(metrics["episode_length"] == 5.0)
    returns = evaluate(config, jax.tree.map(lambda x: x[0], states))
    assert returns.shape == (3,)
    # Five steps of at most 0.1 and some noise from a start between 0.5 and 1: minus five squares.
    assert np.all((returns > -5 * 1.8**2) & (returns < 0))
    assert len(set(returns.tolist())) == 3
    assert np.all(np.isnan(evaluate(config, jax.tree.map(lambda x: x[0], states), max_steps=4)))


def test_byte_images_are_stored_as_bytes():
    env = envs.normalize_observations(envs.frame_stack(image_env(), 2))
    assert env.observation_space.dtype == np.uint8
    state, metrics = jax.eval_shape(ppo.train, jax.random.key(0), ppo.Config(env=env, **TINY))
    assert (state.collector.obs.shape, state.collector.obs.dtype) == ((2, 4, 4, 2), jnp.uint8)
    assert metrics["loss"].shape == (2,)

    def idle(noise, obs):
        del noise, obs
        return jnp.zeros(2, int), ()

    run = jax.jit(lambda key: rollout.rollout(key, idle, jnp.zeros(16), rollout.reset(key, env, 2), env, 16))
    collector, trajectory, _ = run(jax.random.key(0))
    assert collector.obs.dtype == jnp.uint8
    assert trajectory.obs.dtype == jnp.float32
    # 16 steps of [0, 50, 100, 150, 200] over and over, the newest frame last; an episode starts with two alike.
    newest, oldest = np.resize([0.0, 50, 100, 150, 200], 16), np.resize([0.0, 0, 50, 100, 150], 16)
    assert np.allclose(collector.obs_moments.mean, [oldest.mean(), newest.mean()], rtol=1e-5)
    assert np.allclose(running_statistics.deviation(collector.obs_moments), [oldest.std(), newest.std()], rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_small_images_reach_the_network(side):
    state = jax.eval_shape(ppo.init, jax.random.key(0), ppo.Config(env=image_env(side), **TINY))
    empty = [jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(state.params) if x.size == 0]
    assert empty == []


def test_begin_next_episode_works_on_one_environment_and_on_a_batch():
    result = rljax.timestep(jnp.array([1.0, 2.0]), 0.0, False, True)
    chosen, state = envs.begin_next_episode(result, {"x": jnp.ones(3)}, jnp.zeros(2), {"x": jnp.zeros(3)})
    assert chosen.obs.tolist() == [0.0, 0.0]
    assert chosen.next_obs.tolist() == [1.0, 2.0]
    assert state["x"].tolist() == [0.0, 0.0, 0.0]

    flags = jnp.array([False, True])
    result = rljax.timestep(jnp.ones((2, 2, 1)), jnp.zeros(2), flags)
    chosen, state = envs.begin_next_episode(result, jnp.ones((2, 3)), jnp.zeros((2, 2, 1)), jnp.zeros((2, 3)))
    assert chosen.obs[..., 0].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert state.tolist() == [[1.0] * 3, [0.0] * 3]


def test_timestep_casts_to_the_engines_dtypes():
    obs = jnp.array([1, 2])
    for step in (rljax.timestep(obs, 1, 0), rljax.timestep(obs, np.float64(1), np.bool_(False), 0)):
        assert isinstance(step, rljax.TimeStep)
        assert step.obs is obs
        assert step.next_obs is obs
        assert (step.reward.shape, step.reward.dtype) == ((), jnp.float32)
        assert (step.terminated.dtype, step.truncated.dtype) == (jnp.bool_, jnp.bool_)
        assert (float(step.reward), bool(step.terminated), bool(step.truncated)) == (1.0, False, False)
    assert bool(rljax.timestep(obs, 0.0, False, True).truncated)
    assert bool(rljax.timestep(obs, 0.0, True).terminated)


def test_replace_changes_a_copy():
    env = rljax.make("CartPole-v1")
    other = env.replace(params=env.params.replace(gravity=1.0), name="moon")
    assert (other.name, other.params.gravity) == ("moon", 1.0)
    assert (env.name, env.params.gravity) == ("CartPole-v1", 9.8)
    assert other.step is env.step
    assert same_structure(env, env.replace(params=other.params))
    assert not same_structure(env, other)
    with pytest.raises(rljax.UsageError, match="params"):
        rljax.replace(env, parms=())


def test_features_are_one_hot_or_floats():
    assert envs.as_features(rljax.Discrete(3), jnp.array([2, 0])).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert envs.observation_shape(rljax.Discrete(3)) == (3,)
    for dtype in (np.uint8, np.int32, bool, np.float32):
        features = envs.as_features(rljax.Box(0, 1, (2,), dtype), jnp.array([[0, 1]], dtype))
        assert features.dtype == jnp.float32
        assert features.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("changes", [{"reward": "a"}, {"reward": None}, {"terminated": "yes"}, {"info": {"lap": "b"}}])
def test_a_timestep_has_numbers(changes):
    with pytest.raises(rljax.UsageError, match=r"takes numbers, and (reward|terminated|lap) is"):
        rljax.timestep(jnp.zeros(2), **{"reward": 1.0, "terminated": False, **changes})
