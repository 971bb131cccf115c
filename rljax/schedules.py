"""Schedules: hyperparameters that change during a run, as records of traced numbers.

A config's field that can be scheduled takes a number, which stays constant, or one of the schedules below, such as
`learning_rate=schedules.linear(3e-4, 0)`; on the command line `--learning-rate "linear(3e-4, 0)"`. Their numbers can be
swept: `sweep={"learning_rate.start": [1e-3, 1e-4]}`. An update reads the current numbers from `core.scheduled`.

Progress p is the fraction of `schedule_steps` completed. `fraction` is the part of it after which `end` is reached.
During a `warmup`, a fraction of training, the value rises linearly from zero; the schedule follows in the rest. Optax's
schedules count steps instead and check their numbers, which therefore cannot be traced.
"""

import ast
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.errors import UsageError, is_finite, scalar, shown, suggest
from rljax.types import Scalar

_DEFAULTS = {"fraction": 1.0, "warmup": 0.0}  # not shown

_FIELDS = {
    "constant": ("start", "warmup"),
    "linear": ("start", "end", "fraction", "warmup"),
    "exponential": ("start", "end", "fraction", "warmup"),
    "cosine": ("start", "end", "fraction", "warmup"),
    "piecewise": ("values", "boundaries", "warmup"),
    "per_episode": ("start", "end", "decay"),
    "visits": ("start", "exponent"),
}


@dataclasses.dataclass(frozen=True, repr=False)
class Schedule:
    """A schedule: a static kind and its traced numbers; None for those that the kind does not have."""

    kind: str
    start: float | None = None
    end: float | None = None
    fraction: float | None = None
    warmup: float | None = None
    decay: float | None = None
    exponent: float | None = None
    values: tuple[float, ...] | None = None
    boundaries: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        """The call that makes it, which a config also takes as a string."""
        numbers = {name: getattr(self, name) for name in _FIELDS.get(self.kind, ())}
        shown = {name: x for name, x in numbers.items() if not (isinstance(x, float) and x == _DEFAULTS.get(name))}
        named = [f"{name}={x!r}" if name in _DEFAULTS else repr(x) for name, x in shown.items()]
        return f"{self.kind}({', '.join(named)})"


_NUMBERS = [field.name for field in dataclasses.fields(Schedule) if field.name != "kind"]
jax.tree_util.register_dataclass(Schedule, data_fields=_NUMBERS, meta_fields=["kind"])

if TYPE_CHECKING:
    Scheduled = Any  # a number wherever it is used
else:
    Scheduled = float | Schedule
"""The annotation of a config's field that takes a number or a schedule."""


def constant(start: float, warmup: float = 0.0) -> Schedule:
    """$x_0$, after an optional warm-up."""
    return _made("constant", start=start, warmup=warmup)


def linear(start: float, end: float, fraction: float = 1.0, warmup: float = 0.0) -> Schedule:
    """$x_0 + p (x_1 - x_0)$."""
    return _made("linear", start=start, end=end, fraction=fraction, warmup=warmup)


def exponential(start: float, end: float, fraction: float = 1.0, warmup: float = 0.0) -> Schedule:
    """$x_0 (x_1 / x_0)^p$; both must be positive."""
    return _made("exponential", start=start, end=end, fraction=fraction, warmup=warmup)


def cosine(start: float, end: float = 0.0, fraction: float = 1.0, warmup: float = 0.0) -> Schedule:
    r"""$x_1 + \frac{1}{2} (x_0 - x_1) (1 + \cos \pi p)$ (Loshchilov and Hutter 2017, without restarts)."""
    return _made("cosine", start=start, end=end, fraction=fraction, warmup=warmup)


def piecewise(values: Sequence[float], boundaries: Sequence[float], warmup: float = 0.0) -> Schedule:
    """One value after the other, each from its boundary on: `piecewise((1e-3, 1e-4), (0.5,))` changes halfway."""
    for given in (values, boundaries):
        if not isinstance(given, list | tuple | range) and getattr(given, "ndim", 0) != 1:
            raise UsageError(f"piecewise needs two lists of numbers, values and boundaries, got {shown(given)}.")
    return _made("piecewise", values=tuple(values), boundaries=tuple(boundaries), warmup=warmup)


def per_episode(start: float, end: float, decay: float) -> Schedule:
    r"""$\max(x_1, x_0 d^k)$ after k episodes of all environments, a prefill's too: `per_episode(1.0, 0.05, 0.995)`."""
    return _made("per_episode", start=start, end=end, decay=decay)


def visits(start: float, exponent: float) -> Schedule:
    """$x_0 / (1 + n)^k$ for a table's entry with n past updates. It is only for the step size of tables.

    Exponents k in (0.5, 1] meet the conditions of Robbins and Monro (1951).
    """
    return _made("visits", start=start, exponent=exponent)


_KINDS: dict[str, Callable[..., Schedule]] = {
    make.__name__: make for make in (constant, linear, exponential, cosine, piecewise, per_episode, visits)
}


def _made(kind: str, **numbers: Any) -> Schedule:
    return Schedule(kind, **{name: _plain(x) for name, x in numbers.items()})


def _plain(x: Any) -> Any:
    """A number, or a tuple of them, as Python's floats, so that a file can hold it."""
    if isinstance(x, tuple):
        return tuple(map(_plain, x))
    x = scalar(x)
    return float(x) if isinstance(x, int) and not isinstance(x, bool) and is_finite(x) else x


def value(schedule: Scalar | Schedule, progress: Scalar, episodes: Scalar = 0) -> jax.Array:
    """The current value `[]` of a number or a schedule, except one by visits.

    Args:
        schedule: a number, which is constant, or a schedule.
        progress: fraction of the schedule completed, in [0, 1].
        episodes: episodes that have ended so far.
    """
    if not isinstance(schedule, Schedule):
        return jnp.asarray(schedule, jnp.float32)
    numbers: dict[str, Any] = {name: getattr(schedule, name) for name in _FIELDS[schedule.kind]}
    start: Any = numbers.get("start")
    end: Any = numbers.get("end")
    if schedule.kind == "per_episode":
        return jnp.float32(jnp.maximum(end, start * jnp.asarray(schedule.decay, jnp.float32) ** episodes))
    warmup = numbers["warmup"]
    rise = jnp.where(progress < warmup, progress / jnp.maximum(warmup, 1e-9), 1.0)
    progress = jnp.maximum(progress - warmup, 0.0) / jnp.maximum(1.0 - warmup, 1e-9)
    if schedule.kind == "constant":
        return jnp.float32(rise * start)
    if schedule.kind == "piecewise":
        current, *later = numbers["values"]
        for boundary, following in zip(numbers["boundaries"], later, strict=True):
            current = jnp.where(progress >= boundary, following, current)
        return jnp.float32(rise * current)
    fraction = jnp.asarray(numbers["fraction"])
    reached = jnp.where(fraction > 0, jnp.minimum(progress / jnp.maximum(fraction, 1e-9), 1.0), 1.0)
    if schedule.kind == "linear":
        # Two forms, which round differently: runs whose learning rate falls to zero have always used the first.
        current = jnp.where(jnp.equal(end, 0.0), start * (1.0 - reached), start + reached * (end - start))
    elif schedule.kind == "exponential":
        current = start * (end / start) ** reached
    else:
        current = end + 0.5 * (start - end) * (1.0 + jnp.cos(math.pi * reached))
    return jnp.float32(rise * current)


def of_visits(step_size: Scalar | Schedule, visits: jax.Array) -> Scalar:
    """The step sizes `[...]` of entries with so many `visits` `[...]`; a number is the same for all."""
    if not isinstance(step_size, Schedule):
        return step_size
    start, exponent, log_count = step_size.start, step_size.exponent, jnp.log(1.0 + visits.astype(jnp.float32))
    assert start is not None
    assert exponent is not None
    return start * jnp.exp(-exponent * log_count)  # XLA's power is not vectorised on CPUs


def of(name: str, given: Any) -> Any:
    """The number or schedule that a string such as "1e-3" or "linear(1e-3, 0)" stands for; other values unchanged.

    Raises:
        UsageError: the string, given for the field `name`, is neither.
    """
    if not isinstance(given, str):
        return given
    try:
        return float(given)
    except ValueError:
        kind = given.partition("(")[0].strip()
    try:
        call = ast.parse(given.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError(given)
        arguments = [ast.literal_eval(node) for node in call.args]
        named = {str(node.arg): ast.literal_eval(node.value) for node in call.keywords}
        return _KINDS[kind](*arguments, **named)
    except (SyntaxError, ValueError, AttributeError):
        raise UsageError(f"{name} must be a number or a schedule such as linear(3e-4, 0), got {given!r}.") from None
    except KeyError:
        raise UsageError(f"{name} cannot follow the schedule {kind!r}: {suggest(kind, _KINDS)}") from None
    except TypeError as error:
        raise UsageError(f"{name} cannot be {given!r}: {error}.") from None


def check(name: str, schedule: Schedule, low: float | None, high: float | None) -> None:
    """Raise a `UsageError` for a schedule that is invalid for a field with these bounds."""
    if schedule.kind not in _FIELDS:
        raise UsageError(f"There is no schedule {schedule.kind!r}: {suggest(schedule.kind, _FIELDS)}")
    if schedule.kind == "visits" and name != "step_size":
        raise UsageError(f"{name} cannot depend on visits, only the step_size of tables can: choose another schedule.")
    for part in _NUMBERS:
        x, needed = getattr(schedule, part), part in _FIELDS[schedule.kind]
        if (x is not None) != needed:
            raise UsageError(f"{name} is {schedule!r}, which {'needs' if needed else 'has no'} {part}.")
        is_value = part in ("start", "end", "values")
        bounds = (low, high) if is_value else (0.0, None if part == "exponent" else 1.0)
        for number in x if isinstance(x, tuple) else (x,):
            _check_number(f"{part} of {name}", number, *bounds, positive=schedule.kind == "exponential" and is_value)
    if schedule.kind == "piecewise":
        values, boundaries = schedule.values or (), schedule.boundaries or ()
        concrete = [x for x in boundaries if isinstance(x, float)]
        if len(values) != len(boundaries) + 1 or sorted(concrete) != concrete:
            raise UsageError(f"{name} is {schedule!r}: it needs one value more than boundaries, which must ascend.")


def _check_number(what: str, x: Any, low: float | None, high: float | None, positive: bool) -> None:
    """Check a number, or several that are stacked for a `vmap`; a tracer is valid."""
    if x is None or isinstance(x, jax.core.Tracer):
        return
    array = np.asarray(x) if not isinstance(x, bool | str) else np.asarray(None)
    if array.dtype.kind not in "fiu" or not is_finite(array):
        raise UsageError(f"The {what} must be a number that is finite in 32 bits, got {shown(x)}.")
    if positive and (array <= 0).any():
        raise UsageError(f"An exponential schedule needs positive values: raise the {what} above 0.")
    if (low is not None and (array < low).any()) or (high is not None and (array > high).any()):
        bounds = f"at least {low:g}" if high is None else f"in [{0.0 if low is None else low:g}, {high:g}]"
        raise UsageError(f"The {what} must be {bounds}, got {shown(x)}.")


def falls_to_zero(schedule: Any) -> bool:
    """True if a schedule ends at zero."""
    return isinstance(schedule, Schedule) and 0.0 in (schedule.end, (schedule.values or (None,))[-1])
