"""Preprocessing of games: repeated actions and smaller images, compared with NumPy on a film of known frames."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import envs, rollout

_random = np.random.default_rng(0)
FRAMES = _random.integers(0, 256, (13, 4, 6, 3), dtype=np.uint8)
REWARDS = np.round(_random.normal(size=12), 2).astype(np.float32)


def reset_film(key, params):
    del key, params
    return jnp.asarray(FRAMES)[0], jnp.int32(0)


def step_film(key, state, action, params):
    """Show the next frame, and earn the step's reward and the action; after the end, NaN."""
    del key
    time = state + 1
    over = state >= jnp.minimum(params["end"], params["cut"])
    reward = jnp.where(over, jnp.nan, jnp.asarray(REWARDS)[state] + action)
    return rljax.timestep(jnp.asarray(FRAMES)[time], reward, time >= params["end"], time >= params["cut"]), time


def film(end=99, cut=99):
    return rljax.Env(
        reset=reset_film,
        step=step_film,
        observation_space=rljax.Box(0, 255, (4, 6, 3), np.uint8),
        action_space=rljax.Discrete(2),
        params={"end": jnp.int32(end), "cut": jnp.int32(cut)},
        name="film",
    )


def watch(env, actions):
    """The first observation, the steps that follow without a reset, and the last state, compiled."""
    obs, state = env.reset(jax.random.key(0), env.params)
    step, results = jax.jit(env.step), []
    for number, action in enumerate(actions):
        result, state = step(jax.random.key(number), state, jnp.int32(action), env.params)
        results.append(result)
    return np.asarray(obs), jax.tree.map(lambda *x: np.stack(x), *results), state


def still(image, space):
    """An environment that shows one image."""
    return rljax.Env(
        reset=lambda key, params: (jnp.asarray(image, space.dtype), ()),
        step=lambda key, state, action, params: (rljax.timestep(jnp.asarray(image, space.dtype), 0.0, True), state),
        observation_space=space,
        action_space=rljax.Discrete(1),
    )


def first_observation(env):
    return np.asarray(jax.jit(env.reset)(jax.random.key(0), env.params)[0])


# repeat_action


@pytest.mark.parametrize("kind", ["end", "cut"])
def test_a_repetition_sums_rewards_and_stops_where_the_episode_ends(kind):
    obs, steps, time = watch(envs.repeat_action(film(**{kind: 8}), 3), [0, 1, 1])
    assert np.array_equal(obs, FRAMES[0])
    assert np.array_equal(steps.next_obs, FRAMES[[3, 6, 8]])
    assert np.array_equal(steps.obs, steps.next_obs)
    assert np.allclose(steps.reward, [REWARDS[:3].sum(), REWARDS[3:6].sum() + 3, REWARDS[6:8].sum() + 2])
    ends = {"end": steps.terminated.tolist(), "cut": steps.truncated.tolist()}
    assert ends.pop(kind) == [False, False, True]
    assert ends.popitem()[1] == [False] * 3
    assert time == 8


def test_the_maximum_is_of_the_last_two_frames():
    for times, end, last in ((3, 8, [3, 6, 8]), (3, 7, [3, 6, 7]), (1, 99, [1, 2, 3])):
        obs, steps, _ = watch(envs.repeat_action(film(end), times, max_over_last=True), [0, 0, 0])
        assert np.array_equal(obs, FRAMES[0])
        assert np.array_equal(steps.next_obs, np.maximum(FRAMES[last], FRAMES[np.subtract(last, 1)]))
        assert np.array_equal(steps.obs, steps.next_obs)


def test_the_engine_counts_decisions_and_begins_at_the_first_frame():
    def run(key):
        env = envs.repeat_action(film(end=8), 3, max_over_last=True)
        actions = jnp.zeros((6, 2), jnp.int32)
        return rollout.rollout(key, lambda noise, obs: (noise, noise), actions, rollout.reset(key, env, 2), env, 6)

    _, trajectory, metrics = jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(0)))
    assert (metrics["episodes"], metrics["episode_length"]) == (4, 3.0)
    assert np.isclose(metrics["episode_return"], REWARDS[:8].sum())
    assert np.array_equal(trajectory.obs[3, 0], FRAMES[0])
    assert np.array_equal(trajectory.next_obs[3, 0], np.maximum(FRAMES[2], FRAMES[3]))


def test_repetitions_of_a_batch_end_one_by_one():
    env = envs.repeat_action(film(), 4)
    params = {"end": jnp.arange(1, 6), "cut": jnp.array([9, 1, 9, 9, 9])}
    keys, state = jax.random.split(jax.random.key(0), 5), jnp.zeros(5, jnp.int32)
    result, time = jax.jit(jax.vmap(env.step))(keys, state, jnp.arange(5), params)
    assert time.tolist() == [1, 1, 3, 4, 4]
    assert np.allclose(result.reward, [REWARDS[:n].sum() + n * i for i, n in enumerate(time)])
    assert result.terminated.tolist() == [True, False, True, True, False]
    assert result.truncated.tolist() == [False, True, False, False, False]


def test_every_repeated_step_has_its_own_key():
    def step(key, state, action, params):
        draw = jax.random.uniform(key)
        return rljax.timestep(FRAMES[0], draw**2, False), state + draw

    env = envs.repeat_action(film().replace(step=step), 2)
    result, total = env.step(jax.random.key(0), jnp.float32(0), jnp.int32(0), env.params)
    assert abs(result.reward - total**2 / 2) > 1e-3  # equal only if both draws are


# grayscale, resize


def test_grayscale_is_the_rounded_luma():
    env = envs.grayscale(film())
    assert env.observation_space == rljax.Box(0, 255, (4, 6, 1), np.uint8)
    obs, steps, _ = watch(env, [0, 0])
    assert obs.dtype == steps.next_obs.dtype == np.uint8
    for gray, frame in zip([obs, *steps.next_obs], FRAMES, strict=False):
        exact = (frame.astype(int) @ [299, 587, 114]) / 1000
        assert np.abs(gray[..., 0] - exact).max() < 0.5 + 1e-4
    assert np.array_equal(steps.obs, steps.next_obs)
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]])
    gray = first_observation(envs.grayscale(still(colours, rljax.Box(0, 255, (1, 4, 3), np.uint8))))
    assert gray[0, :, 0].tolist() == [76, 150, 29, 255]


def test_images_of_floats_are_not_rounded():
    image = _random.uniform(-1, 1, (2, 2, 3)).astype(np.float32)
    env = still(image, rljax.Box(-1.0, [1.0, 1.0, np.inf], (2, 2, 3)))
    gray, small = envs.grayscale(env), envs.resize(env, 1, 1)
    assert gray.observation_space == rljax.Box(-1.0, np.inf, (2, 2, 1))
    assert small.observation_space == rljax.Box(-1.0, [1.0, 1.0, np.inf], (1, 1, 3))
    assert np.allclose(first_observation(gray)[..., 0], image.astype(float) @ [0.299, 0.587, 0.114], atol=1e-6)
    assert np.allclose(first_observation(small)[0, 0], image.mean(axis=(0, 1)), atol=1e-6)


def test_a_mean_of_pixels_is_rounded_and_stays_within_the_bounds():
    means = still([[[0, 255], [1, 255]], [[2, 255], [4, 255]]], rljax.Box(0, 255, (2, 2, 2), np.uint8))
    assert first_observation(envs.resize(means, 1, 1)).tolist() == [[[2, 255]]]  # 7 / 4 and 255


def triangles(size, new):
    """Weights `[new, size]` of bilinear interpolation, as wide as the larger of both pixels."""
    ratio = size / new
    centers = (np.arange(new) + 0.5) * ratio - 0.5
    weights = np.maximum(1.0 - np.abs(centers[:, None] - np.arange(size)) / max(ratio, 1.0), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(2, 3), (8, 4), (4, 6)])
def test_resize_is_bilinear_with_antialiasing(shape):
    env = envs.resize(film(), *shape)
    assert env.observation_space == rljax.Box(0, 255, (*shape, 3), np.uint8)
    obs, steps, _ = watch(env, [0, 0])
    assert steps.next_obs.dtype == obs.dtype == np.uint8
    seen = np.stack([obs, *steps.next_obs])
    exact = np.einsum("yh,xw,thwc->tyxc", triangles(4, shape[0]), triangles(6, shape[1]), FRAMES[:3].astype(float))
    assert np.abs(seen - exact).max() < 0.5 + 1e-3
    if shape == (4, 6):
        assert np.array_equal(seen, FRAMES[:3])


def test_resize_of_four_pixels_to_two():
    row = still(np.array([[[0.0], [7.0], [14.0], [70.0]]]), rljax.Box(0.0, 99.0, (1, 4, 1)))
    # Weights 3, 3, 1 and their mirror image, over 7.
    assert np.allclose(first_observation(envs.resize(row, 1, 2))[0, :, 0], [5.0, 37.0])


# Composition


def preprocessed(env):
    env = envs.grayscale(envs.repeat_action(envs.time_limit(env, 9), 4, max_over_last=True))
    return envs.clip_reward(envs.frame_stack(envs.resize(env, 3, 2), 2))


def test_the_preprocessing_of_games_composes():
    env = preprocessed(film(end=7))
    assert env.observation_space == rljax.Box(0, 255, (3, 2, 2), np.uint8)
    assert envs.check(env, num_steps=16) == []
    assert env.label == (
        "film+time_limit(9)+repeat_action(4, True)+grayscale()+resize(3, 2)+frame_stack(2)+clip_reward(-1.0, 1.0)"
    )
    left, right = jax.tree.structure(env), jax.tree.structure(preprocessed(film(end=5)))
    assert left == right
    assert hash(left) == hash(right)


def test_wrapped_environments_are_made_again_from_files():
    game = envs.resize(envs.repeat_action("Breakout-MinAtar", np.int64(2), max_over_last=True), jnp.int32(5), 4)
    env = envs.clip_reward(game, high=2)
    assert env.recipe[1:] == (("repeat_action", (2, True)), ("resize", (5, 4)), ("clip_reward", (-1.0, 2.0)))
    assert envs.remake(json.loads(json.dumps(env.recipe))) == env
    # No registered environment has colours.
    assert envs.grayscale(film()).recipe == (None, ("grayscale", ()))


def colours(name):
    """Three images of one channel, as a stack: not colours, though of the same shape."""
    return getattr(envs, name)(envs.grayscale(film()), *((3,) if name == "frame_stack" else ()))


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda: envs.repeat_action(film(), 0), "repeat_action's times must be an integer in .*, got 0"),
        (lambda: envs.repeat_action(film(), 2.0), "times must be an integer in .*, got 2.0"),
        (lambda: envs.repeat_action(film(), True), "got True"),
        (lambda: envs.repeat_action(film(), 4, 1), "max_over_last must be True or False, got 1"),
        (lambda: envs.repeat_action("CartPole-v1", 4, True), r"max_over_last needs images \[H, W, C\], .* \(4,\)"),
        (lambda: envs.resize("CartPole-v1", 4, 4), r"resize needs images \[H, W, C\], .* CartPole-v1 .* \(4,\)"),
        (lambda: envs.resize("FrozenLake-misc", 4, 4), r"resize needs images \[H, W, C\], .* are discrete"),
        (lambda: envs.resize(film(), 0, 4), "resize's height must be an integer of at least 1, got 0"),
        (lambda: envs.resize(film(), 4, "5"), "resize's width must be an integer of at least 1, got '5'"),
        (lambda: envs.grayscale("CartPole-v1"), r"grayscale needs images \[H, W, 3\], .* \(4,\)"),
        (lambda: envs.grayscale(envs.frame_stack(film(), 2)), r"images \[H, W, 3\], .* \(4, 6, 6\): apply it before"),
        (lambda: envs.grayscale(colours("frame_stack")), r"cannot come after frame_stack, .* frame_stack\(grayscale"),
        (lambda: envs.grayscale(envs.normalize_observations(film())), r"normalize_observations\(grayscale\(env"),
        (lambda: envs.resize(colours("normalize_observations"), 2, 2), r"normalize_observations\(resize\(env"),
    ],
)
def test_invalid_arguments_are_refused(wrap, words):
    with pytest.raises(rljax.UsageError, match=words) as caught:
        wrap()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
