"""Batches within memory: in parts where they do not fit, or are faster one after the other."""

import jax

from rljax import devices, programs
from rljax.errors import UsageError
from rljax.plan import Batch, Population
from rljax.report import console

_SMALLER = "lower buffer_size, num_envs, num_steps or the network's size"  # where one run does not fit


def in_turn(population: Population, batch: Batch) -> list[Batch]:
    """A batch in parts where they are faster one after the other; whole where it has begun or is to be compared."""
    if batch.saved is not None or population.halving is not None:
        return [batch]
    config = population.points[batch.runs[0, 0]].config
    state = jax.eval_shape(population.algorithm.init, jax.random.key(0), config)
    at_once = programs.side_by_side(state, batch.lanes, population.mesh)
    if at_once == batch.lanes:
        return [batch]
    parts = batch.split(at_once, population.lane_devices)
    if population.progress:
        console.say(
            f"{len(batch.runs)} runs with replays this large are slow side by side on a CPU: {len(parts)} batches of "
            f"{len(parts[0].runs)}, one after the other."
        )
    return parts


def lanes_that_fit(population: Population, batch: Batch, memory: int, available: int | None) -> int:
    """How many lanes of a batch fit into each device's memory, given what all of them need there.

    One on each device is tried where more memory may turn up than seems to be there, and refused beyond a limit.

    Raises:
        UsageError: one run on each device needs more than its share of `memory_limit`.
    """
    if available is None or memory <= available or batch.saved is not None:
        return batch.lanes
    on_each = batch.lanes // population.lane_devices
    limit = population.memory_limit
    if on_each == 1 and limit is not None and memory > limit // population.mesh.size:
        raise UsageError(
            f"One run needs {devices.readable(memory)} on each of {population.mesh.size} devices, and memory_limit is "
            f"{devices.readable(limit)} for all of them: raise it, or {_SMALLER}."
        )
    return max(min(int(on_each * available / memory), on_each - 1), 1) * population.lane_devices


def halved(population: Population, batch: Batch) -> list[Batch]:
    """A batch that the devices' memory did not hold, in two."""
    if batch.saved is not None:
        raise UsageError(
            f"The {len(batch.runs)} runs of {batch.folder(population)} no longer fit into the memory side by side: "
            "their checkpoint is kept; go on where there is as much as before."
        )
    if batch.lanes <= population.lane_devices:
        raise UsageError(f"One run needs more memory than a device has: {_SMALLER}.")
    _refuse_split(population)
    half = batch.split(-(-batch.lanes // 2), population.lane_devices)
    half[0] = half[0]._replace(place=batch.place)
    console.say(f"{len(batch.runs)} runs at once are too many for the memory: going on with {len(half[0].runs)}.")
    return half


def split(population: Population, batch: Batch, lanes: int, memory: int, available: int | None) -> list[Batch]:
    """A batch that needs more memory than there is, in parts of so many lanes."""
    _refuse_split(population)
    parts = batch.split(lanes, population.lane_devices)
    console.say(
        f"{len(batch.runs)} runs at once need {devices.readable(memory)} of the {devices.readable(available or 0)} on "
        f"each device: {len(parts)} batches of {len(parts[0].runs)}, one after the other."
    )
    return parts


def _refuse_split(population: Population) -> None:
    if population.halving is not None:
        raise UsageError("Successive halving needs its runs side by side, and they do not fit into memory: use fewer.")
