"""Schedules of exploration and step sizes: values that change from a first to a last one during a run."""

import jax
import jax.numpy as jnp

from rljax.errors import UsageError
from rljax.types import Scalar

KINDS = ("constant", "linear", "exponential")


def value(kind: str, first: Scalar, last: Scalar, fraction: Scalar, progress: Scalar) -> jax.Array:
    r"""Evaluate a schedule `[]` at $p = \min(\mathrm{progress} / \mathrm{fraction}, 1)$.

    Args:
        kind: "constant", $x_0$; "linear", $x_0 + p (x_1 - x_0)$; or "exponential", $x_0 (x_1 / x_0)^p$.
        first: $x_0$, positive if exponential.
        last: $x_1$, positive if exponential.
        fraction: fraction of the run after which $x_1$ is reached.
        progress: fraction of the run completed, in [0, 1].
    """
    reached = jnp.where(jnp.asarray(fraction) > 0, jnp.minimum(progress / jnp.maximum(fraction, 1e-9), 1.0), 1.0)
    if kind == "constant":
        return jnp.asarray(first, jnp.float32)
    if kind == "linear":
        return first + reached * (last - first)
    return first * (last / first) ** reached


def check(name: str, kind: str, first: Scalar, last: Scalar, kinds: tuple[str, ...] = KINDS) -> None:
    """Raise a `UsageError` for an unknown schedule, or an exponential one that does not stay above zero."""
    if kind not in kinds:
        raise UsageError(f"There is no {name}_schedule {kind!r}: choose from {', '.join(kinds)}.")
    numbers = [x for x in (first, last) if isinstance(x, int | float)]
    if kind == "exponential" and any(x <= 0 for x in numbers):
        raise UsageError(f"An exponential schedule needs positive values: raise {name} and {name}_end above 0.")
