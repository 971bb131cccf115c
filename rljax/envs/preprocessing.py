"""Wrappers that preprocess a game's frames, as in Mnih et al. 2015 (Methods, "Preprocessing").

env = frame_stack(resize(grayscale(repeat_action(env, 4, max_over_last=True)), 84, 84), 4)

Add `clip_reward` for the same rewards.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs import measures
from rljax.envs.base import Bound, Env, TimeStep
from rljax.envs.observations import map_observation
from rljax.envs.spaces import Box, Leaf, Space, by_path, leaves_of, map_paths, space_of_leaves
from rljax.envs.wrappers import add_wrapper, recorded
from rljax.errors import UsageError, number, shown

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, section 2.5.1


@recorded
def repeat_action(env: Env, times: int, max_over_last: bool = False) -> Env:
    """Repeat every action, and sum its rewards, until the episode ends (Mnih et al. 2015).

    An episode that ends within a repetition, terminated or truncated, ends there: that step's observation and flags are
    returned, and no later reward counts. What the engine counts are the agent's decisions: the environment steps of
    `total_steps`, episode lengths and discounts. A `time_limit` comes before and counts the environment's own steps.
    The info of a decision is the sum, the mean or the last of its steps', as the environment declares it.

    Args:
        env: the environment.
        times: steps of the environment per decision.
        max_over_last: observe the elementwise maximum of the last two frames, for images of sprites that flicker.

    Raises:
        UsageError: `times` is not an integer of at least 1, or `max_over_last` is set without images [H, W, C].
    """
    times = number("repeat_action's times", times, integer=True, minimum=1, maximum=1_000_000)
    if env.legal_actions is not None:
        raise UsageError(
            "repeat_action would repeat actions that may have become illegal: repeat them in the environment."
        )
    if not isinstance(max_over_last, bool):
        raise UsageError(f"repeat_action's max_over_last must be True or False, got {shown(max_over_last)}.")
    reset, step = env.reset, env.step
    if max_over_last:
        space = env.observation_space
        _map_images(env, "repeat_action with max_over_last", lambda image: image)
        reset, step = Bound(_maximum_reset, (reset,)), Bound(_maximum_step, (step, space))
    repeated = Bound(_repeat_step, (step, times, env.info))
    return add_wrapper(env, "repeat_action", num_frames=1, reset=reset, step=repeated)


def _repeat_step(
    step: Callable, times: int, info: measures.Declared, key: jax.Array, state: Any, action: Any, params: Any
) -> tuple[TimeStep, Any]:
    averaged = [name for name, how in info if how == "mean"]

    def repeat(last: Any, key: jax.Array) -> tuple[Any, tuple[()]]:
        so_far, state, counts = last
        result, state = step(key, state, action, params)
        sums = {name: so_far.info[name] + result.info[name] for name, how in info if how != "last"}
        result = result._replace(reward=so_far.reward + result.reward, info={**result.info, **sums})
        counts = {name: count + 1 for name, count in counts.items()}
        ended = so_far.terminated | so_far.truncated
        return jax.tree.map(lambda old, new: jnp.where(ended, old, new), last, (result, state, counts)), ()

    # Starting from no step compiles the environment once instead of twice.
    shapes, _ = jax.eval_shape(step, key, state, action, params)
    no_step = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = (no_step, state, {name: jnp.float32(0.0) for name in averaged})
    (result, state, counts), _ = jax.lax.scan(repeat, start, jax.random.split(key, times))
    return result._replace(info={**result.info, **{name: result.info[name] / counts[name] for name in averaged}}), state


class MaximumState(NamedTuple):
    inner: Any
    frame: Any  # the newest observation, with images [H, W, C]


def _maximum_reset(reset: Callable, key: jax.Array, params: Any) -> tuple[Any, MaximumState]:
    obs, state = reset(key, params)
    return obs, MaximumState(state, obs)


def _maximum_step(
    step: Callable, space: Space, key: jax.Array, state: MaximumState, action: Any, params: Any
) -> tuple[TimeStep, MaximumState]:
    result, inner = step(key, state.inner, action, params)

    def maximum(leaf: Leaf, old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.maximum(old, new) if _is_image(leaf) else new

    obs = jax.tree.map(maximum, leaves_of(space), state.frame, result.next_obs)
    return result._replace(obs=obs, next_obs=obs), MaximumState(inner, result.next_obs)


@recorded
def grayscale(env: Env) -> Env:
    r"""Observe the luma $0.299 R + 0.587 G + 0.114 B$ `[H, W, 1]` of images `[H, W, 3]` (ITU-R BT.601).

    Dtype and bounds stay; integers are rounded. Of nested observations all images are changed.

    Raises:
        UsageError: observations have no image, or one that is not of shape [H, W, 3].
    """

    def gray(space: Box) -> Box:
        low, high = space.low.min(axis=-1, keepdims=True), space.high.max(axis=-1, keepdims=True)
        return Box(low, high, low.shape, space.dtype)

    spaces = _map_images(env, "grayscale", gray, "3")
    return map_observation(env, "grayscale", space_of_leaves(spaces), _on_images, _grayscale, space_of_leaves(spaces))


def _on_images(function: Callable, space: Space, obs: Any) -> Any:
    """Apply `(space after it, image) -> image` to the images."""
    return jax.tree.map(lambda leaf, x: function(leaf, x) if _is_image(leaf) else x, leaves_of(space), obs)


def _grayscale(space: Box, obs: jax.Array) -> jax.Array:
    return _as_pixels(space, (obs.astype(jnp.float32) * np.array(_LUMA, np.float32)).sum(axis=-1, keepdims=True))


@recorded
def resize(env: Env, height: int, width: int) -> Env:
    """Resize images `[H, W, C]` to `[height, width, C]` by `jax.image.resize`: bilinear, with antialiasing.

    Dtype and bounds stay; integers are rounded. A smaller image averages the pixels under triangles as wide as two of
    its pixels. Of nested observations all images are changed.

    Raises:
        UsageError: observations have no image [H, W, C], or a size is not an integer of at least 1.
    """
    height = number("resize's height", height, integer=True, minimum=1)
    width = number("resize's width", width, integer=True, minimum=1)

    def resized(space: Box) -> Box:
        low, high = space.low.min(axis=(0, 1)), space.high.max(axis=(0, 1))
        return Box(low, high, (height, width, space.shape[-1]), space.dtype)

    space = space_of_leaves(_map_images(env, "resize", resized))
    return map_observation(env, "resize", space, _on_images, _resize, space)


def _resize(space: Box, obs: jax.Array) -> jax.Array:
    return _as_pixels(space, jax.image.resize(obs.astype(jnp.float32), space.shape, "bilinear", antialias=True))


def _as_pixels(space: Box, x: jax.Array) -> jax.Array:
    """Cast weighted means of pixels to the space's dtype, without rounding errors beyond its bounds."""
    x = jnp.clip(x, space.low, space.high)
    return (jnp.round(x) if space.is_integral else x).astype(space.dtype)


def _is_image(space: Leaf) -> bool:
    return isinstance(space, Box) and len(space.shape) == 3


def _map_images(env: Env, what: str, function: Callable[[Box], Box], channels: str = "C") -> Any:
    """The leaves of the observation space with the images changed; a `UsageError` if there is none, or a wrong one."""
    leaves = by_path(leaves_of(env.observation_space))
    wanted = {path: leaf for path, leaf in leaves.items() if _is_image(leaf) or path == ""}
    if not wanted:
        raise UsageError(
            f"{what} needs images [H, W, {channels}], but {env.name} observes {', '.join(leaves)} without one."
        )
    for path, leaf in wanted.items():
        if not _is_image(leaf) or channels not in ("C", str(leaf.shape[-1])):
            got = f"of shape {leaf.shape}" if isinstance(leaf, Box) else "discrete"
            where = f"observations {path!r}" if path else "observations"
            raise UsageError(
                f"{what} needs images [H, W, {channels}], but {where} of {env.name} are {got}: apply it before "
                "wrappers that change their shape, or not at all."
            )
    return map_paths(lambda path, leaf: function(leaf) if path in wanted else leaf, leaves_of(env.observation_space))
