"""The folder of a run: prepare it, lock it, clear it."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from rljax.errors import UsageError
from rljax.report import files


def prepare(out: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
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
    files.write_json(folder / "config.json", about)
