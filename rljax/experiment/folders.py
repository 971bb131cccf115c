"""The folder of a run: prepare it, lock it, clear it."""

import contextlib
import itertools
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from rljax.errors import UsageError


def prepare(out: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Create the folder, or raise a `UsageError` if it holds something already or cannot be written."""
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A run that was stopped before its first result leaves only its config: overwriting it loses nothing.
        holds_results = any(entry.name != "config.json" and entry.suffix != ".part" for entry in folder.iterdir())
        with tempfile.NamedTemporaryFile(prefix="learning_curve", suffix=".part", dir=folder) as file:
            file.write(bytes(1024))
            file.flush()
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{folder} cannot be created, since a file is in the way: choose another folder.") from None
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}): choose another folder.") from None
    if holds_results and not overwrite and (folder / "checkpoints").is_dir():
        raise UsageError(
            f"{folder} already holds results: `rljax resume {folder}` continues the run; otherwise choose another "
            "folder, or pass overwrite (--overwrite) to replace them."
        )
    if holds_results and not overwrite:
        raise UsageError(
            f"{folder} already holds results: choose another folder, or pass overwrite (--overwrite) to replace them."
        )
    return folder


_held: dict[pathlib.Path, tuple[int, int]] = {}  # the device and inode of each folder that a run writes to


@contextlib.contextmanager
def locked(folder: pathlib.Path | None) -> Iterator[None]:
    """Lock the folder against other processes. The lock ends with this process, however it ends."""
    if folder is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a system that opens no folders
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if not _lock(descriptor):
                raise UsageError(
                    f"{folder} is in use by another process: wait until it ends, or choose another folder."
                )
        refuse_trained(folder)
        if (identity := _identity(folder)) is not None:
            _held[folder] = identity
            stack.callback(_held.pop, folder)
        yield


_LOCKS = "locks"  # folder of one file for each task of a cluster, locked by the worker that trains it


@contextlib.contextmanager
def task_locked(folder: pathlib.Path, number: int, patience: float) -> Iterator[None]:
    """Lock a task against other workers, waiting for one whose node was lost to end. The lock ends with the process."""
    path, until = folder / _LOCKS / f"{number:04d}", time.monotonic() + patience
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        while not _lock(file.fileno()):
            if time.monotonic() > until:
                raise UsageError(f"Task {number} of {folder} is in use by another process: wait until it ends.")
            time.sleep(0.2)
        yield


def refuse_trained(folder: pathlib.Path) -> None:
    """Refuse a folder whose workers are alive though their driver is not."""
    for path in (folder / _LOCKS).glob("*"):
        with path.open("r+") as file:
            if not _lock(file.fileno()):
                raise UsageError(
                    f"{folder} is in use by a worker of a cluster: wait until it ends, which takes seconds."
                )


def remove_locks(folder: pathlib.Path) -> None:
    """Remove the files of locks that nobody holds any more."""
    shutil.rmtree(folder / _LOCKS, ignore_errors=True)


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process has. True without locks on this system."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # a system, or a file system, without locks
        pass
    return True


def _identity(folder: pathlib.Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def require_same(folder: pathlib.Path) -> None:
    """Refuse to write into a held folder that was deleted, since another run may have made a new one at its path."""
    if folder in _held and _identity(folder) != _held[folder]:
        raise UsageError(f"{folder} was deleted or replaced while this run trained: it writes nothing more there.")


def clear(folder: pathlib.Path) -> None:
    """Remove an earlier run's files, except `config.json`, which the new run overwrites; a link, not its target."""
    logged = ("log", "log.csv", "log.jsonl", "tensorboard")
    written = ("summary.json", "curves.csv", "metrics.csv", "metrics", "learning_curve.png", "checkpoints", _LOCKS)
    for name in (*written, *logged):
        path = folder / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{path} cannot be removed ({error.strerror}): choose another folder.") from error


def new(name: str) -> pathlib.Path:
    """Make a new folder in `runs/`, so that two runs started in the same second do not share one."""
    for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        folder = pathlib.Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be created ({error.strerror}): choose another folder with --out."
            ) from None
        return folder
    raise AssertionError("the suffixes never end")
