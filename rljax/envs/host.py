"""Environments that live on the host, outside JAX, such as Gymnasium's and the games of ale-py.

A `pools.Pool` steps the N environments of one run together. The state that travels through JAX is a handle to one
environment of a pool: its number in this process, the steps that its pool has taken, and its seed, which comes from the
run's key. `jax.vmap` over environments and runs becomes one call of the host, however they are nested, and each run has
a pool of its own, so that it sees the same numbers alone and next to others.

A pool cannot be copied or rewound, so it resets an environment in the same call in which its episode ends. `step`
returns the true next observation, as everywhere, and the state has the first one of the next episode: the engine calls
`begun` instead of drawing a reset, no step is masked, and wrappers start their own part of the state anew as usual.

What a copy of a state would be elsewhere is a restart here. If a state is not the newest one of its pool (a run was
repeated from an older state, copied over another one, or resumed in another process), its next step takes no action: it
truncates the episode where it is, with a reward of 0, and begins a new one, whose seed follows from the state. Only a
state right after `reset` is exact, since its pool can be reset with the same seeds. So the bits of a resumed run differ
from those of one that was never stopped.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback

from rljax.backend import sharding
from rljax.envs.base import Bound, Env, TimeStep
from rljax.envs.pools import POOLS, Maker, Stepped
from rljax.envs.spaces import Leaf, Space, leaves_of
from rljax.errors import UsageError


class HostState(NamedTuple):
    """The state of one environment: where it lives, and what the agent sees."""

    number: jax.Array  # [] int32, in this process
    steps: jax.Array  # [] int32, of its pool
    seed: jax.Array  # [] int32, of its first episode
    obs: Any  # after the end of an episode, the first observation of the next one


def env(maker: Maker, observation_space: Space, action_space: Leaf, settings: dict[str, Any], **fields: Any) -> Env:
    """An `Env` whose environments live in pools on the host."""
    arguments = (maker, observation_space)
    return Env(
        reset=Bound(_reset, arguments),
        step=Bound(_step, arguments),
        observation_space=observation_space,
        action_space=action_space,
        name=maker.name,
        recipe=((maker.name, tuple(settings.items())),),
        resets_itself=True,
        **fields,
    )


def maker_of(env: Env) -> Maker | None:
    """What makes an environment's pools, also of a wrapped one; None if it does not live on the host."""
    step: Any = env.step
    while isinstance(step, Bound) and step.function is not _step and step.arguments:
        step = step.arguments[0]  # wrappers bind the step that they wrap first
    return step.arguments[0] if isinstance(step, Bound) and step.function is _step else None


def begun(env: Env, key: jax.Array, env_state: Any) -> tuple[Any, Any]:
    """First observations and states `[N, ...]` of the episodes that N environments are in, as `env.reset` returns them.

    They count only right after the end of an episode: the pool has begun the next one, and its wrappers have not.
    """
    return jax.vmap(env.reset, (None, 0))(key, _handle(env_state))


def release(env_state: Any, result: jax.Array) -> jax.Array:
    """Close the pools of N environments, which are not used any more, before an array `[N]` is returned."""
    return jax.vmap(_release)(_handle(env_state).number, result)


def _handle(env_state: Any) -> HostState:
    parts = jax.tree.leaves(env_state, is_leaf=lambda x: isinstance(x, HostState))
    return next(x for x in parts if isinstance(x, HostState))


def _reset(maker: Maker, space: Space, key: jax.Array, params: Any) -> tuple[Any, HostState]:
    if isinstance(params, HostState):  # from `begun`
        return params.obs, params
    _refuse_sharding(maker)
    seed = jax.random.randint(key, (), 0, 2**31 - 1, jnp.int32)
    number, obs = _calls(maker, space)[0](seed)
    return obs, HostState(number, jnp.int32(0), seed, obs)


def _step(
    maker: Maker, space: Space, key: jax.Array, state: HostState, action: Any, params: Any
) -> tuple[TimeStep, HostState]:
    _refuse_sharding(maker)
    handle = (state.number, state.steps, state.seed)
    number, steps, restarted, result = _calls(maker, space)[1](handle, action)
    next_obs = jax.tree.map(lambda old, new: jnp.where(restarted, old, new), state.obs, result.next_obs)
    step = TimeStep(next_obs, next_obs, result.reward, result.terminated, result.truncated)
    return step, HostState(number, steps, state.seed, result.obs)


def _refuse_sharding(maker: Maker) -> None:
    if sharding.environments_are_sharded():
        raise UsageError(f'{maker.name} lives on the host and cannot be sharded by environments: use shard="runs".')
    if jax.process_count() > 1:
        raise UsageError(f"{maker.name} lives on the host of one process: train it without other JAX processes.")


def _folded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one environment from one of S runs of E environments, `[S, E, ...]`, however it is vmapped."""

    @custom_vmap
    def of_runs(*arguments: Any) -> Any:
        return function(*arguments)

    @of_runs.def_vmap
    def _(size: int, batched: Any, *arguments: Any) -> Any:
        whole = _batched(size, batched, arguments)
        results = of_runs(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), whole))
        return _all_batched(jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results))

    def over(outer: Callable[..., Any]) -> Callable[..., Any]:
        @custom_vmap
        def inner(*arguments: Any) -> Any:
            results = outer(*jax.tree.map(lambda x: x[None], arguments))
            return jax.tree.map(lambda x: x[0], results)

        @inner.def_vmap
        def _(size: int, batched: Any, *arguments: Any) -> Any:
            return _all_batched(outer(*_batched(size, batched, arguments)))

        return inner

    return over(over(of_runs))


def _batched(size: int, batched: Any, arguments: Any) -> Any:
    def spread(is_batched: bool, x: jax.Array) -> jax.Array:
        return x if is_batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))

    return jax.tree.map(spread, tuple(batched), arguments)


def _all_batched(results: Any) -> tuple[Any, Any]:
    return results, jax.tree.map(lambda _: True, results)


@functools.cache
def _calls(maker: Maker, space: Space) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`seed -> (number, obs)` and `((number, steps, seed), action) -> (number, steps, restarted, Stepped)`."""
    leaves = leaves_of(space)

    def shapes(batch: tuple[int, ...], *dtypes: Any) -> tuple[Any, ...]:
        return tuple(jax.ShapeDtypeStruct(batch, dtype) for dtype in dtypes)

    def observations(batch: tuple[int, ...]) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*batch, *leaf.shape), leaf.dtype), leaves)

    def reset(seed: jax.Array) -> Any:
        expected = (*shapes(seed.shape, np.int32), observations(seed.shape))
        return io_callback(Bound(POOLS.reset, (maker, space)), expected, seed)

    def step(handle: Any, action: jax.Array) -> Any:
        batch = handle[0].shape
        reward, terminated, truncated = shapes(batch, np.float32, bool, bool)
        stepped = Stepped(observations(batch), reward, terminated, truncated, observations(batch))
        expected = (*shapes(batch, np.int32, np.int32, bool), stepped)
        return io_callback(Bound(POOLS.step, (maker, space)), expected, handle, action)

    return _folded(reset), _folded(step)


@_folded
def _release(number: jax.Array, result: jax.Array) -> jax.Array:
    return io_callback(POOLS.close, jax.ShapeDtypeStruct(result.shape, result.dtype), number, result)
