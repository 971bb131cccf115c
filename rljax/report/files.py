"""The files of a run: `config.json`, `summary.json`, `curves.csv`, each written whole or not at all."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rljax.envs import Env
from rljax.errors import UsageError


def prepare_folder(out: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Make the folder, or raise a `UsageError` where it holds something already or cannot be written."""
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A run that was stopped before its first result leaves its config alone: nothing is lost by going over it.
        in_use = any(entry.name != "config.json" and entry.suffix != ".part" for entry in folder.iterdir())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UsageError(
            f"{folder} cannot be a folder of results, since a file is in its way: choose another."
        ) from None
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}): choose another folder.") from None
    if in_use and not overwrite and (folder / "checkpoints").is_dir():
        raise UsageError(
            f"{folder} is in use: `rljax resume {folder}` goes on with it; else choose another folder, "
            "or say overwrite (--overwrite) to replace what is there."
        )
    if in_use and not overwrite:
        raise UsageError(
            f"{folder} is in use: choose another folder, or say overwrite (--overwrite) to replace what is there."
        )
    return folder


@contextlib.contextmanager
def held(folder: pathlib.Path | None) -> Iterator[None]:
    """Keep others from training into the folder meanwhile. However this process ends, its lock goes with it."""
    if folder is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{folder} is being trained into already: wait until that ends, or choose another folder."
            ) from None
        except (ImportError, OSError):
            pass  # a system, or a file system, without such locks
        yield


def begin(folder: pathlib.Path, about: dict[str, Any]) -> None:
    """Take away an earlier run's files and write `config.json`."""
    for name in ("summary.json", "curves.csv", "learning_curve.png"):
        (folder / name).unlink(missing_ok=True)
    for name in ("checkpoints", "hosts"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_json(folder / "config.json", about)


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
    table.writerows([cell.label if isinstance(cell, Env) else cell for cell in row] for row in rows)
    write_text(path, text.getvalue())


def describe(value: Any) -> Any:
    """A config, an environment or one of their fields as plain data for `config.json`."""
    if isinstance(value, Env):
        parts = {"name": value.name, "params": value.params, "wrappers": value.wrappers, "recipe": value.recipe}
        return describe(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return np.asarray(value).tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an address says nothing in another process


def without_recipes(described: Any) -> Any:
    """A description as older versions gave it, which left out what wrappers were called with."""
    if isinstance(described, dict):
        kept = described.keys() - {"recipe"} if "wrappers" in described else described.keys()
        return {name: without_recipes(value) for name, value in described.items() if name in kept}
    return [without_recipes(value) for value in described] if isinstance(described, list) else described


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
