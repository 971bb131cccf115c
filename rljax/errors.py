"""Usage errors: each message is one sentence that says how to fix the call."""

import difflib
import math
import os
import pathlib
import sysconfig
import traceback
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

_LARGEST = float(np.finfo(np.float32).max)
_LIBRARIES = ("<", f"{pathlib.Path(__file__).parent}{os.sep}", f"{sysconfig.get_path('stdlib')}{os.sep}")


WORKERS_LINE = "_rljax_workers_line"  # attribute of an error of a cluster's worker, whose traceback stays there


class UsageError(ValueError):
    """An error that the caller can act on. The command line prints its message and exits with 2."""


def suggest(unknown: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known names, or all of them."""
    known = list(known)
    folded = {name.casefold(): name for name in known}
    near = [folded[match] for match in difflib.get_close_matches(str(unknown).casefold(), folded, n=3, cutoff=0.5)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(known)}."


def shown(value: Any) -> str:
    """A value's text on one line, cut short if it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integers of more than 4300 digits
        return "an integer of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def user_line(error: BaseException) -> str | None:
    """The file and line of the user's code that an error caught by rljax comes from, the innermost; None without any.

    The user's code is neither rljax's nor installed.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename):
            return f"{pathlib.Path(frame.filename).name}, line {frame.lineno}"
    return getattr(error, WORKERS_LINE, None)


def is_users(filename: str) -> bool:
    """True if code is the user's: neither rljax's nor installed."""
    path = pathlib.Path(filename)
    is_installed = bool({"site-packages", "dist-packages"} & set(path.parts))
    is_command = path.name in ("rljax", "rljax.exe")
    return not (is_installed or is_command or filename.startswith(_LIBRARIES))


def located(error: BaseException) -> str:
    """An error's type, its message on one line, and the user's line that it comes from, if any."""
    message = " ".join(str(error).split())[:300].rstrip(".")
    where = user_line(error)
    return type(error).__name__ + (f": {message}" if message else "") + (f" ({where})" if where else "")


def scalar(value: Any) -> Any:
    """Convert a concrete scalar array to a Python number; return anything else unchanged."""
    concrete = isinstance(value, np.generic | np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    is_number = concrete and any(jax.numpy.issubdtype(value.dtype, kind) for kind in (np.number, np.bool_))
    return value.item() if is_number and value.ndim == 0 else value


def is_finite(values: Any) -> bool:
    """True if a number, or all in an array, are finite in 32 bits, as 1e300 is not."""
    return bool(np.all(abs(values) <= _LARGEST))


def number(
    what: str,
    value: Any,
    *,
    integer: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    traced: bool = False,
) -> Any:
    """Check an argument and return it as a Python number, an int if `integer`.

    With `traced`, a traced scalar is returned unchecked.

    Raises:
        UsageError: the value is not a number, is a bool, is not finite, is out of bounds, or is not an integer though
            `integer` is set.
    """
    if traced and isinstance(value, jax.core.Tracer) and value.ndim == 0:
        return value
    converted = scalar(value)
    is_kind = isinstance(converted, int if integer else int | float) and not isinstance(converted, bool)
    low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum
    if not is_kind or not (integer or is_finite(converted)) or not low <= converted <= high:
        bounds = "" if minimum is None else f" of at least {minimum}"
        bounds = bounds if maximum is None else f" in [{minimum}, {maximum}]"
        kind = "an integer" if integer else "a finite number"
        raise UsageError(f"{what} must be {kind}{bounds}, got {shown(value)}.")
    return converted


def require_key(key: Any) -> None:
    """Refuse what is not one key of `jax.random`, typed or as raw bits; a tracer of one is valid.

    Raises:
        UsageError: it is something else, or several keys.
    """
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    is_typed = dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
    if (is_typed and shape == ()) or (dtype == np.uint32 and shape in ((2,), (4,))):
        return
    if is_typed:
        raise UsageError(f"key must be one random key, got an array of keys of shape {shape}: use jax.vmap.")
    raise UsageError(f"key must be one random key, such as jax.random.key(0), got {shown(key)}.")
