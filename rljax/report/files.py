"""The files of a run: `config.json`, `summary.json`, `curves.csv`. An error never leaves a partly written file."""

import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from rljax.errors import UsageError, shown

OF_A_RUN = ("config.json", "summary.json", "curves.csv", "metrics.csv", "learning_curve.png")


def destination(out: str | os.PathLike[str], example: str) -> pathlib.Path:
    """The path of a file that can be written; raise `UsageError` before anything is computed for it."""
    if not isinstance(out, str | os.PathLike) or not os.fspath(out) or "\0" in str(out):
        raise UsageError(f"out must be the path of a file, such as {example}, got {shown(out)}.")
    path = pathlib.Path(out)
    if os.path.isdir(path):  # False for a name that is too long, where pathlib raises
        raise UsageError(f"{path} is a folder: name a file in it, such as {path / example}.")
    if path.name in OF_A_RUN and (path.parent / OF_A_RUN[0]).exists():
        raise UsageError(f"{path} belongs to the run in {path.parent}: choose another name, such as {example}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be created ({error.strerror}): choose another folder.") from None
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} cannot be written: {path.parent} is read-only.")
    return path


def replace(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Write to a temporary file and rename it, so that an error such as a full disk leaves the old file unchanged.

    Raises:
        UsageError: the file could not be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"{path} could not be written ({error.strerror}): free disk space, or choose another folder."
        ) from None


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file."""
    replace(path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write JSON, with null instead of NaN and infinity, which JSON does not have."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Format a value as JSON."""
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file; raise `UsageError` if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is not the folder of a run: it has no {path.name}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({error}): restore it, or start again in another folder.") from None


def write_table(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    write_text(path, text.getvalue())


def plain(value: Any) -> Any:
    """The value as plain data for JSON: lists instead of arrays, None instead of NaN and infinity."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
