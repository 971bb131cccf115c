"""Train batches one after the other, within the available bytes: here, or one task of them on a worker of a cluster."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from rljax.backend import controllers, devices
from rljax.errors import UsageError
from rljax.experiment import batching, checkpoints, compilation, loop, placement
from rljax.experiment.batching import Batch
from rljax.experiment.checkpoints import Saved
from rljax.experiment.combining import Trained, from_checkpoint, on_host, states_of
from rljax.experiment.compilation import Keys, Programs
from rljax.experiment.diagnosing import Diagnoser
from rljax.experiment.history import Record
from rljax.experiment.interrupts import wait
from rljax.experiment.observer import Observer
from rljax.experiment.outlets import Outlets
from rljax.experiment.progress import Progress
from rljax.experiment.spec import Experiment
from rljax.report import console, live

_MAX_UPDATES = 1024  # of one call of `advance`, whose metrics it holds
_EVALUATION_BATCH = 20  # episodes side by side; a larger evaluation calls the same program again


@dataclasses.dataclass
class Session:
    """What is trained in one process: what it has trained, and what its batches share."""

    experiment: Experiment
    pending: list[Batch]  # until they are done; after an error the first one is the batch that failed
    numbers: dict[int, Iterator[int]]  # for the folders of each task's batches
    available: int | None  # bytes of each device
    interrupted: Callable[[], bool]
    show: live.Show
    outlets: Outlets
    followers: Callable[["Session", Batch, Trained, Saved | None], list[Batch]]
    trained: list[Trained] = dataclasses.field(default_factory=list)
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.diagnoser = Diagnoser(self.experiment)

    def stopped(self) -> bool:
        """True after a signal or `Progress.stop`."""
        self.outlets.stopped = bool(controllers.highest(int(self.outlets.stopped)))
        return self.interrupted() or self.outlets.stopped

    def train(self) -> None:
        """Train the pending batches, the parts they are split into, and the batches that follow from them."""
        experiment, pending, trained = self.experiment, self.pending, self.trained
        last: Saved | None
        while pending and (pending[0].is_done(experiment) or not (trained and self.stopped())):
            batch = pending[0]
            try:
                if batch.is_done(experiment):
                    done, last = from_checkpoint(experiment, batch)
                    self.outlets.begin(done.record)
                else:
                    started = time.perf_counter()
                    programs = compiled(experiment, batch)
                    self.compile_seconds += time.perf_counter() - started
                    needed, available = programs.programs.bytes, self.available
                    lanes = batching.lanes_that_fit(experiment, batch, needed, available)
                    if lanes < batch.lanes:
                        pending[:1] = batching.split_to_fit(experiment, batch, lanes, needed, available)
                        continue
                    if experiment.options.progress and experiment.fields and not _is_known(experiment, batch, trained):
                        _say_batch(self, batch, programs, [] if trained else pending[1:])
                    batch = batch._replace(folder_name=batch.folder_name or f"{next(self.numbers[batch.task]):04d}")
                    done, last = _train_batch(self, batch, programs)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or controllers.count() > 1:
                    raise  # other processes may have had room enough, and would train another batch
                pending[:1] = batching.split_in_two(experiment, batch)
                if experiment.folder is not None and batch.folder_name:
                    self.outlets.flush()
                    shutil.rmtree(experiment.folder / checkpoints.FOLDER / batch.folder_name, ignore_errors=True)
                continue
            del pending[0]
            trained.append(done)
            pending[:0] = self.followers(self, batch, done, last)
        trained += begun(experiment, pending)  # after an interrupt
        if any(
            t.record.updates for t in trained
        ):  # a batch that was interrupted before its first update does not count
            trained[:] = [t for t in trained if t.record.updates]

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
                policy=self.experiment.judged_by,
                name=name,
                diverged=len(record.frozen) - solved,
                solved=solved,
            )
        )


def _is_known(experiment: Experiment, batch: Batch, trained: list[Trained]) -> bool:
    """True if a batch of the same program and size was trained before, so its cost has been reported."""
    is_search = experiment.space is not None
    return any((is_search or t.batch.group is batch.group) and t.batch.lanes == batch.lanes for t in trained)


def begun(experiment: Experiment, pending: list[Batch]) -> list[Trained]:
    """The checkpoints of pending batches, except those before their first update."""
    begun = [batch for batch in pending if batch.saved is not None and batch.saved.record.updates]
    return [from_checkpoint(experiment, batch)[0] for batch in begun]


def _say_batch(session: Session, batch: Batch, made: "_Compiled", others: list[Batch]) -> None:
    """Report a batch's bytes, as the compiler estimates them, and its time, measured on one discarded update.

    For the first batch, also estimate the time of all batches, assuming that an update of any run takes as long.
    """
    experiment, (programs, lanes, keys, _) = session.experiment, made
    states = wait(programs.init, lanes.keys, lanes.config)
    started = time.perf_counter()
    wait(programs.advance, keys.updates, states, lanes.config, np.int32(0), np.int32(1))
    seconds = (time.perf_counter() - started) * batch.last_update(experiment)
    work = [len(one.runs) * one.last_update(experiment) for one in (batch, *others)]
    total = f" (all {len(work)} batches: about {console.duration(seconds * sum(work) / work[0])})" if others else ""
    available = "" if session.available is None else f" of the {devices.readable(session.available)} available"
    console.say(
        f"Training {len(batch.runs)} runs of {batch.last_update(experiment):,} updates side by side: "
        f"{devices.readable(programs.bytes)}{available} on each of {experiment.devices} devices; "
        f"about {console.duration(seconds)} plus evaluations{total}."
    )


class _Compiled(NamedTuple):
    programs: Programs
    lanes: placement.Lanes
    keys: Keys
    capacity: int


def compiled(experiment: Experiment, batch: Batch) -> _Compiled:
    """The programs of a batch, and their inputs."""
    num_updates = batch.num_updates(experiment)
    lanes = placement.lanes(batch.group, batch.runs, batch.lanes, experiment.keys)
    capacity = min(int(np.diff([0, *experiment.marks(num_updates), num_updates]).max()), _MAX_UPDATES)
    evaluation = experiment.evaluation(min(experiment.options.eval_episodes, _EVALUATION_BATCH))
    programs = compilation.build(
        experiment.algorithm, lanes.config, lanes.axes, lanes.keys, experiment.local_mesh, capacity, evaluation
    )
    return _Compiled(programs, lanes, compilation.keys_of(lanes.keys), capacity)


def _train_batch(session: Session, batch: Batch, made: _Compiled) -> tuple[Trained, Saved | None]:
    """Train a batch to its final evaluation, or an interrupt: its outcome, and a snapshot for checkpoints and rungs."""
    experiment, (programs, lanes, keys, capacity) = session.experiment, made
    options, saved, runs = experiment.options, batch.saved, len(batch.runs)
    key_data = np.asarray(jax.random.key_data(keys.updates))[:runs]
    if saved is None:
        record, start = Record(batch.runs), [wait(programs.init, lanes.keys, lanes.config)]
    else:
        if not np.array_equal(key_data, saved.keys):
            raise UsageError("JAX generates different keys here than when this run began: check jax_default_prng_impl.")
        # A copy, so that the checkpoint is still intact if an error ends the batch.
        states = states_of(experiment, saved, len(lanes.keys))[0]
        record, start = saved.record.copy(), [controllers.placed(states, programs.advance.input_shardings[0][1])]
        del states
    num_updates, last_update = batch.num_updates(experiment), batch.last_update(experiment)
    outlets = session.outlets
    observer = Observer(
        experiment,
        batch,
        outlets,
        programs.axes,
        key_data,
        session.records,
        session.progress,
        session.stopped,
        session.diagnoser,
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
    if runs < experiment.num_runs or controllers.count() > 1:  # later batches need the devices
        states = jax.tree.map(on_host, states)
    return Trained(batch, record, states, final, record.updates if record.is_solved else num_updates), last


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
