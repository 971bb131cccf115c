"""Checkpoints of an experiment, a folder of them for each batch: Orbax's arrays beside a few words of JSON, no code.

A checkpoint is written elsewhere and renamed when it is whole, and the last two are kept, so that a process can be
killed at any moment. A checksum tells one that was damaged later.
"""

import pathlib
import shutil
import zlib
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import UsageError
from rljax.experiment.history import Diverged, Record
from rljax.report import console

FORMAT = 1

FOLDER = "checkpoints"

_KEPT = 2


class Saved(NamedTuple):
    """A batch of R runs as it stood."""

    record: Record
    leaves: list[np.ndarray]  # of the states: `[R, ...]`, counters as they are
    axes: list[int | None]  # of each leaf: 0 where it is stacked over runs, None where it is one for all
    keys: np.ndarray  # [R, ...] key data of the runs' updates
    final: np.ndarray | None  # [R, episodes] returns of the final evaluation, once it was made
    lanes: int  # that the batch was laid out over
    about: dict[str, Any]  # what else was said of it: device, versions, the config's fingerprint
    rung: int = 0  # of successive halving
    place: str = ""  # name of the batch's folder

    def rows(self, rows: np.ndarray) -> "Saved":
        """Some of the runs."""
        return self._replace(
            record=self.record.rows(rows),
            leaves=[x if axis is None else x[rows] for x, axis in zip(self.leaves, self.axes, strict=True)],
            keys=self.keys[rows],
            final=None if self.final is None else self.final[rows],
        )


class _Damaged(Exception):
    """A checkpoint that cannot be used."""


def _batches(folder: pathlib.Path) -> list[pathlib.Path]:
    """The batches of an experiment that have checkpoints, in order."""
    return sorted(path for path in (folder / FOLDER).glob("[0-9]*") if path.is_dir())


def load(folder: pathlib.Path) -> list[Saved]:
    """The newest whole checkpoint of every batch that has one, in order."""
    return [saved for place in _batches(folder) if (saved := newest(place)) is not None]


def save(place: pathlib.Path, saved: Saved) -> None:
    """Write a batch's next checkpoint into its folder, whole or not at all, and let go of those before the last two.

    Raises:
        UsageError: it cannot be written; the earlier ones are as they were.
    """
    from orbax import checkpoint as orbax

    arrays, about = _packed(saved)
    part = place / ".part"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for stale in place.glob(".*"):
            shutil.rmtree(stale)
        numbers = _numbers(place)
        with orbax.Checkpointer(orbax.CompositeCheckpointHandler()) as checkpointer:
            whole = orbax.args.Composite(arrays=orbax.args.PyTreeSave(arrays), about=orbax.args.JsonSave(about))
            checkpointer.save(part.absolute(), args=whole)
        part.rename(place / f"{max(numbers, default=0) + 1:06d}")
        for number in numbers[: -_KEPT + 1]:
            (place / f"{number:06d}").rename(place / f".{number:06d}")
            shutil.rmtree(place / f".{number:06d}")
    except Exception as error:  # Orbax and TensorStore raise what they like
        shutil.rmtree(part, ignore_errors=True)
        why = getattr(error, "strerror", None) or _first_line(error)
        raise UsageError(f"No checkpoint could be written to {place} ({why}): the earlier ones are kept.") from None


def newest(place: pathlib.Path) -> Saved | None:
    """A batch's newest checkpoint that is whole, None where there is none yet.

    Raises:
        UsageError: there are checkpoints and none can be used, or another version wrote them.
    """
    troubles = []
    for number in reversed(_numbers(place)):
        try:
            saved = _read(place / f"{number:06d}")
        except _Damaged as error:
            troubles.append(f"{place / f'{number:06d}'} is no whole checkpoint of rljax ({error})")
            continue
        if troubles:
            console.say(f"{troubles[0]}: going on from {number:06d}, the one before.")
        return saved._replace(place=place.name)
    if troubles:
        raise UsageError(f"{troubles[0]}, and there is no other: start again in another folder.")
    return None


def _numbers(place: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in place.glob("[0-9]*") if path.name.isdigit())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".: ")


def _packed(saved: Saved) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is saved as named arrays and plain data. Orbax takes no arrays without elements: their shape says all."""
    record = saved.record
    arrays = {f"state{i:04d}": leaf for i, leaf in enumerate(saved.leaves)}
    arrays |= {f"metric{i:04d}": rows for i, rows in enumerate(record.metrics.values())}
    arrays |= {"runs": record.runs, "keys": saved.keys, "evaluations": record.eval_returns}
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
        "eval_updates": record.eval_updates,
        "eval_steps": record.eval_steps,
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
            raise _Damaged("its checksum does not fit")
        return _unpacked(arrays, about)
    except (UsageError, _Damaged):
        raise
    except Exception as error:  # whatever a damaged file makes of itself
        raise _Damaged(_first_line(error)) from None


def _unpacked(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Saved:
    record = Record(arrays["runs"])
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
