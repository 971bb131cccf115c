"""Schedules of exploration and of step sizes: values that move from a first to a last one as a run goes on."""

import jax
import jax.numpy as jnp

from rljax.errors import UsageError
from rljax.types import Scalar

KINDS = ("constant", "linear", "exponential")


def value(kind: str, first: Scalar, last: Scalar, fraction: Scalar, progress: Scalar) -> jax.Array:
    r"""The schedule's value `[]`, with $p = \min(\mathrm{progress} / \mathrm{fraction}, 1)$.

    Args:
        kind: "constant", $x_0$; "linear", $x_0 + p (x_1 - x_0)$; or "exponential", $x_0 (x_1 / x_0)^p$.
        first: $x_0$, positive where exponential.
        last: $x_1$, positive where exponential.
        fraction: of the run after which the last value is reached.
        progress: the part of the run that is over, in [0, 1].
    """
    reached = jnp.where(jnp.asarray(fraction) > 0, jnp.minimum(progress / jnp.maximum(fraction, 1e-9), 1.0), 1.0)
    if kind == "constant":
        return jnp.asarray(first, jnp.float32)
    if kind == "linear":
        return first + reached * (last - first)
    return first * (last / first) ** reached


def check(name: str, kind: str, first: Scalar, last: Scalar, known: tuple[str, ...] = KINDS) -> None:
    """Refuse, when a config is made, a schedule that is not known or cannot be computed."""
    if kind not in known:
        raise UsageError(f"There is no {name}_schedule {kind!r}: known are {', '.join(known)}.")
    numbers = [x for x in (first, last) if isinstance(x, int | float)]
    if kind == "exponential" and any(x <= 0 for x in numbers):
        raise UsageError(f"An exponential schedule needs positive values: raise {name} and {name}_end above 0.")
