"""The loops, each once: reset, rollout, minibatches, gradient step, train, evaluate.

Shapes: T is time, N environments in parallel, so a rollout's arrays are `[T, N, ...]`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rljax.backend import random_bits, sharding
from rljax.errors import UsageError
from rljax.types import Init, Metrics, Update


def steps_per_update(config: Any) -> int:
    """Environment steps of one update: N environments, T steps each."""
    return config.num_envs * config.num_steps


def num_updates(config: Any) -> int:
    """Updates of a whole run of rollouts: as many as fit into `total_steps`."""
    return config.total_steps // steps_per_update(config)


def schedule_updates(config: Any) -> int:
    """Updates over which schedules move: those of `schedule_steps`, so that a longer run need not change them."""
    return max((config.schedule_steps or config.total_steps) // steps_per_update(config), 1)


def progress(config: Any, step: jax.typing.ArrayLike) -> jax.Array:
    """The part of the schedules that is over after `step` updates, `[]` in [0, 1]."""
    return jnp.minimum(step / config.schedule_updates, 1.0)


def learning_rate(config: Any, step: jax.typing.ArrayLike) -> Any:
    """The optimiser's step size after `step` updates: falling to zero where the config anneals it."""
    return config.learning_rate * (1.0 - progress(config, step) if config.anneal_learning_rate else 1.0)


def check_counts(total_steps: int, steps_per_update: int, num_minibatches: int = 1, prefill_steps: int = 0) -> None:
    """Refuse, when a config is made, what would give no update or a ragged minibatch."""
    if total_steps >= 2**31:
        raise UsageError(f"total_steps={total_steps} cannot be counted in 32 bits: choose less than 2**31.")
    if prefill_steps and total_steps < prefill_steps + steps_per_update:
        raise UsageError(
            f"total_steps={total_steps} is less than the prefill and one update, {prefill_steps} and "
            f"{steps_per_update} environment steps: raise it, or lower prefill_steps."
        )
    if total_steps < steps_per_update:
        raise UsageError(
            f"total_steps={total_steps} is less than one update of {steps_per_update} environment steps: "
            "raise it, or lower num_envs or num_steps."
        )
    if steps_per_update % num_minibatches:
        raise UsageError(
            f"A batch of {steps_per_update} environment steps does not divide into {num_minibatches} minibatches: "
            "change num_envs, num_steps or num_minibatches."
        )


def minibatches(key: jax.Array, batch_size: int, num_minibatches: int, num_epochs: int) -> jax.Array:
    """Indices `[num_epochs * num_minibatches, batch_size // num_minibatches]`: each epoch visits every sample once."""
    keys = jax.random.split(key, num_epochs)
    order = jax.vmap(lambda key: random_bits.permutation(key, batch_size))(keys)
    return sharding.shard_batch(order.reshape(num_epochs * num_minibatches, batch_size // num_minibatches), axis=1)


def gradient_step(
    loss: Callable[..., tuple[jax.Array, Any]],
    params: Any,
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState,
    *arguments: Any,
) -> tuple[Any, optax.OptState, Any, jax.Array]:
    """One step of `optimizer` down `loss(params, *arguments) -> (scalar, auxiliary)`.

    Returns:
        the new parameters and optimiser state, the loss's auxiliary result, and the gradient's global norm `[]`
        before any clipping.
    """
    gradient, auxiliary = jax.grad(loss, has_aux=True)(params, *arguments)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, auxiliary, optax.tree.norm(gradient)


def training_keys(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three keys of a run: for `init`, for the updates (each folds its number in), for evaluations in between."""
    key_init, key_updates, key_evaluation = jax.random.split(key, 3)
    return key_init, key_updates, key_evaluation


def train(init: Init, update: Update, key: jax.Array, config: Any) -> tuple[Any, Metrics]:
    """A whole run: `init` once, then `update` as often as `config.num_updates` says.

    Args:
        init: `(key, config) -> state`.
        update: `(key, state, config) -> (state, metrics)`.
        key: the run's only source of randomness.
        config: has a static `num_updates`.

    Returns:
        the final state, and the metrics of every update, each `[num_updates, ...]`.
    """
    key_init, key_updates, _ = training_keys(key)
    state = init(key_init, config)
    return advance(update, key_updates, state, config, 0, config.num_updates, config.num_updates)


def advance(
    update: Update,
    key_updates: jax.Array,
    state: Any,
    config: Any,
    first: jax.typing.ArrayLike,
    count: jax.typing.ArrayLike,
    capacity: int,
) -> tuple[Any, Metrics]:
    """Updates `first .. first + count - 1` of a run. `train` is one call of it; a driver makes many.

    An update's key depends on its number alone, so that runs cut anywhere give the same bits. `count` may be traced:
    one compiled program then serves chunks of any length up to `capacity`.

    Returns:
        the state, and the metrics `[capacity, ...]` of which the first `count` are filled.
    """
    update = jax.jit(update, inline=True)  # traced once for its shapes and for the loop
    _, shapes = jax.eval_shape(update, key_updates, state, config)
    empty = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def body(i: jax.Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        state, history = carry
        state, metrics = update(jax.random.fold_in(key_updates, first + i), state, config)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), history, metrics)

    return jax.lax.fori_loop(0, count, body, (state, empty))
