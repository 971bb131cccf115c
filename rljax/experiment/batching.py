"""Batches of runs: which runs are trained side by side, and how they are split to fit into memory."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from rljax.backend import devices
from rljax.errors import UsageError
from rljax.experiment import compilation, halving
from rljax.experiment.checkpoints import Saved
from rljax.experiment.history import Runs
from rljax.experiment.spec import Experiment
from rljax.experiment.sweeps import Group
from rljax.report import console

_SMALLER = "lower buffer_size, num_envs, num_steps or the network's size"  # if one run does not fit


class Batch(NamedTuple):
    """Runs that are trained side by side by one compiled program."""

    group: Group
    runs: Runs
    lanes: int  # one per run, and a few more if the runs do not divide over the devices
    saved: Saved | None = None
    rung: int = 0  # of successive halving
    task: int = 0  # number of the task that it is a part of; see `schedule`
    dropped: bool = False  # at its rung
    folder_name: str = ""  # name of its folder of checkpoints; empty before it begins

    def split(self, lanes: int, devices: int) -> list["Batch"]:
        """Batches of at most `lanes` lanes, all of one layout, so one program trains them."""
        parts = -(-len(self.runs) // lanes)
        size = -(-len(self.runs) // parts)
        starts = range(0, len(self.runs), size)
        return [self._replace(runs=self.runs[first : first + size], lanes=lanes_for(size, devices)) for first in starts]

    def num_updates(self, experiment: Experiment) -> int:
        """Updates of a whole run."""
        return experiment.points[self.runs.configurations[0]].config.num_updates

    def rungs(self, experiment: Experiment) -> list[tuple[int, int]]:
        """The rungs of the batch's configurations, as `halving.rungs` gives them."""
        return halving.rungs(len(self.group.points), self.num_updates(experiment), experiment.options.halving)

    def rung_start(self, experiment: Experiment) -> int:
        """The number of updates at which its rung starts."""
        return self.rungs(experiment)[self.rung - 1][0] if self.rung else 0

    def last_update(self, experiment: Experiment) -> int:
        """The number of updates at which it ends: those of a whole run, or of its rung."""
        rungs = self.rungs(experiment)
        return rungs[self.rung][0] if self.rung < len(rungs) else self.num_updates(experiment)

    def is_done(self, experiment: Experiment) -> bool:
        """True if a checkpoint holds its end."""
        if self.saved is None or self.saved.final is None:
            return False
        record = self.saved.record
        return record.is_solved or record.updates >= self.last_update(experiment)


def lanes_for(runs: int, devices: int) -> int:
    """The lanes for this many runs: rounded up to a multiple of the devices."""
    return -(-runs // devices) * devices


def group_updates(experiment: Experiment, group: Group) -> int:
    """Updates of all runs of a group together."""
    num_updates = experiment.points[group.points[0]].config.num_updates
    options = experiment.options
    return options.seeds * halving.total_updates(len(group.points), num_updates, options.halving)


def latest(
    experiment: Experiment, groups: list[Group], saved: list[Saved], without: Iterable[tuple[int, int]] = ()
) -> list[Batch]:
    """Batches from checkpoints, with every run only in the last of its rungs; a configuration's seeds in order.

    Runs in `without` are left out.
    """
    group_of = {point: group for group in groups for point in group.points}
    found: list[Batch] = []
    begun = set(without)
    for one in sorted(saved, key=lambda one: -one.rung):
        rows = [i for i, run in enumerate(one.record.runs) if run not in begun]
        if not rows:
            continue
        begun.update(one.record.runs)
        part = one if len(rows) == len(one.record.runs) else one.rows(np.array(rows))
        group = group_of[int(part.record.runs.configurations[0])]
        lanes, dropped = lanes_for(one.lanes, experiment.lane_devices), part is not one
        found.append(
            Batch(group, part.record.runs, lanes, part, one.rung, dropped=dropped, folder_name=one.folder_name)
        )
    return sorted(found, key=lambda batch: next(iter(batch.runs)))


def split_for_speed(experiment: Experiment, batch: Batch) -> list[Batch]:
    """Split a batch if its parts are faster one after the other; not if it has begun or will be compared at rungs.

    Raises:
        UsageError: the state of one run is larger than a device's memory.
    """
    config = experiment.points[batch.runs.configurations[0]].config
    state = jax.eval_shape(experiment.algorithm.init, jax.random.key(0), config)
    refuse_too_large(experiment, batch, compilation.bytes_of(state) * batch.lanes // experiment.devices)
    if batch.saved is not None or experiment.options.halving is not None:
        return [batch]
    at_once = compilation.side_by_side(state, batch.lanes, experiment.local_mesh)
    if at_once == batch.lanes:
        return [batch]
    parts = batch.split(at_once, experiment.lane_devices)
    if experiment.options.progress:
        console.say(
            f"{len(batch.runs)} runs with replay buffers this large are slow side by side on a CPU: {len(parts)} "
            f"batches of {len(parts[0].runs)}, one after the other."
        )
    return parts


def lanes_that_fit(experiment: Experiment, batch: Batch, needed: int, available: int | None) -> int:
    """The number of a batch's lanes that fit into each device's memory, given the bytes that all of them need there.

    One lane per device is always tried, since more memory may be free by then, unless it exceeds the limit.

    Raises:
        UsageError: one run per device needs more than its share of `memory_limit`.
    """
    if batch.saved is not None:
        refuse_too_large(experiment, batch, needed)
    if available is None or needed <= available or batch.saved is not None:
        return batch.lanes
    per_device = batch.lanes // experiment.lane_devices
    limit = experiment.options.memory_bytes
    if per_device == 1 and limit is not None and needed > limit // experiment.devices:
        raise UsageError(
            f"One run needs {devices.readable(needed)} on each of {experiment.devices} devices, and memory_limit is "
            f"{devices.readable(limit)} for all of them: raise it, or {_SMALLER}."
        )
    if per_device == 1:
        refuse_too_large(experiment, batch, needed)
    return max(min(int(per_device * available / needed), per_device - 1), 1) * experiment.lane_devices


def _no_longer_fits(batch: Batch) -> UsageError:
    return UsageError(
        f"The {len(batch.runs)} runs of batch {batch.folder_name} no longer fit into memory side by side: "
        "their checkpoint is kept; resume when as much memory is free as before."
    )


def refuse_too_large(experiment: Experiment, batch: Batch, needed: int) -> None:
    """Refuse a batch of one run per device, or one that has begun, that needs more bytes than a device has.

    The system would end the process while it trains.
    """
    total = devices.total_bytes(experiment.local_mesh.local_devices)
    if total is None or needed <= total:
        return
    if batch.saved is not None:
        raise _no_longer_fits(batch)
    if batch.lanes == experiment.lane_devices:
        fewer = ", or use devices=1" if total < needed <= total * experiment.lane_devices else ""
        raise UsageError(
            f"One run needs {devices.readable(needed)} on each of {experiment.devices} devices, which have "
            f"{devices.readable(total)} each: {_SMALLER}{fewer}."
        )


def split_in_two(experiment: Experiment, batch: Batch) -> list[Batch]:
    """Split a batch that ran out of memory."""
    if batch.saved is not None:
        raise _no_longer_fits(batch)
    if batch.lanes <= experiment.lane_devices:
        raise UsageError(f"One run needs more memory than a device has: {_SMALLER}.")
    _refuse_split(experiment)
    half = batch.split(-(-batch.lanes // 2), experiment.lane_devices)
    half[0] = half[0]._replace(folder_name=batch.folder_name)
    console.say(f"{len(batch.runs)} runs at once do not fit into memory: continuing with {len(half[0].runs)}.")
    return half


def split_to_fit(experiment: Experiment, batch: Batch, lanes: int, needed: int, available: int | None) -> list[Batch]:
    """Split a batch that needs more bytes than are available into parts of `lanes` lanes."""
    _refuse_split(experiment)
    parts = batch.split(lanes, experiment.lane_devices)
    console.say(
        f"{len(batch.runs)} runs at once need {devices.readable(needed)} on each device, and "
        f"{devices.readable(available or 0)} is available: training {len(parts)} batches of {len(parts[0].runs)}, "
        "one after the other."
    )
    return parts


def _refuse_split(experiment: Experiment) -> None:
    if experiment.options.halving is not None:
        raise UsageError("Successive halving needs its runs side by side, and they do not fit into memory: use fewer.")


def say_plan(experiment: Experiment, groups: list[Group]) -> None:
    """Report how many runs there are."""
    points, seeds = len(experiment.points), experiment.options.seeds
    count = len(groups) if experiment.space is None else 1
    by = f", by {count} compiled program{'s' * (count > 1)}"
    if experiment.space is not None:
        by += f", in {len(groups)} batches of {experiment.search_batch} configurations"
    console.say(f"{points} configurations x {seeds} seeds = {points * seeds} runs{by}.")


def say_where_halving_does_nothing(experiment: Experiment, groups: list[Group]) -> None:
    """Report configurations that successive halving never compares."""
    factor = experiment.options.halving
    for group in groups:
        num_updates, count = experiment.points[group.points[0]].config.num_updates, len(group.points)
        if not halving.rungs(count, num_updates, factor):
            why = "it shares its compiled program with no other" if count == 1 else f"it has {num_updates:,} updates"
            which = f"Configuration {group.points[0]} is" if count == 1 else f"{count} configurations are"
            console.say(f"{which} trained in full length, without halving={factor}, since {why}.")
