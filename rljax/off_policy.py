"""Shared by algorithms with a replay buffer: step counts, the prefill, sampling and gradient steps.

`config` is the algorithm's, with `total_steps`, `num_envs`, `num_steps`, `gradient_steps`, `batch_size`, `buffer_size`,
`prefill_steps` and `discount`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import core, losses, replay, rollout, value_heads
from rljax.backend import rounding
from rljax.backend.unrolling import unrolled
from rljax.distributions import squashed_head
from rljax.envs import Discrete, Leaf, Masked, MultiDiscrete
from rljax.envs.masks import random_legal_action
from rljax.errors import UsageError
from rljax.types import Metrics, Scalar


def prefill_rows(config: Any) -> int:
    """Steps per environment before the first update."""
    return max(config.prefill_steps // config.num_envs, 1)


def num_updates(config: Any) -> int:
    """Updates in a whole run: as many as fit into `total_steps` after the prefill."""
    return _updates(config, config.total_steps)


def schedule_updates(config: Any) -> int:
    """Updates over which schedules run: as many as fit into `schedule_steps` after the prefill."""
    return max(_updates(config, config.schedule_steps or config.total_steps), 1)


def _updates(config: Any, total_steps: int) -> int:
    return (total_steps - prefill_rows(config) * config.num_envs) // core.steps_per_update(config)


def env_steps(config: Any, updates: jax.Array) -> jax.Array:
    """Environment steps after a number of updates, including the prefill, `[]` int32."""
    return prefill_rows(config) * config.num_envs + updates * core.steps_per_update(config)


def check_counts(config: Any, n_step: int = 1) -> None:
    """Raise a `UsageError` unless the buffer holds every rollout and the run has at least one update."""
    rows, prefill = config.buffer_size // config.num_envs, prefill_rows(config)
    needed = max(config.num_steps, prefill)
    if rows < needed:
        raise UsageError(
            f"buffer_size={config.buffer_size} cannot hold a rollout of {needed} steps of {config.num_envs} "
            "environments: raise it or lower num_steps or prefill_steps."
        )
    if n_step > prefill:
        raise UsageError(
            f"prefill_steps={config.prefill_steps} gives {prefill} steps of each of {config.num_envs} environments, "
            f"less than n_step={n_step}: raise it."
        )
    core.check_counts(config.total_steps, core.steps_per_update(config), prefill_steps=prefill * config.num_envs)
    if num_updates(config) * config.gradient_steps >= 2**31:
        raise UsageError(
            f"{num_updates(config)} updates of gradient_steps={config.gradient_steps} cannot be counted in 32 bits: "
            "lower total_steps or gradient_steps."
        )


def prefill(
    key: jax.Array,
    collector: rollout.Collector,
    config: Any,
    n_step: int = 1,
    prioritized: bool = False,
    successor_slots: int | None = None,
) -> tuple[rollout.Collector, replay.Replay]:
    """Fill a new replay buffer with `prefill_steps` of uniform actions; box actions are stored as `[D]` in [-1, 1]."""
    key_action, key_rollout = jax.random.split(key)
    space, shape = config.env.action_space, (prefill_rows(config), config.num_envs)
    actions = uniform_actions(key_action, space, shape)
    if config.env.legal_actions is not None:
        actions = jax.random.bits(key_action, actions.shape, jnp.uint32)
    to_action = squashed_head(space).to_action

    def policy(action: jax.Array, obs: Any) -> tuple[jax.Array, jax.Array]:
        if isinstance(obs, Masked):
            action = random_legal_action(space, action, obs.legal)
        return to_action(action), action

    collector, steps, _ = rollout.rollout(key_rollout, policy, actions, collector, config.env, shape[0], raw=True)
    obs, action = jax.tree.map(lambda x: x[0], (collector.obs, steps.action[0]))
    buffer = replay.init(
        obs, action, config.num_envs, config.buffer_size, prioritized, successor_slots, config.env.num_frames
    )
    return collector, replay.add(buffer, steps, n_step, config.env.num_frames)


def uniform_actions(key: jax.Array, space: Leaf, shape: tuple[int, ...]) -> jax.Array:
    """Uniform actions: discrete ones `[*shape]` or `[*shape, D]` int32 from 0, of a box `[*shape, D]` in [-1, 1].

    All integers of a box are equally likely.
    """
    if isinstance(space, Discrete):
        return jax.random.randint(key, shape, 0, space.n, jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jax.random.randint(key, (*shape, *space.shape), 0, np.array(space.nvec), jnp.int32)
    unit = jax.random.uniform(key, (*shape, math.prod(space.shape)), jnp.float32, -1.0, 1.0)
    if not space.is_integral:
        return unit
    # Actions are rounded, so that either end has half an interval in [-1, 1]: the other half lies beyond.
    radius = np.maximum((space.high - space.low).reshape(-1) / 2.0, 0.5)
    return jnp.clip(unit * (1.0 + 0.5 / radius), -1.0, 1.0)


def sample(
    bits: jax.Array,
    buffer: replay.Replay,
    collector: rollout.Collector,
    config: Any,
    n_step: int = 1,
    importance_exponent: Scalar = 0.0,
) -> replay.Sample:
    """Sample a batch from the replay buffer, normalised with the current statistics."""
    batch = replay.sample(
        bits, buffer, config.discount, n_step, importance_exponent,
        lambda reward: rollout.scale(collector, config.env, reward), config.env.num_frames,
    )  # fmt: skip
    return batch._replace(
        obs=rollout.observe(collector, config.env, batch.obs),
        next_obs=rollout.observe(collector, config.env, batch.next_obs),
    )


def critic_loss(values: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, Metrics]:
    r"""Weighted mean of $\sum_i \frac{1}{2} (Q_i - y)^2$ over values `[B, C]` and targets `[B]`, and metrics."""
    targets = jnp.broadcast_to(targets[:, None], values.shape)
    total = jnp.mean(weights * losses.squared(values, targets).sum(axis=-1))
    error = jnp.abs(values - targets).mean()
    return total, {"critic_loss": total, "td_error": error, **value_heads.value_metrics(values)}


def gradient_steps(
    key: jax.Array,
    learn: Callable[[Any, Any], tuple[Any, Metrics]],
    start: Any,
    noise: Any,
    updates: jax.Array,
    config: Any,
) -> tuple[Any, Metrics]:
    """Call `learn(carry, (bits, noise, number)) -> (carry, metrics)` `config.gradient_steps` times.

    All randomness is drawn before the loop: `bits` `[B]`, with which `sample` draws a batch, and the algorithm's
    `noise` `[gradient_steps, ...]`, one slice per step. `number` counts the gradient steps of the whole run from 1,
    given `updates` completed updates; it is not batched under `vmap`, so a branch on it stays a branch. Each metric is
    returned as `[gradient_steps]`.
    """
    bits = jax.random.bits(key, (config.gradient_steps, config.batch_size), jnp.uint32)
    numbers = updates * config.gradient_steps + 1 + jnp.arange(config.gradient_steps, dtype=jnp.int32)
    # Each iteration copies the carry, parameters included; unrolling by 2 saves every other copy.
    return jax.lax.scan(learn, start, (bits, rounding.narrow(noise), numbers), unroll=unrolled(2))
