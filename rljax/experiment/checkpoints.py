"""Checkpoints of an experiment, a folder of them for each batch: arrays and plain data written by Orbax, no code.

Orbax writes in the background, renames a checkpoint when it is complete and keeps the last two, so the process can be
killed at any moment. A checksum over arrays and data detects a checkpoint that was damaged or edited later.
"""

import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import shutil
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.backend.lanes import map_lanes
from rljax.errors import UsageError
from rljax.experiment import folders
from rljax.experiment.history import Frozen, Kept, Record, Runs
from rljax.report import console

FORMAT = 1
FOLDER = "checkpoints"
_KEPT = 2


class Saved(NamedTuple):
    """A batch of R runs at the time of a checkpoint."""

    record: Record
    leaves: list[np.ndarray]  # of the states: `[R, ...]`, or shared by all runs
    axes: list[int | None]  # of each leaf: 0 if it is stacked over runs, None if it is shared
    keys: np.ndarray  # [R, ...] key data of the runs' updates
    final: np.ndarray | None  # [R, episodes] returns of the final evaluation, once it was made
    lanes: int  # that the batch was laid out over
    about: dict[str, Any]  # where it comes from: device, versions, the experiment's fingerprint
    rung: int = 0  # of successive halving
    folder_name: str = ""  # name of the batch's folder

    def rows(self, rows: np.ndarray) -> "Saved":
        """The checkpoint of some of the runs."""
        return self._replace(
            record=self.record.rows(rows),
            leaves=map_lanes(lambda leaf: leaf[rows], self.axes, self.leaves),
            keys=self.keys[rows],
            final=None if self.final is None else self.final[rows],
        )


def joined(parts: list[Saved], runs: Runs) -> Saved:
    """The state of these runs in this order, from the last checkpoints of several batches of the same rung."""
    place = {run: (i, row) for i, part in enumerate(parts) for row, run in enumerate(part.record.runs)}
    places = [place[run] for run in runs]
    used = sorted({i for i, _ in places})
    rows = {i: np.array([row for j, row in places if j == i]) for i in used}
    chosen = [parts[i].rows(rows[i]) for i in used]
    if len(chosen) == 1:
        return chosen[0]
    first = chosen[0]

    def join(leaf: list[np.ndarray], axis: int | None) -> np.ndarray:
        return leaf[0] if axis is None else np.concatenate(leaf)  # counters are shared by all runs

    stacked = zip(*(one.leaves for one in chosen), strict=True)
    whole = first._replace(
        record=Record.joined([one.record for one in chosen]),
        leaves=[join(list(leaf), axis) for leaf, axis in zip(stacked, first.axes, strict=True)],
        keys=np.concatenate([one.keys for one in chosen]),
        final=np.concatenate([one.final for one in chosen if one.final is not None]),
    )
    order = {run: row for row, run in enumerate(whole.record.runs)}
    return whole.rows(np.array([order[run] for run in runs]))


class _Damaged(Exception):
    """A checkpoint that cannot be used."""


def load(folder: pathlib.Path) -> list[Saved]:
    """The newest intact checkpoint of every batch that has one, in order."""
    places = [folder / FOLDER / name for name in _numbered(folder / FOLDER)]
    return [saved for place in places if (saved := newest(place)) is not None]


def of_task(folder: pathlib.Path, number: int, count: int) -> list[Saved]:
    """The newest intact checkpoints of the batches of one of `count` tasks."""
    names = [name for name in _numbered(folder / FOLDER) if int(name) % count == number]
    return [saved for name in names if (saved := newest(folder / FOLDER / name)) is not None]


def _numbered(folder: pathlib.Path) -> list[str]:
    """The names of a folder's numbered subfolders, in order; empty if there is no folder."""
    try:
        return sorted(name for name in os.listdir(folder) if name.isdecimal() and (folder / name).is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror}).") from error


class Writer:
    """Write the checkpoints of one batch after another in the background."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._place = ""
        self._manager: Any = None
        self._alias = contextlib.ExitStack()

    def save(self, place: str, saved: Saved) -> None:
        """Start to write a batch's next checkpoint, after the one before is complete.

        Raises:
            UsageError: this one or the one before cannot be written; the earlier ones are kept.
        """
        from orbax import checkpoint as orbax

        if self._place != place:
            self.close()
            self._place = place
        folders.require_same(self._folder)
        with self._closed_on_errors():
            if self._manager is None:
                path = self._folder / FOLDER / place
                path.mkdir(parents=True, exist_ok=True)
                self._manager = _manager(self._alias.enter_context(alias(path)))
            self._manager.wait_until_finished()
            arrays, about = _packed(saved._replace(folder_name=place))
            items = orbax.args.Composite(arrays=orbax.args.PyTreeSave(arrays), about=orbax.args.JsonSave(about))
            self._manager.save((self._manager.latest_step() or 0) + 1, args=items)

    def close(self) -> None:
        """Wait until everything is on disk, and stop writing.

        Raises:
            UsageError: the last checkpoint could not be written.
        """
        if self._manager is not None:
            with self._closed_on_errors():
                self._manager.wait_until_finished()
                self._close()

    def _close(self) -> None:
        manager, self._manager = self._manager, None
        with self._alias:
            if manager is not None:
                manager.close()

    @contextlib.contextmanager
    def _closed_on_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            with contextlib.suppress(Exception):  # the error being raised says the same
                self._close()
            folders.require_same(self._folder)
            path = self._folder / FOLDER / self._place
            _remove_unfinished(path)
            raise UsageError(
                f"No checkpoint could be written to {path} ({_reason(error)}): the earlier ones are kept."
            ) from error


def _remove_unfinished(place: pathlib.Path) -> None:
    """Remove what a failed write leaves in a batch's folder, and the folder if it is then empty."""
    with contextlib.suppress(OSError):
        for name in os.listdir(place):
            if not name.isdecimal():
                shutil.rmtree(place / name, ignore_errors=True)
        place.rmdir()
        place.parent.rmdir()


@contextlib.contextmanager
def alias(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A short path of ASCII letters to an existing folder, by its descriptor, if the system has such paths.

    Orbax takes `[`, `?` and `*` for patterns, encodes names in UTF-8, and adds long names of its own.
    """
    if not pathlib.Path("/proc/self/fd").is_dir():
        yield folder.absolute()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield pathlib.Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def check_path(folder: pathlib.Path) -> None:
    """Refuse an existing folder whose checkpoints Orbax could not write or read."""
    with alias(folder) as path:
        text = str(path)
    if set(text) & set("[]?*") or not text.isprintable() or len(os.fsencode(text)) > 800:
        raise UsageError(f"Checkpoints need a shorter path without [ ] ? * and unusual characters than {folder}.")


def _from_orbax(record: logging.LogRecord) -> bool:
    frames = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
    return any("orbax" in name for name in (record.pathname, *(frame.filename for frame in frames)))


def _silence_orbax() -> None:
    """Drop what Orbax and TensorStore print about an error, hundreds of lines, in addition to raising it."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _not_from_orbax not in logger.filters:
            logger.addFilter(_not_from_orbax)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


class _UnraisableHook:
    """Drops the errors of TensorStore's threads that finish after a failed write."""

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self.before = before

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.before(unraisable)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return not _from_orbax(record)


def _only_here() -> Any:
    """Options with which Orbax waits for no other process: one writes, and each reads for itself."""
    from orbax import checkpoint as orbax

    here = jax.process_index()
    return orbax.options.MultiprocessingOptions(primary_host=here, active_processes={here})


def _manager(place: pathlib.Path) -> Any:
    from orbax import checkpoint as orbax

    _silence_orbax()
    options = orbax.CheckpointManagerOptions(
        max_to_keep=_KEPT,
        step_format_fixed_length=6,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
        create=False,
        multiprocessing_options=_only_here(),
    )
    return orbax.CheckpointManager(place, item_names=("arrays", "about"), options=options)


def newest(place: pathlib.Path) -> Saved | None:
    """A batch's newest intact checkpoint, None if there is none yet.

    Raises:
        UsageError: there are checkpoints and none can be used, or another version wrote them.
    """
    troubles = []
    for name in sorted(_numbered(place), key=int, reverse=True):
        path = place / name
        try:
            saved = _read(path)
        except _Damaged as error:
            troubles.append(f"{path} is not an intact checkpoint ({error})")
            continue
        if troubles:
            console.say(f"{troubles[0]}: using {path.name}, the one before it.")
        return saved
    if troubles:
        raise UsageError(f"{troubles[0]}, and there is no other: start again in another folder.")
    return None


def _reason(error: Exception) -> str:
    text = str(error).strip()
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.EACCES, errno.EROFS, errno.EIO):
        if os.strerror(code) in text:
            return os.strerror(code)
    first = (text.splitlines() or [type(error).__name__])[0][:200].rstrip(".: ")
    return getattr(error, "strerror", None) or first


def _packed(saved: Saved) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Named arrays and plain data. Orbax does not write empty arrays, so their shapes are stored with the data."""
    record = saved.record
    arrays = {f"state{i:04d}": leaf for i, leaf in enumerate(saved.leaves)}
    arrays |= {f"metric{i:04d}": rows for i, rows in enumerate(record.metrics.values())}
    arrays |= {"runs": record.runs.pairs, "keys": saved.keys, "evaluations": record.eval_returns}
    arrays |= {f"measure{i:04d}": rows for i, rows in enumerate(record.measures.values())}
    arrays |= {f"final_measure{i:04d}": rows for i, rows in enumerate(record.final_measures.values())}
    if saved.final is not None:
        arrays["final"] = saved.final
    for lane, frozen in record.frozen.items():
        arrays |= {f"frozen{lane:06d}.{i:04d}": counter for i, counter in enumerate(frozen.counters)}
    for number, kept in enumerate(record.kept):
        arrays |= {f"kept{number:06d}.{i:04d}": leaf for i, leaf in enumerate((*kept[:2], *kept.leaves))}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    about = {
        **saved.about,
        "format": FORMAT,
        "updates": record.updates,
        "env_steps": record.env_steps,
        "seconds": record.seconds,
        "eval_updates": list(record.eval_updates),
        "eval_steps": list(record.eval_steps),
        "frozen": [[lane, one.update, one.env_steps, one.is_solved] for lane, one in record.frozen.items()],
        "kept": len(record.kept),
        "metrics": list(record.metrics),
        "measures": list(record.measures),
        "final_measures": list(record.final_measures),
        "axes": saved.axes,
        "lanes": saved.lanes,
        "rung": saved.rung,
        "batch": saved.folder_name,
        "arrays": {name: [list(array.shape), array.dtype.name] for name, array in arrays.items()},
    }
    about["checksum"] = _checksum(arrays, about)
    return {name: array for name, array in arrays.items() if array.size}, about


def _checksum(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> int:
    """Of the arrays' bytes, and of the data as JSON without the checksum itself."""
    data = {name: value for name, value in about.items() if name != "checksum"}
    total = zlib.crc32(json.dumps(data, sort_keys=True).encode())
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), zlib.crc32(name.encode(), total))
    return total


def _checkpointer() -> Any:
    from orbax import checkpoint as orbax

    options = orbax.CompositeOptions(multiprocessing_options=_only_here())
    handler = orbax.CompositeCheckpointHandler(composite_options=options)
    return orbax.Checkpointer(handler, multiprocessing_options=options.multiprocessing_options)


def _read(path: pathlib.Path) -> Saved:
    from orbax import checkpoint as orbax

    _silence_orbax()
    try:
        with alias(path) as short, _checkpointer() as checkpointer:
            args = orbax.args.Composite(about=orbax.args.JsonRestore())
            about = checkpointer.restore(short, args=args).about
            if about["format"] != FORMAT:
                writer = about.get("versions", {}).get("rljax", "another version")
                raise UsageError(
                    f"{path} has format {about['format']}, and this rljax reads format {FORMAT}: "
                    f"use the one that wrote it ({writer})."
                )
            args = orbax.args.Composite(arrays=orbax.args.PyTreeRestore())
            stored = checkpointer.restore(short, args=args).arrays or {}
        arrays = {}
        for name, (shape, kind) in about["arrays"].items():
            if name not in stored and math.prod(shape):
                raise _Damaged(f"its {name} is missing")
            array = np.asarray(stored[name]) if name in stored else np.zeros(shape, kind)
            arrays[name] = array.astype(kind, copy=False).reshape(shape)
        if _checksum(arrays, about) != about["checksum"]:
            raise _Damaged("its checksum does not match")
        if about["batch"] != path.parent.name:
            raise _Damaged(f"it belongs to batch {about['batch']}")
        return _unpacked(arrays, about)
    except (UsageError, _Damaged):
        raise
    except Exception as error:  # a damaged file can raise anything
        raise _Damaged(_reason(error)) from error


def _unpacked(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Saved:
    record = Record(Runs.of(arrays["runs"]))
    metrics = {name: arrays[f"metric{i:04d}"] for i, name in enumerate(about["metrics"])}
    record.chunks = [metrics] if metrics else []
    record.updates, record.env_steps, record.seconds = about["updates"], about["env_steps"], about["seconds"]
    record.eval_updates, record.eval_steps = about["eval_updates"], about["eval_steps"]
    record.evaluations = list(arrays["evaluations"].T)
    measures = {name: arrays[f"measure{i:04d}"].T for i, name in enumerate(about["measures"])}
    record.eval_measures = [{name: rows[i] for name, rows in measures.items()} for i in range(len(record.eval_updates))]
    record.final_measures = {name: arrays[f"final_measure{i:04d}"] for i, name in enumerate(about["final_measures"])}

    def series(prefix: str) -> list[np.ndarray]:
        return [arrays[name] for name in sorted(arrays) if name.startswith(prefix)]

    for lane, update, env_steps, is_solved in about["frozen"]:
        record.frozen[lane] = Frozen(update, env_steps, series(f"frozen{lane:06d}."), is_solved)
    for number in range(about["kept"]):
        updates, returns, *kept = series(f"kept{number:06d}.")
        record.kept.append(Kept(updates, returns, kept))
    leaves = series("state")
    keys, final = arrays["keys"], arrays.get("final")
    return Saved(record, leaves, about["axes"], keys, final, about["lanes"], about, about["rung"], about["batch"])
