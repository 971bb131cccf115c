"""The host's loop around the compiled programs of one batch, from its first update to its final evaluation."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from rljax import evaluation
from rljax.backend import controllers
from rljax.backend.lanes import shared_leaves
from rljax.experiment.compilation import Keys, Programs
from rljax.experiment.history import Frozen, Record, means
from rljax.experiment.interrupts import wait
from rljax.experiment.placement import Lanes
from rljax.report import console

_CHUNK_SECONDS = 0.5  # length of a chunk: the delay of an interrupt, and the period of the progress bar
_CALL_SECONDS = 0.1  # cost of a call besides its updates; if it is higher, chunks are longer in proportion


class Observer(Protocol):
    """Watches a batch while it trains."""

    def after_chunk(self, record: Record, states: Any) -> None:
        """Called after every chunk, with the states at that time."""

    def after_evaluation(self, record: Record, states: Any) -> None:
        """Called after every evaluation, with the states at that time; may freeze runs in the record."""

    def interrupted(self, record: Record) -> bool:
        """True if training should stop here."""


def train(
    programs: Programs,
    lanes: Lanes,
    keys: Keys,
    start: list[Any],
    record: Record,
    marks: tuple[int, ...],
    num_updates: int,
    capacity: int,
    observer: Observer,
) -> Any:
    """Run the remaining updates, in chunks of half a second or five times what a call costs, and evaluate in between.

    Args:
        programs: compiled for these lanes.
        lanes: the runs' configs.
        keys: the runs' keys.
        start: a list of one element, the states where `record` ends. It is emptied: a caller that kept a reference
            would keep a third copy of all replay buffers in memory.
        record: the history so far; it is extended.
        marks: numbers of updates at which to evaluate.
        num_updates: number of updates at which to stop: a whole run's, or its rung's.
        capacity: the most updates of a chunk.
        observer: called after every chunk and evaluation; can end training early.

    Returns:
        the states.
    """
    states = start.pop()
    # A call copies the states, since the old ones are needed if a run diverges: seconds for gigabytes of buffers.
    no_updates = (keys.updates, states, lanes.config, np.int32(record.updates), np.int32(0))
    call_seconds = min(_seconds(programs.advance, *no_updates) for _ in range(2))  # the first call may be slow
    chunk_seconds = _CHUNK_SECONDS * max(1.0, call_seconds / _CALL_SECONDS)
    del no_updates
    pace = 1.0
    for number, stop in enumerate((*marks, num_updates)):
        if number < len(record.eval_updates):
            continue
        while record.updates < stop and not observer.interrupted(record):
            count = controllers.first(int(min(max(pace, 1.0), stop - record.updates, capacity)))
            started = time.perf_counter()
            before, chunk = states, (np.int32(record.updates), np.int32(count))
            states, metrics, lasted = wait(programs.advance, keys.updates, before, lanes.config, *chunk)
            seconds = time.perf_counter() - started
            pace = min(4.0 * count, count * chunk_seconds / seconds)
            states = _freeze(programs, lanes, keys, before, states, metrics, record, np.asarray(lasted), count)
            record.add_chunk(metrics, count, seconds)
            observer.after_chunk(record, states)
        if record.updates < stop:
            break
        if number < len(marks):
            episodes = wait(programs.evaluate, keys.curve, states, lanes.config, np.int32(number))
            record.add_evaluation(np.asarray(episodes.returns), episodes.measures)
            observer.after_evaluation(record, states)
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
    """Hold frozen runs, and runs that diverge at their last finite states; the other runs do not change.

    A run that diverged in this chunk is repeated from the chunk's start to the last update before it did, with the
    same bits, so its final state does not depend on how the run was cut into chunks.
    """
    # Lanes beyond the runs are copies of the first ones, and freeze with them.
    frozen = np.isin(np.arange(len(lasted)) % len(record.runs), list(record.frozen))
    if frozen.any():
        states = wait(programs.keep, frozen, before, states)
    broken = (lasted < count) & ~frozen
    last, done = before, 0
    for position in np.unique(lasted[broken]).tolist():
        if position > done:
            chunk = (np.int32(record.updates + done), np.int32(position - done))
            last, _, _ = wait(programs.advance, keys.updates, last, lanes.config, *chunk)
            done = position
        diverged_here = broken & (lasted == position)
        states = wait(programs.keep, diverged_here, last, states)
        counters = [np.asarray(leaf) for leaf in shared_leaves(last, programs.axes)]
        for lane in np.flatnonzero(diverged_here[: len(record.runs)]).tolist():
            if position:
                env_steps = int(np.asarray(metrics["env_steps"])[lane, position - 1])
            else:
                env_steps = int(record.chunks[-1]["env_steps"][lane, -1]) if record.chunks else 0
            record.frozen[lane] = Frozen(record.updates + position, env_steps, counters)
    return states


def evaluate(programs: Programs, lanes: Lanes, keys: Keys, states: Any, record: Record, episodes: int) -> np.ndarray:
    """Evaluate the final policies: returns `[R, episodes]`, in as many calls as that takes; measures to the record."""
    batches: list[evaluation.Episodes] = []
    while sum(batch.returns.shape[1] for batch in batches) < episodes:
        played = wait(programs.evaluate, keys.final, states, lanes.config, np.int32(len(batches)))
        batches.append(jax.tree.map(lambda x: np.asarray(x)[: len(record.runs)], played))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *batches)
    if endless := int(np.sum(~whole.ended)):
        console.say(
            f"{endless:,} of {whole.ended.size:,} episodes of the final evaluation had not ended "
            f"after {evaluation.MAX_STEPS:,} steps, and count with their returns so far. To end an environment's "
            "episodes, wrap it: rljax.envs.time_limit(env, 1000)."
        )
    record.final_measures = means({name: rows[:, :episodes] for name, rows in whole.measures.items()}, len(record.runs))
    return whole.returns[:, :episodes]
