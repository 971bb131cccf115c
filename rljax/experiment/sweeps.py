"""Sweeps: the values of fields that an experiment tries, and which configs share one compiled program."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import schedules
from rljax.config import kinds, kinds_at, value_at, with_values
from rljax.envs.base import check_param
from rljax.errors import UsageError, is_finite, scalar, shown

MOST_CONFIGURATIONS = 100_000  # each takes a millisecond to prepare


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A field's distribution, drawn from once per sample."""

    draw: Callable[[np.random.Generator], Any]


def uniform(low: float, high: float) -> Sampler:
    """Uniform in [low, high); rounded if the field is an integer."""
    _check_range("uniform", low, high)
    return Sampler(lambda rng: float(rng.uniform(low, high)))


def log_uniform(low: float, high: float) -> Sampler:
    """Log-uniform in [low, high): every factor of ten is equally likely."""
    _check_range("log_uniform", low, high)
    if low <= 0:
        raise UsageError(f"log_uniform needs positive bounds, got {shown(low)}.")
    return Sampler(lambda rng: float(math.exp(rng.uniform(math.log(low), math.log(high)))))


def choice(options: Iterable[Any]) -> Sampler:
    """One of a list, each equally likely."""
    options = _listed("choice", options)
    return Sampler(lambda rng: options[rng.integers(len(options))])


def _check_range(name: str, low: Any, high: Any) -> None:
    for bound in map(scalar, (low, high)):
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not is_finite(bound):
            raise UsageError(f"{name} needs two finite numbers, got {shown(bound)}.")
    if not low < high:
        raise UsageError(f"{name} needs low < high, got {shown(low)} and {shown(high)}.")


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, set | frozenset):
        raise UsageError(f"{name} needs a list of values, since a set has no order, got {shown(values)}.")
    is_list = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    if isinstance(values, str | bytes | Mapping) or not is_list:
        raise UsageError(f"{name} needs a list of values, got {shown(values)}.")
    if isinstance(values, np.ndarray | jax.Array):
        values = np.asarray(values).tolist() if np.ndim(values) == 1 else list(np.asarray(values))
    values = list(values)
    if not values:
        raise UsageError(f"{name} needs at least one value, and its list is empty.")
    return values


class Point(NamedTuple):
    """One configuration of a sweep."""

    values: dict[str, Any]  # by path, such as "learning_rate" or "env.params.gravity"
    config: Any


class Group(NamedTuple):
    """The configurations that one compiled program trains: they differ only in traced numbers."""

    points: tuple[int, ...]  # their numbers in the sweep, P of them
    config: Any  # leaves that differ are stacked, [P, ...]
    axes: Any  # of the config: 0 if a leaf is stacked, None if all share it


def points(config: Any, sweep: Mapping[str, Any] | None, samples: int | None = None, seed: int = 0) -> list[Point]:
    """The configurations of a sweep: every combination of its lists, each with every draw of its samplers.

    Args:
        config: for the fields that are not swept.
        sweep: paths to lists of values, or to a `Sampler`. A path names nested fields, such as "env.params.gravity".
        samples: number of draws of the samplers; only with samplers.
        seed: of the draws.

    Raises:
        UsageError: a path does not exist, a list is empty, or a field cannot have a value.
    """
    if sweep is None:
        if samples is not None:
            raise UsageError("samples is for a sweep with rljax.uniform, log_uniform or choice: pass a sweep as well.")
        return [Point({}, config)]
    if not isinstance(sweep, Mapping) or not sweep:
        raise UsageError(f"sweep must be a dict from fields to lists of values, got {shown(sweep)}.")
    is_integer = {path: _is_integer(value_at(config, path), kinds_at(config, path)) for path in sweep}
    grid = {k: _listed(f"sweep of {k}", v) for k, v in sweep.items() if not isinstance(v, Sampler)}
    samplers, samples = {k: v for k, v in sweep.items() if isinstance(v, Sampler)}, scalar(samples)
    if samplers and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise UsageError(
            f"Values of {', '.join(samplers)} are drawn at random: pass samples=16 (--samples 16), "
            f"got {shown(samples)}."
        )
    if not samplers and samples is not None:
        raise UsageError("samples is for rljax.uniform, log_uniform and choice, and the sweep has only lists.")
    count = math.prod(map(len, grid.values())) * (samples or 1)
    if count > MOST_CONFIGURATIONS:
        raise UsageError(
            f"The sweep has {count:,} configurations, more than {MOST_CONFIGURATIONS:,}: give fewer values."
        )
    rng = np.random.default_rng(seed)
    draws = [{path: sampler.draw(rng) for path, sampler in samplers.items()} for _ in range(samples or 1)]
    made = []
    for combination in itertools.product(*grid.values()):
        for draw in draws:
            drawn = {k: round(v) if is_integer[k] and isinstance(v, float) else v for k, v in draw.items()}
            given = {**dict(zip(grid, combination, strict=True)), **drawn}
            made.append(point(config, {path: given[path] for path in sweep}))
    return made


def point(config: Any, given: Mapping[str, Any]) -> Point:
    """One configuration, from values at paths, each converted to its field's type."""
    values = {
        path: _fitting(path, value_at(config, path), kinds_at(config, path), value) for path, value in given.items()
    }
    return Point(values, with_values(config, values))


def groups(points: list[Point]) -> list[Group]:
    """Group the configurations that share a compiled program: those of the same structure, whatever their numbers."""
    alike: dict[Any, list[int]] = {}
    for i, point in enumerate(points):
        leaves, structure = jax.tree.flatten(point.config)
        alike.setdefault((structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)), []).append(i)
    return [_group(members, [points[i].config for i in members]) for members in alike.values()]


def _group(members: list[int], configs: list[Any]) -> Group:
    structure = jax.tree.structure(configs[0])
    leaves, axes = [], []
    for values in zip(*map(jax.tree.leaves, configs), strict=True):
        differ = any(not np.array_equal(values[0], value, equal_nan=True) for value in values[1:])
        leaves.append(np.stack([np.asarray(x, jnp.result_type(x)) for x in values]) if differ else values[0])
        axes.append(0 if differ else None)
    return Group(tuple(members), jax.tree.unflatten(structure, leaves), jax.tree.unflatten(structure, axes))


def _is_integer(current: Any, annotated: set[str]) -> bool:
    """True if a field holds integers; one annotated as a float does not, even if it is 1 now."""
    return isinstance(current, int | np.integer) and not isinstance(current, bool) and "float" not in annotated


def _fitting(path: str, current: Any, annotated: set[str], value: Any) -> Any:
    """The value converted to the field's type; a `UsageError` if it is of another kind."""

    def refuse(wanted: str) -> UsageError:
        return UsageError(f"The sweep of {path} needs {wanted}, got {shown(value)}.")

    if isinstance(value, np.generic):
        value = value.item()
    if "Schedule" in annotated:
        value = schedules.of(path, value)
        if isinstance(value, schedules.Schedule):
            return value
        current = 0.0 if isinstance(current, schedules.Schedule) else current
    if current is None or value is None:  # an optional field: the config itself checks what it becomes
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if is_number and "float" in annotated else value
    if isinstance(current, bool):
        if not isinstance(value, bool):
            raise refuse("True or False")
    elif isinstance(current, int | float | np.generic):
        if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
            raise refuse("finite numbers")
        if path.startswith("env.params."):
            check_param(path, current, value)
        if _is_integer(current, annotated):
            if value != int(value):
                raise refuse("integers")
            return int(value)
        return float(value)
    elif isinstance(current, str):
        if not isinstance(value, str):
            raise refuse("strings")
    elif isinstance(current, tuple) and not hasattr(current, "_fields"):
        if not isinstance(value, tuple | list):
            raise refuse("tuples, such as (64, 64) or (64,)")
        return tuple(value)
    elif isinstance(current, np.ndarray | jax.Array):
        try:
            array = np.asarray(value, current.dtype)
        except (TypeError, ValueError):
            raise refuse("arrays") from None
        if array.shape != current.shape:
            raise refuse(f"arrays of shape {current.shape}")
        return array
    return value


def check_one_run(config: Any) -> None:
    """Refuse numbers that are stacked for a `vmap`, in the config of one run."""
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        is_number = kinds(field) <= {"int", "float", "Schedule", "None"}
        leaves = jax.tree.leaves(getattr(config, field.name)) if is_number else []
        for shape in filter(None, map(np.shape, leaves)):
            raise UsageError(
                f"{field.name} must be one number, got an array of shape {shape}: "
                f'try several with sweep={{"{field.name}": [...]}}.'
            )
