"""The files of a run: `config.json`, `summary.json`, `curves.csv`, each written whole or not at all."""

import csv
import io
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from rljax.errors import UsageError


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file by renaming a finished one over it, so that a full disk leaves the old one as it was."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"{path} could not be written ({error.strerror}): make room, or choose another folder."
        ) from None


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write JSON, with null in place of NaN and infinity, which JSON does not have."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """A value as JSON text."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def read_json(path: pathlib.Path) -> Any:
    """A JSON file's value; a `UsageError` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is no folder of a run: it has no {path.name}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}): restore it, or start again in another folder.") from None


def write_table(path: pathlib.Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    write_text(path, text.getvalue())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
