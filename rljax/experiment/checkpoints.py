"""Checkpoints of an experiment, a folder of them for each batch: arrays and plain data written by Orbax, no code.

Orbax writes in the background, renames a checkpoint when it is complete and keeps the last two, so the process can
be killed at any moment. A checksum detects a checkpoint that was damaged later.
"""

import contextlib
import pathlib
import zlib
from typing import Any, NamedTuple

import numpy as np

from rljax.backend.lanes import map_lanes
from rljax.errors import UsageError
from rljax.experiment.history import Diverged, Record, Runs
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


class _Damaged(Exception):
    """A checkpoint that cannot be used."""


def load(folder: pathlib.Path) -> list[Saved]:
    """The newest intact checkpoint of every batch that has one, in order."""
    places = sorted(path for path in (folder / FOLDER).glob("[0-9]*") if path.is_dir())
    return [saved for place in places if (saved := newest(place)) is not None]


class Writer:
    """Write the checkpoints of one batch after another in the background."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder / FOLDER
        self._place = ""
        self._manager: Any = None

    def save(self, place: str, saved: Saved) -> None:
        """Start to write a batch's next checkpoint, after the one before is complete.

        Raises:
            UsageError: this one or the one before cannot be written; the earlier ones are kept.
        """
        from orbax import checkpoint as orbax

        try:
            if self._place != place:
                self.close()
                self._manager, self._place = _manager(self._folder / place), place
            self._manager.wait_until_finished()
            arrays, about = _packed(saved)
            items = orbax.args.Composite(arrays=orbax.args.PyTreeSave(arrays), about=orbax.args.JsonSave(about))
            self._manager.save((self._manager.latest_step() or 0) + 1, args=items)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            self._abandon()
            raise UsageError(
                f"No checkpoint could be written to {self._folder / place} ({_reason(error)}): "
                "the earlier ones are kept."
            ) from None

    def close(self) -> None:
        """Wait until everything is on disk, and stop writing.

        Raises:
            UsageError: the last checkpoint could not be written.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:
            raise UsageError(
                f"No checkpoint could be written to {self._folder / self._place} ({_reason(error)}): "
                "the earlier ones are kept."
            ) from None
        finally:
            self._manager, self._place = None, ""

    def _abandon(self) -> None:
        with contextlib.suppress(UsageError):  # the error being raised says the same
            self.close()


def _manager(place: pathlib.Path) -> Any:
    from orbax import checkpoint as orbax

    options = orbax.CheckpointManagerOptions(
        max_to_keep=_KEPT,
        step_format_fixed_length=6,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
        create=True,
    )
    return orbax.CheckpointManager(place.absolute(), item_names=("arrays", "about"), options=options)


def newest(place: pathlib.Path) -> Saved | None:
    """A batch's newest intact checkpoint, None if there is none yet.

    Raises:
        UsageError: there are checkpoints and none can be used, or another version wrote them.
    """
    numbers = sorted(int(path.name) for path in place.glob("[0-9]*") if path.name.isdigit())
    troubles = []
    for number in reversed(numbers):
        path = place / f"{number:06d}"
        try:
            saved = _read(path)
        except _Damaged as error:
            troubles.append(f"{path} is not an intact checkpoint ({error})")
            continue
        if troubles:
            console.say(f"{troubles[0]}: using {path.name}, the one before it.")
        return saved._replace(folder_name=place.name)
    if troubles:
        raise UsageError(f"{troubles[0]}, and there is no other: start again in another folder.")
    return None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    first = (lines[0] if lines else type(error).__name__)[:200].rstrip(".: ")
    return getattr(error, "strerror", None) or first


def _packed(saved: Saved) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Named arrays and plain data. Orbax does not write empty arrays, so their shapes are stored with the data."""
    record = saved.record
    arrays = {f"state{i:04d}": leaf for i, leaf in enumerate(saved.leaves)}
    arrays |= {f"metric{i:04d}": rows for i, rows in enumerate(record.metrics.values())}
    arrays |= {"runs": record.runs.pairs, "keys": saved.keys, "evaluations": record.eval_returns}
    if saved.final is not None:
        arrays["final"] = saved.final
    for lane, frozen in record.diverged.items():
        arrays |= {f"frozen{lane:06d}.{i:04d}": counter for i, counter in enumerate(frozen.counters)}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    about = {
        **saved.about,
        "format": FORMAT,
        "updates": record.updates,
        "env_steps": record.env_steps,
        "seconds": record.seconds,
        "eval_updates": list(record.eval_updates),
        "eval_steps": list(record.eval_steps),
        "diverged": [[lane, frozen.update, frozen.env_steps] for lane, frozen in record.diverged.items()],
        "metrics": list(record.metrics),
        "axes": saved.axes,
        "lanes": saved.lanes,
        "rung": saved.rung,
        "arrays": {name: [list(array.shape), array.dtype.name] for name, array in arrays.items()},
        "checksum": _checksum(arrays),
    }
    return {name: array for name, array in arrays.items() if array.size}, about


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), zlib.crc32(name.encode(), total))
    return total


def _read(path: pathlib.Path) -> Saved:
    from orbax import checkpoint as orbax

    try:
        with orbax.Checkpointer(orbax.CompositeCheckpointHandler()) as checkpointer:
            args = orbax.args.Composite(about=orbax.args.JsonRestore())
            about = checkpointer.restore(path.absolute(), args=args).about
            if about["format"] != FORMAT:
                writer = about.get("versions", {}).get("rljax", "another version")
                raise UsageError(
                    f"{path} has format {about['format']}, and this rljax reads format {FORMAT}: "
                    f"use the one that wrote it ({writer})."
                )
            args = orbax.args.Composite(arrays=orbax.args.PyTreeRestore())
            stored = checkpointer.restore(path.absolute(), args=args).arrays or {}
        arrays = {}
        for name, (shape, kind) in about["arrays"].items():
            array = np.asarray(stored[name]) if name in stored else np.zeros(shape, kind)
            arrays[name] = array.astype(kind, copy=False).reshape(shape)
        if _checksum(arrays) != about["checksum"]:
            raise _Damaged("its checksum does not match")
        return _unpacked(arrays, about)
    except (UsageError, _Damaged):
        raise
    except Exception as error:  # a damaged file can raise anything
        raise _Damaged(_reason(error)) from None


def _unpacked(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Saved:
    record = Record(Runs.of(arrays["runs"]))
    metrics = {name: arrays[f"metric{i:04d}"] for i, name in enumerate(about["metrics"])}
    record.chunks = [metrics] if metrics else []
    record.updates, record.env_steps, record.seconds = about["updates"], about["env_steps"], about["seconds"]
    record.eval_updates, record.eval_steps = about["eval_updates"], about["eval_steps"]
    record.evaluations = list(arrays["evaluations"].T)
    for lane, update, env_steps in about["diverged"]:
        counters = [arrays[name] for name in sorted(arrays) if name.startswith(f"frozen{lane:06d}.")]
        record.diverged[lane] = Diverged(update, env_steps, counters)
    leaves = [arrays[name] for name in sorted(arrays) if name.startswith("state")]
    return Saved(
        record, leaves, about["axes"], arrays["keys"], arrays.get("final"), about["lanes"], about, about["rung"]
    )
