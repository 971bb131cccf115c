"""The training loop and the parts that algorithms share: current values of schedules, minibatches, gradient steps.

Shapes: T is time and N the number of parallel environments, so a rollout's arrays are `[T, N, ...]`.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rljax import optimizers, running_statistics, schedules
from rljax.backend import random_bits, sharding
from rljax.config import kinds, replace_unchecked
from rljax.errors import UsageError, require_key
from rljax.types import Init, Metrics, Scalar, Update

_FINITE = {"loss", "losses", "gradient", "grad", "norm", "error", "value", "target"}  # words in the names of metrics


def steps_per_update(config: Any) -> int:
    """Environment steps per update: T steps of each of N environments."""
    return config.num_envs * config.num_steps


def num_updates(config: Any) -> int:
    """Updates in a whole run: as many as fit into `total_steps`."""
    return config.total_steps // steps_per_update(config)


def schedule_updates(config: Any) -> int:
    """Updates over which schedules run: those in `schedule_steps`, so that a longer run can keep its schedules."""
    return max((config.schedule_steps or config.total_steps) // steps_per_update(config), 1)


def progress(config: Any, step: jax.typing.ArrayLike) -> jax.Array:
    """Fraction of the schedules completed after `step` updates, `[]` in [0, 1]."""
    return jnp.minimum(jnp.asarray(step, jnp.float32) / float(config.schedule_updates), 1.0)


def scheduled[C](config: C, step: Scalar = 0, episodes: Scalar = 0) -> tuple[C, Metrics]:
    """The current values of the fields that can be scheduled, after `step` updates and `episodes` ended episodes.

    Returns:
        the config with these numbers instead of schedules, except schedules by visits; and the numbers by field, which
        are metrics.
    """
    done = progress(config, step)
    current = {
        field.name: schedules.value(getattr(config, field.name), done, episodes)
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
        if "Schedule" in kinds(field) and getattr(getattr(config, field.name), "kind", None) != "visits"
    }
    return replace_unchecked(config, **current), current


def current[C](state: Any, config: C) -> C:
    """The config with the values that scheduled fields have in the next update of a state."""
    return scheduled(config, state.step, state.collector.episodes)[0]


def check_counts(
    total_steps: int, steps_per_update: int, num_minibatches: int = 1, num_epochs: int = 1, prefill_steps: int = 0
) -> None:
    """Raise a `UsageError` unless the run has at least one update and minibatches of equal size."""
    if total_steps >= 2**31:
        raise UsageError(f"total_steps={total_steps} cannot be counted in 32 bits: use less than 2**31.")
    if prefill_steps and total_steps < prefill_steps + steps_per_update:
        raise UsageError(
            f"total_steps={total_steps} is less than the prefill and one update, {prefill_steps} and "
            f"{steps_per_update} environment steps: raise it or lower prefill_steps."
        )
    if total_steps < steps_per_update:
        raise UsageError(
            f"total_steps={total_steps} is less than one update of {steps_per_update} environment steps: "
            "raise it or lower num_envs or num_steps."
        )
    if steps_per_update % num_minibatches:
        raise UsageError(
            f"A batch of {steps_per_update} environment steps does not divide into {num_minibatches} minibatches: "
            "change num_envs, num_steps or num_minibatches."
        )
    if num_epochs * steps_per_update >= 2**31:
        raise UsageError(
            f"{num_epochs} epochs over {steps_per_update} environment steps cannot be counted in 32 bits: "
            "lower num_epochs."
        )


def minibatches(key: jax.Array, batch_size: int, num_minibatches: int, num_epochs: int) -> jax.Array:
    """Shuffle sample indices into `[num_epochs * num_minibatches, batch_size // num_minibatches]`.

    Each epoch visits every sample once.
    """
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
    """Take one step of `optimizer` down `loss(params, *arguments) -> (scalar, auxiliary)`.

    Returns:
        the new parameters and optimiser state, the loss's auxiliary output, and the gradient's global norm `[]`
        before clipping.
    """
    gradient, auxiliary = jax.grad(loss, has_aux=True)(params, *arguments)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, auxiliary, optimizers.global_norm(gradient)


def over_steps(metrics: Metrics) -> Metrics:
    """Metrics of an update `[]` from those of its gradient steps `[G]`: their means, or the extreme of an extreme."""
    extremes = {"min": jnp.min, "max": jnp.max}
    return {name: extremes.get(name.rpartition("_")[2], jnp.mean)(rows) for name, rows in metrics.items()}


def training_keys(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Split a run's key into three: for `init`, for updates (each folds in its number), and for evaluations."""
    key_init, key_updates, key_evaluation = jax.random.split(key, 3)
    return key_init, key_updates, key_evaluation


def train(init: Init, update: Update, key: jax.Array, config: Any) -> tuple[Any, Metrics]:
    """Call `init` once, then `update` `config.num_updates` times.

    Args:
        init: `(key, config) -> state`.
        update: `(key, state, config) -> (state, metrics)`.
        key: the only source of randomness in the run.
        config: any config with a static `num_updates`.

    Returns:
        the final state, and the metrics of every update, each `[num_updates, ...]`.

    Raises:
        UsageError: `key` is not one key.
    """
    require_key(key)
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
    """Run updates `first .. first + count - 1`. `train` makes one call; a host loop makes many.

    An update's key depends only on its number, so runs cut anywhere give the same bits. `count` may be traced:
    one compiled program then serves chunks of any length up to `capacity`.

    Returns:
        the state, and metrics `[capacity, ...]` with the first `count` rows filled.
    """
    update = jax.jit(update, inline=True)  # eval_shape and the loop share one trace
    _, shapes = jax.eval_shape(update, key_updates, state, config)
    empty = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def body(i: jax.Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        state, history = carry
        state, metrics = update(jax.random.fold_in(key_updates, first + i), state, config)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), history, metrics)

    return jax.lax.fori_loop(0, count, body, (state, empty))


def stacked_axes(algorithm: Any, keys: jax.Array, config: Any, config_axes: Any, mesh: Mesh | None = None) -> Any:
    """The axes of a batch's state for `jax.vmap`: 0 for leaves that differ between runs, None for the others.

    Counters do not differ. They stay unbatched between calls, as they do inside one `vmap` of a whole run, so that a
    branch on a counter stays a branch and both give the same bits.

    With the mesh on which the batch is trained, the traces made here are reused by its programs.
    """
    batched: Any = None
    state: Any = None

    @jax.custom_batching.custom_vmap
    def record_axes(state: Any) -> Any:
        return state

    @record_axes.def_vmap
    def _(_: int, in_batched: list[Any], state: Any) -> tuple[Any, Any]:
        nonlocal batched
        (batched,) = in_batched
        return state, batched

    def one_update(key: jax.Array, config: Any) -> None:
        nonlocal state
        key_init, key_updates, _ = training_keys(key)
        state = jax.jit(algorithm.init, inline=True)(key_init, config)
        state = record_axes(advance(algorithm.update, key_updates, state, config, 0, 1, 1)[0])

    in_axes = (0, config_axes)
    if mesh is None:
        mapped = jax.vmap(one_update, in_axes)
    else:
        mapped = sharding.sharded(
            one_update, mesh, in_axes, 0, tuple(sharding.over_runs(mesh, axes) for axes in in_axes), P()
        )
    jax.eval_shape(mapped, keys, config)
    if batched is None:  # the rule is not called if nothing depends on the key
        return jax.tree.map(lambda _: None, state)
    return jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)


def finite(state: Any) -> jax.Array:
    """True `[]` unless the run has diverged.

    It has if `params` are not finite, if a state without `params` has a NaN, or if running statistics have one.
    """
    params = getattr(state, "params", None)
    if params is None:
        return _all(lambda x: ~jnp.isnan(x), state)
    parts = jax.tree.leaves(state, is_leaf=running_statistics.is_moments)
    moments = list(filter(running_statistics.is_moments, parts))
    return _all(jnp.isfinite, params) & _all(lambda x: ~jnp.isnan(x), moments)


def finite_metrics(metrics: Any) -> jax.Array:
    """True `[]` if every metric that must be finite is: losses, gradients and their norms, errors, values and targets.

    These are recognised by a word of the name: loss, gradient, grad, norm, error, value or target, as in `critic_loss`
    or `td_error`. All other metrics may be NaN, and so may those of episodes, such as `episode_return`, in an update
    in which no episode ended.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(metrics)
    words = [set(re.findall("[a-z]+", jax.tree_util.keystr(path).lower())) for path, _ in leaves]
    named = zip(leaves, words, strict=True)
    return _all(jnp.isfinite, [x for (_, x), found in named if found & _FINITE and "episode" not in found])


def _all(is_valid: Callable[[jax.Array], jax.Array], tree: Any) -> jax.Array:
    """True `[]` if all floats of a tree are valid."""
    leaves = [jnp.all(is_valid(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array(leaves)) if leaves else jnp.bool_(True)
