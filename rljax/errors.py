"""Mistakes in how the library was called, each reported in one sentence that says what to do."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


class UsageError(ValueError):
    """A mistake of the caller's. Its message is one sentence; the command line prints it and exits with 2."""


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown `word`: the nearest known ones, or all of them."""
    known = list(known)
    folded = {name.casefold(): name for name in known}
    near = [folded[match] for match in difflib.get_close_matches(str(word).casefold(), folded, n=3, cutoff=0.5)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(known)}."


def scalar(value: Any) -> Any:
    """A known scalar array as the Python number that it holds, anything else as it is."""
    known = isinstance(value, np.generic | np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    is_number = known and any(jax.numpy.issubdtype(value.dtype, kind) for kind in (np.number, np.bool_))
    return value.item() if is_number and value.ndim == 0 else value


def number(
    what: str, value: Any, *, whole: bool = False, minimum: float | None = None, maximum: float | None = None
) -> Any:
    """An argument as a Python number, whole ones as an int.

    Raises:
        UsageError: it is no number, a flag, not finite, a fraction where it must be whole, or out of its bounds.
    """
    held = scalar(value)
    is_number = isinstance(held, int if whole else int | float) and not isinstance(held, bool) and abs(held) < math.inf
    low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
    if not is_number or not low <= held <= high:
        bounds = "" if minimum is None else f" of at least {minimum}"
        bounds = bounds if maximum is None else f" in [{minimum}, {maximum}]"
        kind = "a whole number" if whole else "a finite number"
        raise UsageError(f"{what} must be {kind}{bounds}, got {' '.join(repr(value).split())}.")
    return held
