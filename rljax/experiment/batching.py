"""Batches within memory: in parts where they do not fit, or are faster one after the other."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from rljax.backend import devices
from rljax.errors import UsageError
from rljax.experiment import checkpoints, compilation, sweeps
from rljax.experiment.spec import Experiment
from rljax.report import console


class Batch(NamedTuple):
    """Runs that are trained side by side by one compiled program."""

    group: sweeps.Group
    runs: np.ndarray  # [R, 2] configuration and seed of each
    lanes: int  # as many as there are runs, and a few more where these do not divide over the devices
    saved: checkpoints.Saved | None = None
    rung: int = 0  # of successive halving
    dropped: bool = False  # at its rung
    place: str = ""  # name of its folder of checkpoints; none before it begins

    def split(self, lanes: int, devices: int) -> list["Batch"]:
        """Batches of at most so many lanes, all laid out alike so that one program trains them."""
        parts = -(-len(self.runs) // lanes)
        size = -(-len(self.runs) // parts)
        runs = [self.runs[first : first + size] for first in range(0, len(self.runs), size)]
        return [Batch(self.group, part, divided(size, devices)) for part in runs]

    def num_updates(self, experiment: Experiment) -> int:
        """Of a whole run."""
        return experiment.points[self.runs[0, 0]].config.num_updates

    def until(self, experiment: Experiment) -> int:
        """Updates at which it ends: those of a whole run, or of its rung."""
        whole = self.num_updates(experiment)
        rungs = experiment.rungs(self.group, whole)
        return rungs[self.rung][0] if self.rung < len(rungs) else whole

    def is_done(self, experiment: Experiment) -> bool:
        """Whether a checkpoint holds its end."""
        saved = self.saved
        if saved is None or saved.final is None:
            return False
        return self.dropped or saved.record.updates >= self.until(experiment)

    def folder(self, experiment: Experiment) -> pathlib.Path:
        """Where its checkpoints are."""
        assert experiment.folder is not None
        return experiment.folder / checkpoints.FOLDER / self.place


def divided(runs: int, devices: int) -> int:
    """The lanes of so many runs: a few more where they do not divide over the devices."""
    return -(-runs // devices) * devices


def batches(
    experiment: Experiment, groups: list[sweeps.Group], saved: list[checkpoints.Saved], parts: int = 1
) -> list[Batch]:
    """Those that have checkpoints, and those of the runs that have none, a group's in so many parts."""
    devices = experiment.lane_devices
    group_of = {point: group for group in groups for point in group.points}
    planned: list[Batch] = []
    begun: set[tuple[int, int]] = set()
    for one in reversed(saved):  # a later batch goes on with what an earlier one's rung has left
        runs = [tuple(run) for run in one.record.runs.tolist()]
        rows = np.array([i for i, run in enumerate(runs) if run not in begun])
        begun.update(runs)
        part = one if len(rows) == len(runs) else one.rows(rows)
        group = group_of[int(part.record.runs[0, 0])]
        lanes, dropped = divided(one.lanes, devices), part is not one
        planned.insert(0, Batch(group, part.record.runs, lanes, part, one.rung, dropped, one.place))
    for group in groups:
        runs = [(point, seed) for point in group.points for seed in range(experiment.seeds)]
        left = [run for run in runs if run not in begun]
        if not left:
            continue
        # Those of a group that was split are laid out as its first batch was: other shapes would round otherwise.
        like = next((batch for batch in planned if batch.group is group), None)
        each = -(-len(left) // parts)
        size, lanes = (each, divided(each, devices)) if like is None else (len(like.runs), like.lanes)
        planned += [Batch(group, np.array(left[i : i + size]), lanes) for i in range(0, len(left), size)]
    return sorted(planned, key=lambda batch: tuple(batch.runs[0]))  # a configuration's seeds in their order


_SMALLER = "lower buffer_size, num_envs, num_steps or the network's size"  # where one run does not fit


def in_turn(experiment: Experiment, batch: Batch) -> list[Batch]:
    """A batch in parts where they are faster one after the other; whole where it has begun or is to be compared."""
    if batch.saved is not None or experiment.halving is not None:
        return [batch]
    config = experiment.points[batch.runs[0, 0]].config
    state = jax.eval_shape(experiment.algorithm.init, jax.random.key(0), config)
    at_once = compilation.side_by_side(state, batch.lanes, experiment.mesh)
    if at_once == batch.lanes:
        return [batch]
    parts = batch.split(at_once, experiment.lane_devices)
    if experiment.progress:
        console.say(
            f"{len(batch.runs)} runs with replays this large are slow side by side on a CPU: {len(parts)} batches of "
            f"{len(parts[0].runs)}, one after the other."
        )
    return parts


def lanes_that_fit(experiment: Experiment, batch: Batch, memory: int, available: int | None) -> int:
    """How many lanes of a batch fit into each device's memory, given what all of them need there.

    One on each device is tried where more memory may turn up than seems to be there, and refused beyond a limit.

    Raises:
        UsageError: one run on each device needs more than its share of `memory_limit`.
    """
    if available is None or memory <= available or batch.saved is not None:
        return batch.lanes
    on_each = batch.lanes // experiment.lane_devices
    limit = experiment.memory_limit
    if on_each == 1 and limit is not None and memory > limit // experiment.mesh.size:
        raise UsageError(
            f"One run needs {devices.readable(memory)} on each of {experiment.mesh.size} devices, and memory_limit is "
            f"{devices.readable(limit)} for all of them: raise it, or {_SMALLER}."
        )
    return max(min(int(on_each * available / memory), on_each - 1), 1) * experiment.lane_devices


def halved(experiment: Experiment, batch: Batch) -> list[Batch]:
    """A batch that the devices' memory did not hold, in two."""
    if batch.saved is not None:
        raise UsageError(
            f"The {len(batch.runs)} runs of {batch.folder(experiment)} no longer fit into the memory side by side: "
            "their checkpoint is kept; go on where there is as much as before."
        )
    if batch.lanes <= experiment.lane_devices:
        raise UsageError(f"One run needs more memory than a device has: {_SMALLER}.")
    _refuse_split(experiment)
    half = batch.split(-(-batch.lanes // 2), experiment.lane_devices)
    half[0] = half[0]._replace(place=batch.place)
    console.say(f"{len(batch.runs)} runs at once are too many for the memory: going on with {len(half[0].runs)}.")
    return half


def split(experiment: Experiment, batch: Batch, lanes: int, memory: int, available: int | None) -> list[Batch]:
    """A batch that needs more memory than there is, in parts of so many lanes."""
    _refuse_split(experiment)
    parts = batch.split(lanes, experiment.lane_devices)
    console.say(
        f"{len(batch.runs)} runs at once need {devices.readable(memory)} of the {devices.readable(available or 0)} on "
        f"each device: {len(parts)} batches of {len(parts[0].runs)}, one after the other."
    )
    return parts


def _refuse_split(experiment: Experiment) -> None:
    if experiment.halving is not None:
        raise UsageError("Successive halving needs its runs side by side, and they do not fit into memory: use fewer.")


def save(experiment: Experiment, batch: Batch, saved: checkpoints.Saved) -> None:
    """Write a batch's checkpoint; what cannot be written is said, and the run goes on."""
    try:
        checkpoints.save(batch.folder(experiment), saved)
    except UsageError as error:
        console.say(f"{error} The run goes on.")
