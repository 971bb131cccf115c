r"""Population-based training (Jaderberg et al. 2017) as a pure function, like any training run.

P runs train side by side, each with its own values of some traced fields. After every `interval` updates the worst
runs exploit and explore: each copies the state and the values of one of the best, and every copied value $x$ is
perturbed,

$$ x \leftarrow \mathrm{clip}(x \cdot f, \mathrm{low}, \mathrm{high}), \qquad f \in \{1/c, c\} \text{ at random}. $$

Selection is the paper's truncation selection (its section 4.1.1) by the mean return of the episodes that ended in the
round. A run without a finite score, because no episode ended or because it diverged, ranks last and is never copied. A
run copies only a strictly better one, so nothing is copied while no run has a score.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import core
from rljax.backend import lanes
from rljax.config import value_at, with_values
from rljax.errors import UsageError, number, shown
from rljax.schedules import Schedule
from rljax.types import Metrics


class Outcome(NamedTuple):
    """A population after R rounds of `interval` updates, with its history."""

    states: Any
    """The final states `[P, ...]`; step counters have no axis `P`."""
    values: dict[str, jax.Array]
    """The values `[R + 1, P]` of each field: first those drawn, then those after each round."""
    scores: jax.Array
    """`[R, P]` mean episode returns of each round, NaN where no episode ended."""
    parents: jax.Array
    """`[R, P]` int32, the index of the run whose state and values each run copied after the round; mostly its own."""
    metrics: Metrics
    """Every update's metrics, `[P, R * interval, ...]`."""


def train(
    algorithm: Any,
    key: jax.Array,
    config: Any,
    explore: Mapping[str, tuple[float, float]],
    *,
    population: int = 16,
    interval: int = 10,
    fraction: float = 0.25,
    factor: float = 1.25,
) -> Outcome:
    """Train a population. To `jit` it, close over all arguments except the key and the config's traced fields.

    Args:
        algorithm: a module or namespace with `init` and `update`.
        key: the population's only source of randomness.
        config: shared by all runs; `num_updates` is each run's length.
        explore: from the path of a traced field, such as "learning_rate" or "env.params.gravity", to its bounds
            `(low, high)`. Initial values are drawn log-uniformly if low is above zero, else uniformly.
        population: P.
        interval: updates per round, a divisor of `num_updates`.
        fraction: fraction of the population that copies, and that is copied from.
        factor: $c$ of the module docstring, greater than 1.

    Raises:
        UsageError: an argument is invalid.
    """
    explore, population, interval, fraction, factor = checked(config, explore, population, interval, fraction, factor)
    values, run_keys, key_rounds = begin(key, explore, population)
    program = program_of(algorithm, config, run_keys, values, interval)

    def play_round(carry: tuple[Any, dict[str, jax.Array]], index: jax.Array) -> Any:
        states, values = carry
        states, metrics, scores = program.play(update_keys, states, values, index)
        parents, values = select(key_rounds, index, scores, values, explore, fraction, factor)
        leaves, leaf_axes, structure = lanes.flat(states, program.axes)
        leaves = [x if axis is None else x[parents] for x, axis in zip(leaves, leaf_axes, strict=True)]
        return (jax.tree.unflatten(structure, leaves), values), (values, scores, parents, metrics)

    update_keys, states = program.init(run_keys, values)
    rounds = jnp.arange(config.num_updates // interval)
    (states, _), (perturbed, scores, parents, metrics) = jax.lax.scan(play_round, (states, values), rounds)
    history = {path: jnp.concatenate([values[path][None], perturbed[path]]) for path in values}
    metrics = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(population, -1, *x.shape[3:]), metrics)
    return Outcome(states, history, scores, parents, metrics)


def begin(
    key: jax.Array, explore: Mapping[str, tuple[float, float]], population: int
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """The initial values `[P]`, the runs' keys `[P]`, and the key of the rounds."""
    key_values, key_runs, key_rounds = jax.random.split(key, 3)
    return _draw(key_values, explore, population), jax.random.split(key_runs, population), key_rounds


class Program(NamedTuple):
    """What trains M members of a population side by side."""

    init: Callable[..., Any]
    """`(keys [M], values) -> (keys of their updates, states)`."""
    play: Callable[..., Any]
    """`(keys of their updates, states, values, round) -> (states, metrics [M, interval, ...], scores [M])`."""
    axes: Any
    """Of the states: 0 if a leaf is stacked over members, None if all share it."""


def program_of(
    algorithm: Any, config: Any, run_keys: jax.Array, values: dict[str, jax.Array], interval: int
) -> Program:
    """The program for as many members as there are keys and values."""
    configs = with_values(config, values)
    config_axes = jax.tree.map(lambda stacked, shared: None if stacked is shared else 0, configs, config)
    axes = core.stacked_axes(algorithm, run_keys, configs, config_axes)

    def init_one(key: jax.Array, config: Any) -> tuple[jax.Array, Any]:
        key_init, key_updates, _ = core.training_keys(key)
        return key_updates, algorithm.init(key_init, config)

    def init(run_keys: jax.Array, values: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        return jax.vmap(init_one, (0, config_axes), (0, axes))(run_keys, with_values(config, values))

    def advance(key: jax.Array, state: Any, config: Any, first: jax.Array) -> tuple[Any, Metrics]:
        return core.advance(algorithm.update, key, state, config, first, interval, interval)

    def play(update_keys: jax.Array, states: Any, values: dict[str, jax.Array], index: jax.Array) -> Any:
        advance_all = jax.vmap(advance, (0, axes, config_axes, None), (axes, 0))
        states, metrics = advance_all(update_keys, states, with_values(config, values), index * interval)
        finite = jax.vmap(core.finite, (axes,))(states) & jax.vmap(core.finite_metrics)(metrics)
        return states, metrics, jnp.where(finite, _scores(metrics), jnp.nan)

    return Program(init, play, axes)


def select(
    key_rounds: jax.Array,
    index: jax.Array,
    scores: jax.Array,
    values: dict[str, jax.Array],
    explore: Mapping[str, tuple[float, float]],
    fraction: float,
    factor: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Each run's parent `[P]` after a round, and its values `[P]` for the next one."""
    key_parents, key_values = jax.random.split(jax.random.fold_in(key_rounds, index))
    parents = exploit(key_parents, scores, fraction)
    return parents, perturb(key_values, values, parents, explore, factor)


def exploit(key: jax.Array, scores: jax.Array, fraction: float) -> jax.Array:
    """Each run's parent `[P]`, int32: one of the best runs for each of the worst, the run itself for all others.

    A run whose score `[P]` is not finite ranks last and is never a parent. A run keeps its own state if the parent
    drawn for it is no better.
    """
    population = scores.shape[0]
    count = max(int(population * fraction), 1)
    ranked = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
    order = jnp.argsort(ranked)
    # Without a finite score, 1 only keeps the draw valid: the run that it gives is no better and is not copied.
    num_best = jnp.clip(jnp.isfinite(scores).sum(), 1, count)
    worst, drawn = order[:count], order[population - 1 - jax.random.randint(key, (count,), 0, num_best)]
    parents = jnp.where(ranked[drawn] > ranked[worst], drawn, worst)
    return jnp.arange(population).at[worst].set(parents).astype(jnp.int32)


def perturb(
    key: jax.Array,
    values: dict[str, jax.Array],
    parents: jax.Array,
    bounds: Mapping[str, tuple[float, float]],
    factor: float,
) -> dict[str, jax.Array]:
    """Values `[P]` of each field after a round: a run with another parent gets the parent's, perturbed and clipped."""
    copied = parents != jnp.arange(len(parents))
    perturbed = {}
    for key_field, (path, x) in zip(jax.random.split(key, len(values)), values.items(), strict=True):
        low, high = bounds[path]
        up = jax.random.bernoulli(key_field, 0.5, x.shape)
        perturbed[path] = jnp.where(copied, jnp.clip(x[parents] * jnp.where(up, factor, 1.0 / factor), low, high), x)
    return perturbed


def _draw(key: jax.Array, explore: Mapping[str, tuple[float, float]], population: int) -> dict[str, jax.Array]:
    values = {}
    for key_field, (path, (low, high)) in zip(jax.random.split(key, len(explore)), explore.items(), strict=True):
        logarithmic = low > 0
        ends = np.log([low, high]) if logarithmic else (low, high)
        x = jax.random.uniform(key_field, (population,), minval=ends[0], maxval=ends[1])
        values[path] = jnp.clip(jnp.exp(x) if logarithmic else x, low, high)
    return values


def _scores(metrics: Metrics) -> jax.Array:
    """Mean returns `[P]` of the episodes that ended in a round with metrics `[P, interval]`."""
    returns = metrics["episode_return"]
    episodes = metrics.get("episodes", jnp.ones_like(returns))
    total = jnp.sum(jnp.where(episodes > 0, returns * episodes, 0.0), axis=1)
    return total / episodes.sum(axis=1)  # NaN (0 / 0) if no episode ended


def checked(
    config: Any, explore: Any, population: Any, interval: Any, fraction: Any, factor: Any
) -> tuple[dict[str, tuple[float, float]], int, int, float, float]:
    """The arguments as Python numbers; raise `UsageError` for the first invalid one."""
    if not isinstance(explore, Mapping) or not explore:
        raise UsageError(f"explore must be a dict from fields to (low, high), got {shown(explore)}.")
    bounds = {path: _bounds(config, path, ends) for path, ends in explore.items()}
    population = number("population", population, integer=True, minimum=2)
    updates = config.num_updates
    interval = number("interval", interval, integer=True, minimum=1, maximum=updates)
    if updates % interval:
        small = [n for n in range(1, math.isqrt(updates) + 1) if updates % n == 0]
        divisors = [*small, *(updates // n for n in small)]
        raise UsageError(
            f"interval={interval} does not divide the run's {updates} updates: choose "
            f"{max(n for n in divisors if n < interval)} or {min(n for n in divisors if n > interval)}."
        )
    fraction = number("fraction", fraction)
    if not 0 < fraction <= 0.5:
        raise UsageError(f"fraction must be above 0 and at most 0.5, got {fraction}.")
    factor = number("factor", factor)
    if factor <= 1:
        raise UsageError(f"factor must be above 1, got {factor}.")
    return bounds, population, interval, fraction, factor


def _bounds(config: Any, path: Any, ends: Any) -> tuple[float, float]:
    if not isinstance(path, str):
        raise UsageError(f"explore must be a dict from the names of fields to (low, high), got the key {path!r}.")
    if not isinstance(ends, tuple | list) or len(ends) != 2:
        raise UsageError(f"explore needs (low, high) for {path}, got {shown(ends)}.")
    low, high = (float(number(f"The {end} bound of {path}", x)) for end, x in zip(("low", "high"), ends, strict=True))
    if not low < high:
        raise UsageError(f"explore needs (low, high) for {path}, with low below high, got {shown(ends)}.")
    current = value_at(config, path)
    is_leaf = any(current is leaf for leaf in jax.tree.leaves(config))
    if not is_leaf or not jnp.issubdtype(jnp.result_type(current), jnp.floating):
        hint = f"; explore a number of the schedule, such as {path}.start" if isinstance(current, Schedule) else ""
        raise UsageError(f"{path} cannot be explored: only traced floating-point fields can{hint}.")
    smallest = float(np.finfo(np.float32).tiny)
    for bound in (low, high):
        if bound and abs(bound) < smallest:
            raise UsageError(f"The bounds of {path} must be numbers of 32 bits, got {shown(ends)}.")
        with_values(config, {path: bound})  # raises if the field does not allow this value
    return low, high
