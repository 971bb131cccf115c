"""Nested observations: their spaces' wrappers, the collector's statistics, and the checker's sentences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nested import nested_cartpole, robot

import rljax
from rljax import envs, rollout


def test_flattening_joins_the_leaves_in_the_order_of_jax():
    flat = envs.flatten_observation(nested_cartpole())
    obs, _ = flat.reset(jax.random.key(0), flat.params)
    raw, _ = nested_cartpole().reset(jax.random.key(0), flat.params)
    expected = np.concatenate([np.eye(3)[int(raw["context"])], raw["position"], raw["velocity"]])
    np.testing.assert_array_equal(obs, expected)
    space = flat.observation_space
    np.testing.assert_allclose(space.low[:4], [0, 0, 0, -4.8])
    assert space.high.shape == (7,)


def test_frames_are_stacked_leaf_by_leaf():
    env = envs.frame_stack(robot(), 3)
    assert env.observation_space == envs.Dict(
        {
            "joints": envs.Tuple((rljax.Box(-1.0, 1.0, (6,)), rljax.MultiDiscrete((2, 3) * 3))),
            "camera": rljax.Box(0, 255, (4, 5, 9), np.uint8),
        }
    )
    obs, state = env.reset(jax.random.key(0), env.params)
    first, _ = robot().reset(jax.random.key(0), env.params)
    result, _ = env.step(jax.random.key(1), state, 0, env.params)
    np.testing.assert_array_equal(obs["camera"], np.concatenate([first["camera"]] * 3, -1))
    np.testing.assert_array_equal(result.obs["camera"][..., :6], np.concatenate([first["camera"]] * 2, -1))
    np.testing.assert_array_equal(result.next_obs["joints"][1][:4], np.tile(first["joints"][1], 2))
    assert envs.check(env) == []


def test_images_of_nested_observations_are_changed_and_other_leaves_are_not():
    env = envs.resize(envs.grayscale(robot()), 2, 2)
    assert env.observation_space.spaces["camera"] == rljax.Box(0, 255, (2, 2, 1), np.uint8)
    assert env.observation_space.spaces["joints"] == robot().observation_space.spaces["joints"]
    obs, _ = env.reset(jax.random.key(0), env.params)
    assert obs["camera"].dtype == np.uint8
    assert envs.check(envs.repeat_action(robot(), 2, max_over_last=True)) == []


def test_only_floats_are_normalised_unless_named():
    assert envs.normalize_observations(robot()).normalize_observations == ("joints.0",)
    named = envs.normalize_observations(robot(), only=["camera"])
    assert named.normalize_observations == ("camera",)
    assert named.recipe[-1] == ("normalize_observations", (("camera",),))
    assert envs.normalize_observations("CartPole-v1").recipe[-1] == ("normalize_observations", ())


def test_statistics_of_leaves_equal_numpys_one_rollout_later():
    env = envs.normalize_observations(nested_cartpole(), only=("velocity",))
    collector = rollout.reset(jax.random.key(0), env, 3)

    @jax.jit
    def run(collector):
        def policy(noise, obs):
            return noise, obs

        noise = jnp.ones((8, 3), jnp.int32)
        return rollout.rollout(jax.random.key(1), policy, noise, collector, env, 8)

    first, seen, _ = run(collector)
    assert list(first.obs_moments) == ["velocity"]
    np.testing.assert_allclose(first.obs_moments["velocity"].mean, seen.action["velocity"].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(first.obs_moments["velocity"].spread, seen.action["velocity"].std((0, 1)), rtol=1e-5)
    second, after, _ = run(first)
    raw = first.obs["velocity"]
    moments = first.obs_moments["velocity"]
    np.testing.assert_allclose(after.obs["velocity"][0], (raw - moments.mean) / moments.spread, rtol=1e-4)
    np.testing.assert_array_equal(after.obs["position"][0], first.obs["position"])
    assert after.obs["context"].dtype == np.int32
    assert float(second.obs_moments["velocity"].samples) == 48


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: envs.frame_stack(nested_cartpole(), 2), "the leaf 'context' is none: apply flatten_observation"),
        (lambda: envs.grayscale(nested_cartpole()), "grayscale needs images"),
        (lambda: envs.mask_observation(nested_cartpole(), (0,)), "apply flatten_observation first"),
        (lambda: envs.normalize_observations(nested_cartpole(), only=("speed",)), "no leaf 'speed' .*velocity"),
        (lambda: envs.normalize_observations(nested_cartpole(), only=("context",)), "integers of 'context'"),
        (lambda: envs.normalize_observations(nested_cartpole(), only="velocity"), "paths of leaves"),
        (lambda: envs.normalize_observations("CartPole-v1", only=("velocity",)), "omit it"),
        (lambda: envs.normalize_observations(nested_cartpole().replace(
            observation_space=envs.Dict({"context": rljax.Discrete(3)}))), "there is none"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_for_a_leaf_is_one_sentence(make, words):
    with pytest.raises(rljax.UsageError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def changed(**leaves):
    """`nested_cartpole` with other leaves in its observations than its space has."""
    env = nested_cartpole()

    def reset(key, params):
        obs, state = env.reset(key, params)
        return obs | leaves, state

    def step(key, state, action, params):
        result, state = env.step(key, state, action, params)
        obs = result.next_obs | leaves
        return result._replace(obs=obs, next_obs=obs), state

    return env.replace(reset=reset, step=step)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"position": jnp.zeros(3)}, r"observations 'position' of shape \(3,\), but .*'position' has \(2,\)"),
        ({"context": jnp.float32(0)}, "'context', but a Discrete observation must be an integer"),
        ({"extra": jnp.zeros(1)}, "observation of the structure .*'extra'.* but observation_space has"),
        ({"context": jnp.int32(3)}, "observations 'context' between 3 and 3 are outside Discrete"),
        ({"position": jnp.full(2, 9.0)}, "observations 'position' between .* exceed observation_space 'position'"),
        ({"velocity": jnp.full(2, jnp.nan)}, "an observation 'velocity' is NaN or infinite"),
    ],
)
def test_the_checker_names_the_leaf(leaves, words):
    found, *_ = envs.check(changed(**leaves))
    assert re.search(words, found), found
