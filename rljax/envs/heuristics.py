"""Policies without learning, to compare learners with: uniformly random actions, and rules for the classic tasks.

Each rule is a function from observations `[N, ...]` to actions `[N, ...]`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax.envs.base import Env
from rljax.envs.masks import random_action
from rljax.errors import UsageError
from rljax.types import Policy


def random(env: Env) -> Policy:
    """The policy of uniformly random actions, among the legal ones."""

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        keys = jax.random.split(key, len(jax.tree.leaves(obs)[0]))
        return jax.vmap(lambda key, obs: random_action(env.action_space, key, obs))(keys, obs)

    return policy


def heuristic(env: Env) -> Policy:
    """The rule for an environment, by its id.

    Raises:
        UsageError: there is none, or a wrapper changes what is observed.
    """
    if env.name not in RULES or env.wrappers:
        raise UsageError(f"There is no heuristic for {env.label}, only for {', '.join(RULES)} without wrappers.")
    rule = RULES[env.name]
    return lambda key, obs: rule(obs)


def push_along(obs: jax.Array) -> jax.Array:
    """MountainCar: push to where the car already moves, which adds energy at every step."""
    return jnp.where(obs[..., 1] < 0, 0, 2)


def force_along(obs: jax.Array) -> jax.Array:
    """The continuous MountainCar: as `push_along`, with the whole force."""
    return jnp.where(obs[..., 1:] < 0, -1.0, 1.0)


def push_under(obs: jax.Array) -> jax.Array:
    """CartPole: push to the side to which the pole will lean in a moment, by its angle and how fast that changes."""
    return (obs[..., 2] + 0.25 * obs[..., 3] > 0).astype(jnp.int32)


def swing_up(obs: jax.Array) -> jax.Array:
    """Pendulum: pump energy until it is that of an upright rod, then balance it (Astrom and Furuta 2000).

    The energy is relative to the upright rod at rest, for a rod of mass and length 1 under a gravity of 10.
    """
    cos, sin, speed = obs[..., 0], obs[..., 1], obs[..., 2]
    energy = speed**2 / 6 + 5 * (cos - 1)
    pump = jnp.where(speed < 0, -2.0, 2.0) * jnp.where(energy < 0, 1.0, -1.0)
    balance = -(12 * jnp.arctan2(sin, cos) + 3 * speed)
    torque = jnp.where(cos > 0.9, balance, pump)
    return jnp.clip(torque, -2.0, 2.0)[..., None]


def pump(obs: jax.Array) -> jax.Array:
    """Acrobot: push the links the way they already fold, which adds energy, and against the first one's speed."""
    return jnp.where(obs[..., 5] < obs[..., 4], 0, 2)


RULES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "CartPole-v1": push_under,
    "Acrobot-v1": pump,
    "MountainCar-v0": push_along,
    "MountainCarContinuous-v0": force_along,
    "Pendulum-v1": swing_up,
}
