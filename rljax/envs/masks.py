"""Action masks: what a learner sees of an environment whose `legal_actions` are declared."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.backend import random_bits
from rljax.envs.base import Bound, Env, TimeStep
from rljax.envs.spaces import Discrete, MultiDiscrete, Space, discrete


class Masked(NamedTuple):
    """An observation and which actions are legal: what policies are given if an environment has `legal_actions`.

    A state without a legal action counts as one in which all are.
    """

    observation: Any
    legal: jax.Array  # [..., A] bool; the parts of a MultiDiscrete one after the other


def masked(env: Env) -> Env:
    """The environment as the engine runs it: with `Masked` observations if it has `legal_actions`, else unchanged."""
    if env.legal_actions is None:
        return env
    legal = Bound(_legal, (env.action_space, env.legal_actions))
    reset, step = Bound(_reset, (env.reset, legal)), Bound(_step, (env.step, legal))
    return env.replace(reset=reset, step=step, legal_actions=None)


def _reset(reset: Callable, legal: Callable, key: jax.Array, params: Any) -> tuple[Masked, Any]:
    obs, state = reset(key, params)
    return Masked(obs, legal(state)), state


def _step(
    step: Callable, legal: Callable, key: jax.Array, state: Any, action: Any, params: Any
) -> tuple[TimeStep, Any]:
    result, state = step(key, state, action, params)
    mask = legal(state)
    return result._replace(obs=Masked(result.obs, mask), next_obs=Masked(result.next_obs, mask)), state


def _legal(space: Space, legal_actions: Callable, state: Any) -> jax.Array:
    """The mask `[A]` of a state, all true in every part without a legal action."""
    parts = legal_actions(state) if isinstance(space, MultiDiscrete) else (legal_actions(state),)
    return complete(space, jnp.concatenate([jnp.asarray(part, bool) for part in parts]))


def complete(space: Space, legal: jax.Array) -> jax.Array:
    """Masks `[..., A]` in which a part without a legal action is all true."""
    parts = space.split(legal) if isinstance(space, MultiDiscrete) else [legal]
    return jnp.concatenate([part | ~jnp.any(part, axis=-1, keepdims=True) for part in parts], axis=-1)


def is_legal(space: Space, legal: Any, action: jax.Array) -> jax.Array:
    """True `[]` if the result of `legal_actions` allows an action."""
    if isinstance(space, MultiDiscrete):
        return jnp.all(jnp.stack([part[action[i]] for i, part in enumerate(legal)]))
    return jnp.asarray(legal)[discrete(space).index(action)]


def random_legal(bits: jax.Array, legal: jax.Array) -> jax.Array:
    """A uniform position `[...]` int32 among the true entries of masks `[..., A]`, from random bits `[...]`."""
    number = random_bits.integers(bits, legal.sum(axis=-1, dtype=jnp.int32))
    up_to = jnp.cumsum(legal, axis=-1, dtype=jnp.int32)
    return jnp.argmax(up_to > number[..., None], axis=-1).astype(jnp.int32)


def random_legal_action(space: Space, bits: jax.Array, legal: jax.Array) -> jax.Array:
    """Uniform legal actions, counted from 0, from random bits `[...]`, or `[..., D]` for a `MultiDiscrete`."""
    if not isinstance(space, MultiDiscrete):
        return random_legal(bits, legal)
    parts = [random_legal(bits[..., i], part) for i, part in enumerate(space.split(legal))]
    return jnp.stack(parts, axis=-1)


def random_action(space: Any, key: jax.Array, obs: Any) -> jax.Array:
    """A uniform action at one observation, among the legal ones if it is `Masked`."""
    if not isinstance(obs, Masked):
        return space.sample(key)
    index = random_legal_action(space, jax.random.bits(key, space.shape, jnp.uint32), obs.legal)
    return space.from_index(index) if isinstance(space, Discrete) else index


def plain(obs: Any) -> Any:
    """The environment's observation, of a `Masked` one or itself."""
    return obs.observation if isinstance(obs, Masked) else obs


def map_plain(function: Callable[[Any], Any], obs: Any) -> Any:
    """Apply a function to the environment's observation in a `Masked` one, or to the observation itself."""
    return obs._replace(observation=function(obs.observation)) if isinstance(obs, Masked) else function(obs)


def where_legal(values: jax.Array, obs: Any) -> jax.Array:
    """Values or logits `[..., A]`, -inf for actions that are illegal at an observation `[..., *shape]`."""
    return jnp.where(obs.legal, values, -jnp.inf) if isinstance(obs, Masked) else values
