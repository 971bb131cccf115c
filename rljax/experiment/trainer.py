"""Training an experiment: batch after batch within the memory there is, saved along the way."""

import dataclasses
import itertools
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend import devices
from rljax.errors import UsageError
from rljax.experiment import batching, checkpoints, compilation, halving, loop, placement, processes, sweeps
from rljax.experiment.batching import Batch, batches
from rljax.experiment.history import Record
from rljax.experiment.interrupts import interrupts
from rljax.experiment.output import write, write_curves
from rljax.experiment.results import Interrupted, Result, Sweep, Trained, result_of
from rljax.experiment.spec import Experiment
from rljax.report import console

_MOST_UPDATES = 1024  # of one call of `advance`: what its metrics hold

_EVALUATION_BATCH = 20  # episodes side by side; a larger evaluation calls the same program again


@dataclasses.dataclass
class _Done:
    """What has been trained; it outlives an error in what comes next."""

    trained: list[Trained] = dataclasses.field(default_factory=list)
    compile_seconds: float = 0.0


def states_of(experiment: Experiment, saved: checkpoints.Saved, lanes: int) -> tuple[Any, Any]:
    """The states that a batch's checkpoint holds, over so many lanes, and their axes."""
    config = experiment.points[saved.record.runs[0, 0]].config
    like = jax.eval_shape(experiment.algorithm.init, jax.random.key(0), config)
    return placement.restore(saved.leaves, saved.axes, like, lanes)


def train(experiment: Experiment, saved: list[checkpoints.Saved], peers: processes.Peers) -> Result | Sweep:
    """Train batch after batch, and put together and write what comes out."""
    groups = sweeps.groups(list(experiment.points))
    runs = len(experiment.points) * experiment.seeds
    updates = sum(experiment.updates(group) for group in groups)
    if experiment.progress and experiment.fields:
        _say_plan(experiment, groups)
    pending = batches(experiment, groups, saved, peers.processes)
    if not peers.is_alone:
        pending = [batch for batch in pending if not batch.is_done(experiment)][peers.process :: peers.processes]
        updates = sum(len(batch.runs) * batch.until(experiment) for batch in pending)
    pending = [part for batch in pending for part in batching.in_turn(experiment, batch)]
    numbers = itertools.count(max((int(one.place) for one in saved), default=-1) + 1 + peers.process, peers.processes)
    with interrupts() as pressed:

        def interrupted() -> bool:
            return pressed() or peers.lost() is not None

        peers.reach(processes.READ)
        peers.wait(processes.READ, pressed)  # nobody writes before all have read the same
        so_far = _Done()
        try:
            with console.progress_bar(f"{experiment.title} x {runs}", max(updates, 1), experiment.progress) as show:
                shared = devices.available_bytes(experiment.mesh.devices.flat, experiment.memory_limit, peers.here)
                _train_batches(experiment, pending, so_far, numbers, shared, show, interrupted)
        except Exception as error:
            if peers.is_alone and experiment.folder is not None:
                _keep(experiment, experiment.folder, groups, pending, so_far, error)
            raise
        trained = so_far.trained if peers.is_alone else _merged(experiment, groups, peers, pressed)
        result = result_of(experiment, trained, so_far.compile_seconds, peers.processes)
        if peers.process == 0:
            try:
                if experiment.folder is not None:
                    write(experiment, experiment.folder, result, trained)
            finally:
                if experiment.progress:
                    console.print_summary(result.summary)
        if pressed() or (interrupted() and result.summary["interrupted"]):
            finished = sum(len(t.record.runs) * t.record.updates for t in trained)
            waiting = runs - sum(len(t.record.runs) for t in trained)
            mean = " on average" if waiting or len({t.record.updates for t in trained}) > 1 else ""
            mean += f", {waiting:,} of {runs:,} runs not begun" if waiting else ""
            kept = "" if experiment.folder is None else f"; what is done is in {experiment.folder}"
            if experiment.checkpoint_every is not None and result.summary["interrupted"]:
                kept += f", and `rljax resume {experiment.folder}` goes on"
            raise Interrupted(f"stopped after {finished // runs:,} of {updates // runs:,} updates{mean}{kept}.", result)
    return result


def _keep(
    experiment: Experiment,
    folder: pathlib.Path,
    groups: list[sweeps.Group],
    pending: list[Batch],
    so_far: _Done,
    error: Exception,
) -> None:
    """Write what was done before an error, and say so in a note on it."""
    try:
        runs = {tuple(run) for t in so_far.trained for run in t.record.runs.tolist()}
        in_memory = [batch.saved for batch in pending if batch.saved is not None]
        saved = in_memory if experiment.checkpoint_every is None else checkpoints.load(folder)
        planned = batches(experiment, groups, saved)
        others = [batch for batch in planned if runs.isdisjoint(map(tuple, batch.runs.tolist()))]
        trained = [*so_far.trained, *_begun(experiment, others)]
        if not trained:
            return
        write(experiment, folder, result_of(experiment, trained, so_far.compile_seconds), trained)
    except Exception as failure:  # whatever it is, it must not hide the error
        error.add_note(f"What was done before could not be written ({failure}).")
        return
    done, whole = sum(len(t.record.runs) for t in trained), len(experiment.points) * experiment.seeds
    goes_on = "" if experiment.checkpoint_every is None else f", and `rljax resume {folder}` goes on"
    error.add_note(f"What was done before, of {done:,} of {whole:,} runs, is in {folder}{goes_on}.")


def _begun(experiment: Experiment, pending: list[Batch]) -> list[Trained]:
    """Of batches to come what their checkpoints hold: nothing of one before its first update."""
    begun = [batch for batch in pending if batch.saved is not None and batch.saved.record.updates]
    return [_from_checkpoint(experiment, batch)[0] for batch in begun]


def _merged(
    experiment: Experiment, groups: list[sweeps.Group], peers: processes.Peers, pressed: Callable[[], bool]
) -> list[Trained]:
    """What all processes have trained, once all have: as their checkpoints in the folder hold it.

    Raises:
        Interrupted: Ctrl-C.
        PeerLost: another process died or stopped, or could not write.
    """
    assert experiment.folder is not None
    goes_on = f"start all processes again with `rljax resume {experiment.folder}`."
    if not pressed() and peers.lost() is None:
        peers.reach(processes.DONE)
        peers.wait(processes.DONE, pressed)
    if pressed():
        raise Interrupted(f"stopped; what is done is saved: {goes_on}", None)
    if peers.lost() is not None:
        raise processes.PeerLost(f"{peers.lost()} What is done is saved: {goes_on}")
    saved = checkpoints.load(experiment.folder)
    for one in saved:
        experiment.check_own(one)
    merged = batches(experiment, groups, saved)
    if not all(batch.is_done(experiment) for batch in merged):
        raise processes.PeerLost(f"Not every process could write what it trained: make room, and {goes_on}")
    return [_from_checkpoint(experiment, batch)[0] for batch in merged]


def _train_batches(
    experiment: Experiment,
    pending: list[Batch],
    so_far: _Done,
    numbers: Iterator[int],
    available: int | None,
    show: console.Progress,
    interrupted: Callable[[], bool],
) -> None:
    """Train the batches, those that they are split into, and those of the runs that a rung leaves.

    Each is in `pending` until it is done, and then in `so_far`; an error leaves its batch the first that is pending.
    """
    trained = so_far.trained
    last: checkpoints.Saved | None
    while pending and not (trained and interrupted()):
        batch = pending[0]
        try:
            if batch.is_done(experiment):
                done, last = _from_checkpoint(experiment, batch)
            else:
                started = time.perf_counter()
                compiled = _compile(experiment, batch)
                so_far.compile_seconds += time.perf_counter() - started
                lanes = batching.lanes_that_fit(experiment, batch, compiled.programs.memory, available)
                if lanes < batch.lanes:
                    pending[:1] = batching.split(experiment, batch, lanes, compiled.programs.memory, available)
                    continue
                if experiment.progress and experiment.fields and not _is_known(batch, trained):
                    _say_batch(experiment, batch, compiled, available, [] if trained else pending[1:])
                batch = batch._replace(place=batch.place or f"{next(numbers):04d}")
                done, last = _train_batch(experiment, batch, compiled, trained, pending[1:], show, interrupted)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            pending[:1] = batching.halved(experiment, batch)
            if experiment.folder is not None and batch.place:
                shutil.rmtree(batch.folder(experiment), ignore_errors=True)
            continue
        survivors: list[Batch] = []
        if experiment.halving is not None and not batch.dropped and not interrupted():
            assert last is not None
            done, survivors = halving.select(experiment, batch, done, last, numbers)
        pending[:1] = survivors
        trained.append(done)
    trained += _begun(experiment, pending)  # where an interrupt ended it
    if any(t.record.updates for t in trained):  # one that was interrupted before its first update is none of them
        trained[:] = [t for t in trained if t.record.updates]


def _is_known(batch: Batch, trained: list[Trained]) -> bool:
    """Whether one like it has been trained, of which it was said what it takes."""
    return any(t.batch.group is batch.group and t.batch.lanes == batch.lanes for t in trained)


def _from_checkpoint(experiment: Experiment, batch: Batch) -> tuple[Trained, checkpoints.Saved]:
    """A batch as its checkpoint holds it; its final returns are NaN where it was saved on the way there."""
    saved = batch.saved
    assert saved is not None
    states, axes = states_of(experiment, saved, len(batch.runs))
    states = jax.tree.map(_on_host, placement.stacked(states, axes, saved.record))
    final = np.full((len(batch.runs), 1), np.nan) if saved.final is None else saved.final
    num_updates = saved.record.updates if batch.dropped else batch.num_updates(experiment)
    return Trained(batch, saved.record, states, final, num_updates), saved


def _say_plan(experiment: Experiment, groups: list[sweeps.Group]) -> None:
    points, seeds = len(experiment.points), experiment.seeds
    compiles = f"{len(groups)} compiled program{'s' * (len(groups) > 1)}"
    console.say(f"{points} configurations x {seeds} seeds = {points * seeds} runs, by {compiles}.")


def _say_batch(
    experiment: Experiment, batch: Batch, compiled: "_Compiled", available: int | None, others: list[Batch]
) -> None:
    """What a batch will take: memory by the compiler, time by one update that is thrown away; and at first all of them.

    The others are taken to need as long for an update of a run as this one.
    """
    built, lanes, _ = compiled
    keys, states = loop.wait(built.init, lanes.keys, lanes.config)
    started = time.perf_counter()
    loop.wait(built.advance, keys.updates, states, lanes.config, np.int32(0), np.int32(1))
    seconds = (time.perf_counter() - started) * batch.until(experiment)
    work = [len(one.runs) * one.until(experiment) for one in (batch, *others)]
    whole = f", all {len(work)} batches about {console.duration(seconds * sum(work) / work[0])}" if others else ""
    there = "" if available is None else f" of the {devices.readable(available)} there are"
    console.say(
        f"{len(batch.runs)} runs of {batch.until(experiment):,} updates side by side: "
        f"{devices.readable(built.memory)}{there} on each of {experiment.mesh.size} devices, "
        f"about {console.duration(seconds)} and the evaluations{whole}."
    )


class _Compiled(NamedTuple):
    programs: compilation.Programs
    lanes: placement.Lanes
    capacity: int


def _compile(experiment: Experiment, batch: Batch) -> _Compiled:
    num_updates = batch.num_updates(experiment)
    lanes = placement.lanes(batch.group, batch.runs, batch.lanes, experiment.keys)
    capacity = min(int(np.diff([0, *experiment.marks(num_updates), num_updates]).max()), _MOST_UPDATES)
    episodes = min(experiment.eval_episodes, _EVALUATION_BATCH)
    built = compilation.build(
        experiment.algorithm, lanes.config, lanes.axes, lanes.keys, experiment.mesh, capacity, episodes
    )
    return _Compiled(built, lanes, capacity)


def _train_batch(
    experiment: Experiment,
    batch: Batch,
    compiled: _Compiled,
    earlier: list[Trained],
    later: list[Batch],
    show: console.Progress,
    interrupted: Callable[[], bool],
) -> tuple[Trained, checkpoints.Saved | None]:
    """One batch to its final evaluation, earlier when interrupted: its outcome, and what a rung goes on from."""
    built, lanes, capacity = compiled
    num_updates, saved = batch.num_updates(experiment), batch.saved
    # A copy, so that what is saved stays as it is where an error ends the batch.
    record = Record(batch.runs) if saved is None else saved.record.rows(np.arange(len(batch.runs)))
    before = sum(len(t.record.runs) * t.record.updates for t in earlier)
    written = time.perf_counter()

    def landed(record: Record) -> None:
        rate = len(record.runs) * record.env_steps / record.seconds
        show(before + len(record.runs) * record.updates, rate, record.latest_return)

    def evaluated(record: Record) -> None:
        if experiment.folder is not None and experiment.is_first:
            saved_ones = (one.saved.record for one in later if one.saved is not None)
            write_curves(experiment, experiment.folder, [*(t.record for t in earlier), record, *saved_ones])

    def taken(states: Any, final: np.ndarray | None = None) -> checkpoints.Saved:
        leaves, axes = placement.capture(states, built.axes, len(batch.runs))
        data = np.asarray(jax.random.key_data(keys.updates))[: len(batch.runs)]
        return checkpoints.Saved(record, leaves, axes, data, final, batch.lanes, experiment.about, batch.rung)

    def safe(record: Record, states: Any) -> None:
        nonlocal written
        every = experiment.checkpoint_every
        if every is not None and time.perf_counter() - written >= every:
            batching.save(experiment, batch, taken(states))
            written = time.perf_counter()

    hooks = loop.Hooks(landed, evaluated, safe, interrupted)
    keys, *start = loop.wait(built.init, lanes.keys, lanes.config)
    if saved is not None:
        data = np.asarray(jax.random.key_data(keys.updates))[: len(batch.runs)]
        if not np.array_equal(data, saved.keys):
            raise UsageError("JAX makes other keys here than where this run was begun: check jax_default_prng_impl.")
        start = [states_of(experiment, saved, len(lanes.keys))[0]]
    until = batch.until(experiment)
    marks = tuple(u for u in experiment.marks(num_updates, record.eval_updates) if u <= until)
    states = loop.train(built, lanes, keys, start, record, marks, until, capacity, hooks)
    episodes = experiment.eval_episodes
    saves = experiment.checkpoint_every is not None
    stopped = interrupted()  # asked once: what comes while the end is evaluated does not stop it any more
    if stopped:
        episodes = min(episodes, _EVALUATION_BATCH)
        if saves:
            batching.save(experiment, batch, taken(states))
    final = loop.evaluate(built, lanes, keys, states, len(batch.runs), episodes)
    last = taken(states, final) if saves or experiment.halving is not None else None
    if saves and not stopped:
        assert last is not None
        batching.save(experiment, batch, last)
    states = placement.stacked(states, built.axes, record)
    if len(batch.runs) < len(experiment.points) * experiment.seeds:  # the devices are for the batches to come
        states = jax.tree.map(_on_host, states)
    return Trained(batch, record, states, final, num_updates), last


def _on_host(x: jax.Array) -> Any:
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
