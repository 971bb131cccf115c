"""Sweeps: the values of fields that an experiment tries, and which configs share one compiled program."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
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
class Range:
    """A distribution of numbers between two bounds, of the numbers themselves or of their logarithms."""

    low: float
    high: float
    is_log: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one."""
        if self.is_log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))


@dataclasses.dataclass(frozen=True)
class Choice:
    """A distribution over some values."""

    options: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw one."""
        return self.options[rng.integers(len(self.options))]


Sampler = Range | Choice  # of a field, drawn from once per sample


def uniform(low: float, high: float) -> Range:
    """Uniform in [low, high); rounded if the field is an integer."""
    return Range(*_checked_range("uniform", low, high))


def log_uniform(low: float, high: float) -> Range:
    """Log-uniform in [low, high): every factor of ten is equally likely."""
    low, high = _checked_range("log_uniform", low, high)
    if low <= 0:
        raise UsageError(f"log_uniform needs positive bounds, got {shown(low)}.")
    return Range(low, high, is_log=True)


def choice(options: Iterable[Any]) -> Choice:
    """One of a list, each equally likely."""
    return Choice(tuple(_listed("choice", options)))


def _checked_range(name: str, low: Any, high: Any) -> tuple[float, float]:
    low, high = scalar(low), scalar(high)
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not is_finite(bound):
            raise UsageError(f"{name} needs two finite numbers, got {shown(bound)}.")
    if not low < high:
        raise UsageError(f"{name} needs low < high, got {shown(low)} and {shown(high)}.")
    return low, high


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
    _check_mapping(sweep)
    is_integer = {path: is_integer_at(config, path) for path in sweep}
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


def _check_mapping(sweep: Any) -> None:
    if not isinstance(sweep, Mapping) or not sweep:
        raise UsageError(f"sweep must be a dict from fields to lists of values, got {shown(sweep)}.")


class Space(NamedTuple):
    """What a search chooses from."""

    config: Any  # for the fields that are not searched
    samplers: dict[str, Sampler]  # by path

    @property
    def corners(self) -> list[Point]:
        """Configurations with each field's extreme values, or all of a choice."""
        values = {
            path: [one.low, one.high] if isinstance(one, Range) else list(one.options)
            for path, one in self.samplers.items()
        }
        count = max(map(len, values.values()))
        return [
            point(self.config, {path: rounded(self.config, path, some[i % len(some)]) for path, some in values.items()})
            for i in range(count)
        ]

    def points(self, suggested: list[dict[str, Any]], count: int) -> list[Point]:
        """As many configurations as a search has: those with suggested values, then some without values."""
        known = [point(self.config, values) for values in suggested]
        return known + [Point({}, self.corners[0].config)] * (count - len(known))

    def groups(self, points: list[Point], size: int) -> list[Group]:
        """A group for each `size` configurations, which one compiled program trains whatever their values are."""
        differ = _differ([corner.config for corner in self.corners])
        members = [list(range(i, min(i + size, len(points)))) for i in range(0, len(points), size)]
        return [_group(some, [points[i].config for i in some], differ) for some in members]


def space(config: Any, sweep: Mapping[str, Any]) -> Space:
    """What a search over a sweep's distributions chooses from; it takes lists as choices.

    Raises:
        UsageError: a field is invalid, or its values need several compiled programs.
    """
    _check_mapping(sweep)
    samplers = {path: one if isinstance(one, Sampler) else choice(one) for path, one in sweep.items()}
    for path, sampler in samplers.items():
        value_at(config, path)
        if len(groups(Space(config, {path: sampler}).corners)) > 1:
            raise UsageError(
                f"A search trains its configurations in one compiled program, which the values of {path} change: "
                "sweep it without search, or search for each of its values by itself."
            )
    found = Space(config, samplers)
    found.corners  # noqa: B018 - raises for values that are not valid together
    return found


def space_of(config: Any, recorded: Mapping[str, Mapping[str, Any]]) -> Space:
    """What a search chooses from, as it was described."""

    def sampler(one: Mapping[str, Any]) -> Sampler:
        return Choice(tuple(one["options"])) if "options" in one else Range(**one)

    return Space(config, {path: sampler(one) for path, one in recorded.items()})


def rounded(config: Any, path: str, value: Any) -> Any:
    """A value that was drawn for a field; an integer if the field holds integers."""
    return round(value) if isinstance(value, float) and is_integer_at(config, path) else value


def is_integer_at(config: Any, path: str) -> bool:
    """True if the field at a path holds integers."""
    return _is_integer(value_at(config, path), kinds_at(config, path))


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
    configs = [[points[i].config for i in members] for members in alike.values()]
    return [_group(members, some, _differ(some)) for members, some in zip(alike.values(), configs, strict=True)]


def _differ(configs: list[Any]) -> list[bool]:
    """Which leaves of configs are not the same in all of them."""
    rows = zip(*map(jax.tree.leaves, configs), strict=True)
    return [any(not np.array_equal(row[0], value, equal_nan=True) for value in row[1:]) for row in rows]


def _group(members: list[int], configs: list[Any], stacked: list[bool]) -> Group:
    """A group of configs, some of whose leaves are stacked."""
    structure = jax.tree.structure(configs[0])
    leaves, axes = [], []
    for values, is_stacked in zip(zip(*map(jax.tree.leaves, configs), strict=True), stacked, strict=True):
        leaves.append(np.stack([np.asarray(x, jnp.result_type(x)) for x in values]) if is_stacked else values[0])
        axes.append(0 if is_stacked else None)
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
