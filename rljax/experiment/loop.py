"""One batch of runs, from its keys to its final evaluation: the host's loop around the compiled programs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rljax import evaluation
from rljax.backend.lanes import flat
from rljax.experiment.compilation import Keys, Programs
from rljax.experiment.history import Diverged, Record
from rljax.experiment.interrupts import wait
from rljax.experiment.placement import Lanes
from rljax.report import console

_CHUNK_SECONDS = 0.5  # how long the driver is away: what an interrupt waits for, and how often the bar moves

_CALL_SECONDS = 0.1  # what a call may cost besides its updates; where it costs more, chunks are longer in proportion


class Hooks(NamedTuple):
    """What a batch tells of itself while it trains."""

    landed: Callable[[Record], None]  # after every chunk
    evaluated: Callable[[Record], None]  # after every evaluation
    safe: Callable[[Record, Any], None]  # after every chunk, with the states that go with the record
    interrupted: Callable[[], bool]


def train(
    programs: Programs,
    lanes: Lanes,
    keys: Keys,
    start: list[Any],
    record: Record,
    marks: tuple[int, ...],
    num_updates: int,
    capacity: int,
    hooks: Hooks,
) -> Any:
    """The updates that are left, in chunks of half a second or five times what a call costs, evaluations between them.

    Args:
        programs: compiled for these lanes.
        lanes: the runs' configs.
        keys: the runs' keys.
        start: of one element, the states as far as `record` has come. It is taken out: a caller that still held it
            would keep a third copy of all replays in memory.
        record: what has landed; it is added to.
        marks: numbers of updates at which to evaluate.
        num_updates: of a whole run.
        capacity: the most updates of a chunk.
        hooks: told of every chunk and evaluation; asked whether to end early.

    Returns:
        the states.
    """
    states = start.pop()
    # A call copies the states, as the ones before it are needed where a run diverges: seconds for gigabytes of replays.
    none = (keys.updates, states, lanes.config, np.int32(record.updates), np.int32(0))
    call_seconds = min(_seconds(programs.advance, *none) for _ in range(2))  # the first one may also set things up
    away = _CHUNK_SECONDS * max(1.0, call_seconds / _CALL_SECONDS)
    del none
    pace = 1.0
    for number, stop in enumerate((*marks, num_updates)):
        if number < len(record.eval_updates):
            continue
        while record.updates < stop and not hooks.interrupted():
            count = int(min(max(pace, 1.0), stop - record.updates, capacity))
            started = time.perf_counter()
            before, chunk = states, (np.int32(record.updates), np.int32(count))
            states, metrics, lasted = wait(programs.advance, keys.updates, before, lanes.config, *chunk)
            seconds = time.perf_counter() - started
            pace = min(4.0 * count, count * away / seconds)
            states = _freeze(programs, lanes, keys, before, states, metrics, record, np.asarray(lasted), count)
            record.landed(metrics, count, seconds)
            hooks.landed(record)
            hooks.safe(record, states)
        if hooks.interrupted():
            break
        if number < len(marks):
            returns, _ = wait(programs.evaluate, keys.curve, states, lanes.config, np.int32(number))
            record.evaluated(np.asarray(returns))
            hooks.evaluated(record)
    return states


def _seconds(program: Callable[..., Any], *arguments: Any) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    wait(program, *arguments)
    return time.perf_counter() - started


def _freeze(
    programs: Programs,
    lanes: Lanes,
    keys: Keys,
    before: Any,
    states: Any,
    metrics: Any,
    record: Record,
    lasted: np.ndarray,
    count: int,
) -> Any:
    """Hold runs that have diverged at their last finite states; the others go on untouched.

    A run that diverged in this chunk is led again from the chunk's start to the update before it did, which gives the
    same bits, so that where it stands does not depend on how the run was cut into chunks.
    """
    # Lanes beyond the runs are copies of the first ones, and share their fate.
    frozen = np.isin(np.arange(len(lasted)) % len(record.runs), list(record.diverged))
    if frozen.any():
        states = wait(programs.keep, frozen, before, states)
    broken = (lasted < count) & ~frozen
    last, done = before, 0
    for position in np.unique(lasted[broken]).tolist():
        if position > done:
            chunk = (np.int32(record.updates + done), np.int32(position - done))
            last, _, _ = wait(programs.advance, keys.updates, last, lanes.config, *chunk)
            done = position
        here = broken & (lasted == position)
        states = wait(programs.keep, here, last, states)
        leaves, axes, _ = flat(last, programs.axes)
        counters = [np.asarray(x) for x, axis in zip(leaves, axes, strict=True) if axis is None]
        for lane in np.flatnonzero(here[: len(record.runs)]).tolist():
            if position:
                env_steps = int(np.asarray(metrics["env_steps"])[lane, position - 1])
            else:
                env_steps = int(record.chunks[-1]["env_steps"][lane, -1]) if record.chunks else 0
            record.diverged[lane] = Diverged(record.updates + position, env_steps, counters)
    return states


def evaluate(programs: Programs, lanes: Lanes, keys: Keys, states: Any, runs: int, episodes: int) -> np.ndarray:
    """Returns `[R, episodes]` of the final greedy policies, in as many calls as it takes."""
    batches: list[np.ndarray] = []
    endless = 0
    while sum(batch.shape[1] for batch in batches) < episodes:
        returns, ended = wait(programs.evaluate, keys.final, states, lanes.config, np.int32(len(batches)))
        batches.append(np.asarray(returns)[:runs])
        endless += int(np.sum(~np.asarray(ended)[:runs]))
    if endless:
        console.say(
            f"{endless:,} of {sum(batch.size for batch in batches):,} episodes of the final evaluation had not ended "
            f"after {evaluation.MOST_STEPS:,} steps; their returns so far count. To give an environment an end, wrap "
            "it: rljax.envs.time_limit(env, 1000)."
        )
    return np.concatenate(batches, axis=1)[:, :episodes]
