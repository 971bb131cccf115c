"""Wrappers that change observations, leaf by leaf if these are nested."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, as_features, observation_shape
from rljax.envs.spaces import Box, Leaf, MultiDiscrete, Space, by_path, leaves_of, map_paths, space_of_leaves
from rljax.envs.wrappers import add_wrapper, recorded
from rljax.errors import UsageError, number, shown, suggest


def map_observation(env: Env, name: str, space: Space, function: Callable[..., Any], *arguments: Any) -> Env:
    """Apply a pure function of one observation after every reset and step."""
    transform = Bound(function, arguments)
    return add_wrapper(
        env,
        name,
        num_frames=1,
        observation_space=space,
        reset=Bound(_mapped_reset, (env.reset, transform)),
        step=Bound(_mapped_step, (env.step, transform)),
    )


def _mapped_reset(reset: Callable, transform: Callable, key: jax.Array, params: Any) -> tuple[Any, Any]:
    obs, state = reset(key, params)
    return transform(obs), state


def _mapped_step(
    step: Callable, transform: Callable, key: jax.Array, state: Any, action: Any, params: Any
) -> tuple[TimeStep, Any]:
    result, state = step(key, state, action, params)
    return result._replace(obs=transform(result.obs), next_obs=transform(result.next_obs)), state


@recorded
def flatten_observation(env: Env) -> Env:
    """Flatten observations to one vector of floats, leaf after leaf; discrete ones become one-hot."""
    space = env.observation_space
    bounds = [
        (leaf.low.reshape(-1), leaf.high.reshape(-1))
        if isinstance(leaf, Box)
        else (np.zeros(observation_shape(leaf)), np.ones(observation_shape(leaf)))
        for leaf in by_path(leaves_of(space)).values()
    ]
    low, high = (np.concatenate(ends) for ends in zip(*bounds, strict=True))
    return map_observation(env, "flatten_observation", Box(low, high, low.shape), _flatten, space)


def _flatten(space: Space, obs: Any) -> jax.Array:
    leaves = jax.tree.map(lambda leaf, x: as_features(leaf, x).reshape(-1), leaves_of(space), obs)
    return jnp.concatenate(jax.tree.leaves(leaves))


@recorded
def mask_observation(env: Env, keep: Sequence[int]) -> Env:
    """Keep only some entries of a vector observation: `(0, 2)` is CartPole without its velocities."""
    space = env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UsageError("mask_observation needs a vector observation: apply flatten_observation first.")
    if not isinstance(keep, Sequence) and np.ndim(keep) != 1:
        raise UsageError(f"mask_observation takes the indices to keep, such as (0, 2), got {shown(keep)}.")
    for entry in keep:
        if isinstance(entry, bool | np.bool_) or not isinstance(entry, int | np.integer):
            raise UsageError(f"mask_observation takes the indices to keep, such as (0, 2), got {shown(entry)}.")
    kept = tuple(int(i) for i in keep)
    if not kept or not all(0 <= i < space.shape[0] for i in kept):
        raise UsageError(
            f"mask_observation of {env.name} needs indices between 0 and {space.shape[0] - 1}, got {keep}."
        )
    masked = Box(space.low[list(kept)], space.high[list(kept)], (len(kept),), space.dtype)
    return map_observation(env, "mask_observation", masked, _keep_entries, kept)


def _keep_entries(kept: tuple[int, ...], obs: jax.Array) -> jax.Array:
    return obs[np.array(kept)]


class StackState(NamedTuple):
    inner: Any
    frames: Any  # [num_frames, *obs shape], the oldest first


@recorded
def frame_stack(env: Env, num_frames: int) -> Env:
    """Concatenate the last `num_frames` observations along the last axis, the oldest first, leaf by leaf.

    At the start of an episode the first observation is repeated.
    """
    num_frames = number("frame_stack's num_frames", num_frames, integer=True, minimum=1, maximum=10_000)

    def stacked(path: str, leaf: Leaf) -> Leaf:
        if isinstance(leaf, MultiDiscrete):
            return MultiDiscrete(leaf.nvec * num_frames)
        if not isinstance(leaf, Box) or not leaf.shape:
            wrong = f", and the leaf {path!r} is none" if path else ""
            raise UsageError(f"frame_stack needs array observations{wrong}: apply flatten_observation first.")
        shape = (*leaf.shape[:-1], leaf.shape[-1] * num_frames)
        low, high = np.concatenate([leaf.low] * num_frames, -1), np.concatenate([leaf.high] * num_frames, -1)
        return Box(low, high, shape, leaf.dtype)

    return add_wrapper(
        env,
        "frame_stack",
        nests=True,
        num_frames=num_frames,
        observation_space=space_of_leaves(map_paths(stacked, leaves_of(env.observation_space))),
        reset=Bound(_stack_reset, (env.reset, num_frames)),
        step=Bound(_stack_step, (env.step,)),
    )


def _join(frames: Any) -> Any:
    return jax.tree.map(lambda x: jnp.concatenate(list(x), axis=-1), frames)


def _stack_reset(reset: Callable, num_frames: int, key: jax.Array, params: Any) -> tuple[Any, StackState]:
    obs, state = reset(key, params)
    frames = jax.tree.map(lambda x: jnp.stack([x] * num_frames), obs)
    return _join(frames), StackState(state, frames)


def _stack_step(
    step: Callable, key: jax.Array, state: StackState, action: Any, params: Any
) -> tuple[TimeStep, StackState]:
    result, inner = step(key, state.inner, action, params)
    frames = jax.tree.map(lambda x, new: jnp.concatenate([x[1:], new[None]]), state.frames, result.next_obs)
    stacked = _join(frames)
    return result._replace(obs=stacked, next_obs=stacked), StackState(inner, frames)


@recorded
def normalize_observations(env: Env, only: Sequence[str] | None = None) -> Env:
    """Standardize the learner's observations by their running mean and variance, clipped to [-10, 10].

    The statistics are part of the training state, are updated once per rollout, are frozen when the policy is
    evaluated, and are saved with it. `env.step` still returns raw observations.

    Args:
        env: the environment.
        only: paths of the leaves of nested observations, such as `("velocity", "camera.left")`; None for all floats.

    Raises:
        UsageError: observations have no leaf to normalise, or `only` names one that they do not have.
    """
    leaves = by_path(leaves_of(env.observation_space))
    if "" in leaves:
        if only is not None:
            raise UsageError(
                "normalize_observations takes `only` for nested observations, and these are one array: omit it."
            )
        if not isinstance(leaves[""], Box):
            raise UsageError("normalize_observations needs array observations: apply flatten_observation first.")
        return add_wrapper(env, "normalize_observations", normalize_observations=True)
    if only is None:
        only = [path for path, leaf in leaves.items() if isinstance(leaf, Box) and not leaf.is_integral]
    if isinstance(only, str) or not only:
        given = f"got {only!r}" if only else "and there is none"
        raise UsageError(f'normalize_observations needs the paths of leaves, such as ("velocity",), {given}.')
    for path in only:
        if path not in leaves:
            raise UsageError(
                f"Observations of {env.name} have no leaf {path!r} to normalise: {suggest(str(path), leaves)}"
            )
        if not isinstance(leaves[path], Box):
            raise UsageError(
                f"normalize_observations cannot normalise the integers of {path!r}: leave it out of `only`."
            )
    return add_wrapper(env, "normalize_observations", normalize_observations=tuple(only))
