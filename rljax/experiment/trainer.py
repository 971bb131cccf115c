"""Train the batches of an experiment one after the other, within the available bytes, and save checkpoints."""

import dataclasses
import itertools
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from signal import SIGINT
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend import devices
from rljax.errors import UsageError
from rljax.experiment import batching, checkpoints, compilation, folders, halving, loop, placement, processes, sweeps
from rljax.experiment.batching import Batch, batches, group_updates, lanes_for
from rljax.experiment.checkpoints import Saved
from rljax.experiment.combining import Trained, result_of
from rljax.experiment.compilation import Keys, Programs
from rljax.experiment.history import Record
from rljax.experiment.interrupts import Pressed, interrupts, wait
from rljax.experiment.observer import Observer
from rljax.experiment.outlets import Callback, Outlets
from rljax.experiment.output import write
from rljax.experiment.progress import Progress
from rljax.experiment.results import Interrupted, Result, Sweep
from rljax.experiment.spec import Experiment
from rljax.report import console, live

_MAX_UPDATES = 1024  # of one call of `advance`, whose metrics it holds
_EVALUATION_BATCH = 20  # episodes side by side; a larger evaluation calls the same program again


@dataclasses.dataclass
class _Session:
    """One call of `train`: what it has trained, and what its batches share."""

    experiment: Experiment
    pending: list[Batch]  # until they are done; after an error the first one is the batch that failed
    numbers: Iterator[int]  # for the folders of batches
    available: int | None  # bytes of each device
    interrupted: Callable[[], bool]
    show: live.Show
    outlets: Outlets
    trained: list[Trained] = dataclasses.field(default_factory=list)
    compile_seconds: float = 0.0

    def stopped(self) -> bool:
        """True after a signal, after `Progress.stop`, or if another process was lost."""
        return self.outlets.stopped or self.interrupted()

    def records(self) -> tuple[list[Record], list[Record]]:
        """The history of the batches before and after the one that trains."""
        later = [one.saved.record for one in self.pending[1:] if one.saved is not None]
        return [t.record for t in self.trained], later

    def progress(self, record: Record, progress: Progress) -> None:
        """Show how far this batch is."""
        before = sum(len(t.record.runs) * t.record.updates for t in self.trained)

        def name(row: int) -> str:
            where = f"configuration {record.runs.configurations[row]}, " if self.experiment.fields else ""
            return f"{where}seed {record.runs.seeds[row]}"

        solved = sum(frozen.is_solved for frozen in record.frozen.values())
        self.show(
            live.Status(
                updates=before + len(record.runs) * record.updates,
                env_steps_per_second=progress.env_steps_per_second,
                training_return=progress.training_return,
                evaluations=record.evaluations,
                measures=record.eval_measures[-1] if record.eval_measures else {},
                policy=self.experiment.options.eval_policy,
                name=name,
                diverged=len(record.frozen) - solved,
                solved=solved,
            )
        )


def states_of(experiment: Experiment, saved: Saved, lanes: int) -> tuple[Any, Any]:
    """The states of a batch's checkpoint, over this many lanes, and their axes."""
    config = experiment.points[saved.record.runs.configurations[0]].config
    like = jax.eval_shape(experiment.algorithm.init, jax.random.key(0), config)
    return placement.restore(saved.leaves, saved.axes, like, lanes)


def train(
    experiment: Experiment, saved: list[Saved], peers: processes.Peers, callbacks: Sequence[Callback] = ()
) -> Result | Sweep:
    """Train all batches, and combine and write their results."""
    options, folder = experiment.options, experiment.folder
    groups = sweeps.groups(list(experiment.points))
    updates = sum(group_updates(experiment, group) for group in groups)
    if options.progress and experiment.fields:
        batching.say_plan(experiment, groups)
    if options.halving is not None:
        batching.say_where_halving_does_nothing(experiment, groups)
    pending = batches(experiment, groups, saved, peers.processes)
    if not peers.is_alone:
        pending = [batch for batch in pending if not batch.is_done(experiment)][peers.process :: peers.processes]
        updates = sum(len(batch.runs) * batch.last_update(experiment) for batch in pending)
    pending = [part for batch in pending for part in batching.split_for_speed(experiment, batch)]
    first_number = max((int(one.folder_name) for one in saved), default=-1) + 1 + peers.process
    with interrupts() as pressed:

        def interrupted() -> bool:
            return pressed() or peers.lost() is not None

        peers.reach(processes.READ)
        peers.wait(processes.READ, pressed)  # no process writes before all have read the same
        outlets = Outlets(experiment, updates, callbacks, peers.process)
        description = f"{experiment.title} x {experiment.num_runs}"
        with live.view(description, max(updates, 1), options.progress) as show:
            session = _Session(
                experiment=experiment,
                pending=pending,
                numbers=itertools.count(first_number, peers.processes),
                available=devices.available_bytes(experiment.mesh.devices.flat, options.memory_bytes, peers.num_local),
                interrupted=interrupted,
                show=show,
                outlets=outlets,
            )
            try:
                _train_batches(session)
            except Exception as error:
                outlets.finish({})
                if peers.is_alone and folder is not None:
                    outlets.flush()
                    _write_partial_results(session, folder, groups, error)
                raise
            finally:
                outlets.flush()
        trained = session.trained if peers.is_alone else _merged(experiment, groups, peers, pressed)
        result = result_of(experiment, trained, session.compile_seconds, peers.processes)
        if experiment.is_first:
            try:
                if folder is not None:
                    write(experiment, folder, result, [t.record for t in trained])
            finally:
                outlets.finish(result.summary)
                if options.progress:
                    console.print_summary(result.summary)
        if outlets.stopped and result.summary["interrupted"] and options.progress:
            console.say(_progress_sentence(experiment, trained, updates, result))
        if pressed() or (interrupted() and result.summary["interrupted"]):
            number = SIGINT if pressed.signal is None else pressed.signal
            raise Interrupted(_progress_sentence(experiment, trained, updates, result), result, number)
    return result


def _progress_sentence(experiment: Experiment, trained: list[Trained], updates: int, result: Result | Sweep) -> str:
    """A sentence about an interrupted experiment."""
    runs = experiment.num_runs
    finished = sum(len(t.record.runs) * t.record.updates for t in trained)
    waiting = runs - sum(len(t.record.runs) for t in trained)
    mean = " on average" if waiting or len({t.record.updates for t in trained}) > 1 else ""
    mean += f", {waiting:,} of {runs:,} runs not begun" if waiting else ""
    kept = "" if experiment.folder is None else f"; the results so far are in {experiment.folder}"
    if experiment.folder is not None and result.summary["interrupted"]:
        kept += f", and `rljax resume {experiment.folder}` continues it"
    return f"Stopped after {finished // runs:,} of {updates // runs:,} updates{mean}{kept}."


def _write_partial_results(
    session: _Session, folder: pathlib.Path, groups: list[sweeps.Group], error: Exception
) -> None:
    """Write the results so far after an error, and add a note to it."""
    experiment = session.experiment
    try:
        folders.require_same(folder)
        done = {run for t in session.trained for run in t.record.runs}
        saved = checkpoints.load(folder)
        others = [batch for batch in batches(experiment, groups, saved) if done.isdisjoint(batch.runs)]
        trained = [*session.trained, *_from_checkpoints(experiment, others)]
        if not trained:
            return
        result = result_of(experiment, trained, session.compile_seconds)
        write(experiment, folder, result, [t.record for t in trained])
    except Exception as failure:  # it must not hide the error
        error.add_note(f"The results so far could not be written ({failure}).")
        return
    runs = sum(len(t.record.runs) for t in trained)
    error.add_note(
        f"The results so far, of {runs:,} of {experiment.num_runs:,} runs, are in {folder}, and "
        f"`rljax resume {folder}` continues it."
    )


def _from_checkpoints(experiment: Experiment, pending: list[Batch]) -> list[Trained]:
    """The checkpoints of pending batches, except those before their first update."""
    begun = [batch for batch in pending if batch.saved is not None and batch.saved.record.updates]
    return [from_checkpoint(experiment, batch)[0] for batch in begun]


def _merged(
    experiment: Experiment, groups: list[sweeps.Group], peers: processes.Peers, pressed: Pressed
) -> list[Trained]:
    """What all processes have trained, from the checkpoints in the folder, once all are done.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP.
        PeerLost: another process died or stopped, or could not write.
    """
    assert experiment.folder is not None
    advice = f"start all processes again with `rljax resume {experiment.folder}`."
    if not pressed() and peers.lost() is None:
        peers.reach(processes.DONE)
        peers.wait(processes.DONE, pressed)
    if pressed.signal is not None:
        raise Interrupted(f"Stopped; the results so far are saved: {advice}", None, pressed.signal)
    if peers.lost() is not None:
        raise processes.PeerLost(f"{peers.lost()} The results so far are saved: {advice}")
    saved = checkpoints.load(experiment.folder)
    for one in saved:
        check_checkpoint(experiment, one)
    merged = batches(experiment, groups, saved)
    if not all(batch.is_done(experiment) for batch in merged):
        raise processes.PeerLost(f"Some processes could not write their results: free disk space, and {advice}")
    return [from_checkpoint(experiment, batch)[0] for batch in merged]


def check_checkpoint(experiment: Experiment, saved: Saved, trains: bool = True) -> None:
    """Refuse a checkpoint of another experiment; if it trains, report if the results will not be bit-identical."""
    if saved.about["fingerprint"] != experiment.about["fingerprint"]:
        raise UsageError(
            f"The checkpoints in {experiment.folder} are not of the run that its config.json describes: "
            "one of them was changed; restore it."
        )
    for name, change in (("versions", "with different versions"), ("device", "on a different device")):
        if trains and saved.about[name] != experiment.about[name]:
            console.say(f"This run began {change}: results agree only to rounding.")


def _train_batches(session: _Session) -> None:
    """Train the pending batches, including the parts they are split into and the survivors of each rung."""
    experiment, pending, trained = session.experiment, session.pending, session.trained
    last: Saved | None
    while pending and not (trained and session.stopped()):
        batch = pending[0]
        try:
            if batch.is_done(experiment):
                done, last = from_checkpoint(experiment, batch)
                session.outlets.begin(done.record)
            else:
                started = time.perf_counter()
                compiled = _compile(experiment, batch)
                session.compile_seconds += time.perf_counter() - started
                needed, available = compiled.programs.bytes, session.available
                lanes = batching.lanes_that_fit(experiment, batch, needed, available)
                if lanes < batch.lanes:
                    pending[:1] = batching.split_to_fit(experiment, batch, lanes, needed, available)
                    continue
                if experiment.options.progress and experiment.fields and not _is_known(batch, trained):
                    _say_batch(session, batch, compiled, [] if trained else pending[1:])
                batch = batch._replace(folder_name=batch.folder_name or f"{next(session.numbers):04d}")
                done, last = _train_batch(session, batch, compiled)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            pending[:1] = batching.split_in_two(experiment, batch)
            if experiment.folder is not None and batch.folder_name:
                session.outlets.flush()
                shutil.rmtree(experiment.folder / checkpoints.FOLDER / batch.folder_name, ignore_errors=True)
            continue
        survivors: list[Batch] = []
        if experiment.options.halving is not None and not batch.dropped and not session.stopped():
            assert last is not None
            done, survivors = _select(session, batch, done, last)
        pending[:1] = survivors
        trained.append(done)
    trained += _from_checkpoints(experiment, pending)  # after an interrupt
    if any(t.record.updates for t in trained):  # a batch that was interrupted before its first update does not count
        trained[:] = [t for t in trained if t.record.updates]


def _is_known(batch: Batch, trained: list[Trained]) -> bool:
    """True if a batch of the same group and size was trained before, so its cost has been reported."""
    return any(t.batch.group is batch.group and t.batch.lanes == batch.lanes for t in trained)


def _select(session: _Session, batch: Batch, done: Trained, saved: Saved) -> tuple[Trained, list[Batch]]:
    """Compare configurations at a rung: the outcome of those that end, and a batch of those that continue, if any."""
    experiment, rungs = session.experiment, batch.rungs(session.experiment)
    if batch.rung >= len(rungs) or done.record.updates < rungs[batch.rung][0]:
        return done, []
    survives = halving.survivors(batch.runs, done.final.mean(axis=1), rungs[batch.rung][1])
    kept, dropped = np.flatnonzero(survives), np.flatnonzero(~survives)
    lanes = lanes_for(len(kept), experiment.lane_devices)
    part = saved.rows(kept)._replace(lanes=lanes, rung=batch.rung + 1)
    folder_name = f"{next(session.numbers):04d}"
    survivors = Batch(batch.group, batch.runs[kept], lanes, part, batch.rung + 1, folder_name=folder_name)
    session.outlets.save(folder_name, part)
    states = jax.tree.map(lambda x: x[dropped], done.states)
    over = Trained(batch, done.record.rows(dropped), states, done.final[dropped], done.record.updates)
    return over, [survivors]


def from_checkpoint(experiment: Experiment, batch: Batch) -> tuple[Trained, Saved]:
    """A batch's outcome from its checkpoint; final returns are NaN if it was saved before the end."""
    saved = batch.saved
    assert saved is not None
    states, axes = states_of(experiment, saved, len(batch.runs))
    states = jax.tree.map(_on_host, placement.stacked(states, axes, saved.record))
    final = np.full((len(batch.runs), 1), np.nan) if saved.final is None else saved.final
    ended = batch.dropped or saved.record.is_solved
    num_updates = saved.record.updates if ended else batch.num_updates(experiment)
    return Trained(batch, saved.record, states, final, num_updates), saved


def _say_batch(session: _Session, batch: Batch, compiled: "_Compiled", others: list[Batch]) -> None:
    """Report a batch's bytes, as the compiler estimates them, and its time, measured on one discarded update.

    For the first batch, also estimate the time of all batches, assuming that an update of any run takes as long.
    """
    experiment, (programs, lanes, keys, _) = session.experiment, compiled
    states = wait(programs.init, lanes.keys, lanes.config)
    started = time.perf_counter()
    wait(programs.advance, keys.updates, states, lanes.config, np.int32(0), np.int32(1))
    seconds = (time.perf_counter() - started) * batch.last_update(experiment)
    work = [len(one.runs) * one.last_update(experiment) for one in (batch, *others)]
    total = f" (all {len(work)} batches: about {console.duration(seconds * sum(work) / work[0])})" if others else ""
    available = "" if session.available is None else f" of the {devices.readable(session.available)} available"
    console.say(
        f"Training {len(batch.runs)} runs of {batch.last_update(experiment):,} updates side by side: "
        f"{devices.readable(programs.bytes)}{available} on each of {experiment.mesh.size} devices; "
        f"about {console.duration(seconds)} plus evaluations{total}."
    )


class _Compiled(NamedTuple):
    programs: Programs
    lanes: placement.Lanes
    keys: Keys
    capacity: int


def _compile(experiment: Experiment, batch: Batch) -> _Compiled:
    num_updates = batch.num_updates(experiment)
    lanes = placement.lanes(batch.group, batch.runs, batch.lanes, experiment.keys)
    capacity = min(int(np.diff([0, *experiment.marks(num_updates), num_updates]).max()), _MAX_UPDATES)
    evaluation = experiment.evaluation(min(experiment.options.eval_episodes, _EVALUATION_BATCH))
    programs = compilation.build(
        experiment.algorithm, lanes.config, lanes.axes, lanes.keys, experiment.mesh, capacity, evaluation
    )
    return _Compiled(programs, lanes, compilation.keys_of(lanes.keys), capacity)


def _train_batch(session: _Session, batch: Batch, compiled: _Compiled) -> tuple[Trained, Saved | None]:
    """Train a batch to its final evaluation, or an interrupt: its outcome, and a snapshot for checkpoints and rungs."""
    experiment, (programs, lanes, keys, capacity) = session.experiment, compiled
    options, saved, runs = experiment.options, batch.saved, len(batch.runs)
    key_data = np.asarray(jax.random.key_data(keys.updates))[:runs]
    if saved is None:
        record, start = Record(batch.runs), [wait(programs.init, lanes.keys, lanes.config)]
    else:
        if not np.array_equal(key_data, saved.keys):
            raise UsageError("JAX generates different keys here than when this run began: check jax_default_prng_impl.")
        # A copy, so that the checkpoint is still intact if an error ends the batch.
        record, start = saved.record.copy(), [states_of(experiment, saved, len(lanes.keys))[0]]
    num_updates, last_update = batch.num_updates(experiment), batch.last_update(experiment)
    outlets = session.outlets
    observer = Observer(
        experiment, batch, outlets, programs.axes, key_data, session.records, session.progress, session.stopped
    )
    outlets.begin(record)
    marks = tuple(u for u in experiment.marks(num_updates, record.eval_updates) if u <= last_update)
    states = loop.train(programs, lanes, keys, start, record, marks, last_update, capacity, observer)
    stopped = session.interrupted()  # read once: an interrupt during the final evaluation comes too late to stop it
    episodes = min(options.eval_episodes, _EVALUATION_BATCH) if stopped else options.eval_episodes
    if stopped:
        outlets.save(batch.folder_name, observer.snapshot(record, states))
    final = loop.evaluate(programs, lanes, keys, states, record, episodes)
    last = observer.snapshot(record, states, final) if experiment.folder or options.halving is not None else None
    if last is not None and not stopped:
        outlets.save(batch.folder_name, last)
    states = placement.stacked(states, programs.axes, record)
    if runs < experiment.num_runs:  # later batches need the devices
        states = jax.tree.map(_on_host, states)
    return Trained(batch, record, states, final, record.updates if record.is_solved else num_updates), last


def _on_host(x: jax.Array) -> Any:
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
