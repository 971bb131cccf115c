"""Uniformly random actions as an algorithm: the cost of stepping environments through `rljax.run`, without learning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import core, rollout
from rljax.config import config, static, traced
from rljax.envs import Discrete
from rljax.types import Metrics, Policy

_WIDEST = 1e3  # range of an action without bounds


@config
class Config:
    env: rljax.Env = traced()
    """Environment to step."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run."""
    num_envs: int = static(default=4, minimum=1)
    """Parallel environments (N)."""
    num_steps: int = static(default=128, minimum=1)
    """Steps of each environment per update (T)."""

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.num_envs * self.num_steps)

    num_updates = property(core.num_updates)


class State(NamedTuple):
    collector: rollout.Collector
    step: jax.Array  # [] int32, updates done


def init(key: jax.Array, config: Config) -> State:
    """Reset the environments."""
    return State(rollout.reset(key, config.env, config.num_envs), jnp.int32(0))


def _uniform(key: jax.Array, space: Any, shape: tuple[int, ...]) -> jax.Array:
    if isinstance(space, Discrete):
        return jax.random.randint(key, shape, 0, space.n)
    low, high = np.clip(space.low, -_WIDEST, _WIDEST), np.clip(space.high, -_WIDEST, _WIDEST)
    return jax.random.uniform(key, (*shape, *space.shape), minval=low, maxval=high)


def act(state: State, config: Config) -> Policy:
    """Return a policy of uniform actions for any observation."""
    return lambda key, obs: _uniform(key, config.env.action_space, obs.shape[:1])


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """Take T random steps in N environments."""
    key_noise, key_rollout = jax.random.split(key)
    noise = _uniform(key_noise, config.env.action_space, (config.num_steps, config.num_envs))

    def policy(action: jax.Array, obs: jax.Array) -> tuple[jax.Array, tuple[()]]:
        return action, ()

    collector, _, episodes = rollout.rollout(key_rollout, policy, noise, state.collector, config.env, config.num_steps)
    step = state.step + 1
    return State(collector, step), {"env_steps": step * core.steps_per_update(config), **episodes}
