"""Usage errors: each message is one sentence that says how to fix the call."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


class UsageError(ValueError):
    """A mistake by the caller. The message is one sentence; the command line prints it and exits with 2."""


def suggest(unknown: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known names, or all of them."""
    known = list(known)
    folded = {name.casefold(): name for name in known}
    near = [folded[match] for match in difflib.get_close_matches(str(unknown).casefold(), folded, n=3, cutoff=0.5)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(known)}."


def scalar(value: Any) -> Any:
    """Convert a concrete scalar array to a Python number; return anything else unchanged."""
    concrete = isinstance(value, np.generic | np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    is_number = concrete and any(jax.numpy.issubdtype(value.dtype, kind) for kind in (np.number, np.bool_))
    return value.item() if is_number and value.ndim == 0 else value


def number(
    what: str,
    value: Any,
    *,
    whole: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    traced: bool = False,
) -> Any:
    """Check an argument and return it as a Python number, an int if `whole`.

    With `traced`, a traced scalar is returned unchecked.

    Raises:
        UsageError: the value is not a number, is a bool, is not finite, is out of bounds, or is not an integer though
            `whole` is set.
    """
    if traced and isinstance(value, jax.core.Tracer) and value.ndim == 0:
        return value
    converted = scalar(value)
    is_kind = isinstance(converted, int if whole else int | float) and not isinstance(converted, bool)
    low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
    if not is_kind or not abs(converted) < math.inf or not low <= converted <= high:
        bounds = "" if minimum is None else f" of at least {minimum}"
        bounds = bounds if maximum is None else f" in [{minimum}, {maximum}]"
        kind = "an integer" if whole else "a finite number"
        raise UsageError(f"{what} must be {kind}{bounds}, got {' '.join(repr(value).split())}.")
    return converted
