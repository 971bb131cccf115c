"""Train an experiment, here or on a cluster, and combine and write its results."""

import contextlib
import importlib
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from signal import SIGINT

from rljax.backend import controllers, devices
from rljax.experiment import batching, checkpoints, folders, remote
from rljax.experiment.batching import Batch, group_updates
from rljax.experiment.checkpoints import Saved
from rljax.experiment.cluster import Connection
from rljax.experiment.combining import Trained, result_of
from rljax.experiment.driver import Driver
from rljax.experiment.interrupts import interrupts
from rljax.experiment.logs import Logs
from rljax.experiment.metrics_file import MetricsFile
from rljax.experiment.outlets import Callback, Outlets
from rljax.experiment.output import write
from rljax.experiment.results import Interrupted, Result, Sweep
from rljax.experiment.schedule import Schedule, Task, free_numbers
from rljax.experiment.session import Session, begun
from rljax.experiment.spec import Experiment
from rljax.experiment.sweeps import Group
from rljax.report import console, live

_FOR_FILES = ("orbax.checkpoint", "scipy.stats", "matplotlib.figure", "matplotlib.backends.backend_agg")


def train(
    experiment: Experiment,
    saved: list[Saved],
    callbacks: Sequence[Callback] = (),
    connection: Connection | None = None,
) -> Result | Sweep:
    """Train all batches, and combine and write their results."""
    options, folder = experiment.options, experiment.folder
    groups = experiment.groups()
    updates = sum(group_updates(experiment, group) for group in groups)
    if options.progress and experiment.fields:
        batching.say_plan(experiment, groups)
    if options.halving is not None:
        batching.say_where_halving_does_nothing(experiment, groups)
    with interrupts() as pressed:
        schedule = Schedule(experiment, groups)
        outlets = _outlets(experiment, updates, callbacks, writes=connection is None)
        if folder is not None and controllers.is_first():
            threading.Thread(target=_import_for_files, daemon=True).start()
        shown = options.progress and controllers.is_first()
        with live.view(f"{experiment.title} x {experiment.num_runs}", max(updates, 1), shown) as show:
            session: Session | Driver
            if connection is None:
                session = _here(experiment, schedule, saved, pressed, show, outlets)
            else:
                forwards = bool(callbacks) or bool(options.log)
                session = Driver(connection, experiment, schedule, pressed, show, outlets, forwards)
            try:
                session.train()
            except Exception as error:
                outlets.finish({})
                if folder is not None:
                    outlets.flush()
                    if controllers.is_first():
                        _write_partial_results(session, folder, groups, error)
                raise
            finally:
                outlets.flush()
        trained = session.trained
        if not trained:  # on a cluster whose workers were all busy or starting
            again = f"`rljax resume {folder}` starts it"
            raise Interrupted(f"Stopped before any run had begun: {again}.", None, pressed.signal or SIGINT)
        if folder is not None and connection is not None:
            remote.fetch(folder, lambda name: name.startswith("metrics/"))
            outlets.or_report(MetricsFile(experiment, folder, updates).gather)
        result = result_of(experiment, trained, session.compile_seconds)
        _write(experiment, result, trained, outlets)
        if outlets.stopped and result.summary["interrupted"] and options.progress:
            console.say(_progress_sentence(experiment, trained, updates, result))
        if pressed():
            sentence = _progress_sentence(experiment, trained, updates, result)
            raise Interrupted(sentence, result, pressed.signal or SIGINT)
    return result


def _import_for_files() -> None:
    """Import what a run's files need, while it compiles: later, training or the end would wait a second for it."""
    for name in _FOR_FILES:
        with contextlib.suppress(ImportError):  # raised again where it is needed
            importlib.import_module(name)


def _write(experiment: Experiment, result: Result | Sweep, trained: list[Trained], outlets: Outlets) -> None:
    """Write the results, and print the table."""
    try:
        with controllers.refusing_together():
            if experiment.folder is not None and controllers.is_first():
                write(experiment, experiment.folder, result, [t.record for t in trained])
    finally:
        outlets.finish(result.summary)
        if experiment.options.progress and controllers.is_first():
            console.print_summary(result.summary)


def _outlets(experiment: Experiment, updates: int, callbacks: Sequence[Callback], writes: bool) -> Outlets:
    """Where the experiment goes; unless it `writes`, a cluster's workers write checkpoints and metrics."""
    folder = experiment.folder
    if not controllers.is_first():  # callbacks are called in all processes, since they may read states or stop
        return Outlets(experiment, callbacks)
    return Outlets(
        experiment,
        callbacks,
        writer=checkpoints.Writer(folder) if folder is not None and writes else None,
        metrics=MetricsFile(experiment, folder, updates) if folder is not None and writes else None,
        logs=Logs(experiment),
        curves=folder,
    )


def _here(
    experiment: Experiment,
    schedule: Schedule,
    saved: list[Saved],
    interrupted: Callable[[], bool],
    show: live.Show,
    outlets: Outlets,
) -> Session:
    """A session in this process."""
    ready = _Ready(experiment, schedule, saved)
    return Session(
        experiment=experiment,
        pending=[batch for task in schedule.tasks for batch in ready.batches(task)],
        numbers=ready.numbers,
        available=_available(experiment),
        interrupted=interrupted,
        show=show,
        outlets=outlets,
        followers=ready.followers,
    )


def _available(experiment: Experiment) -> int | None:
    """The bytes that runs can use on each device: the fewest that a process finds; None if they are unknown."""
    limit, unknown = experiment.options.memory_bytes, 2**62
    own = None if limit is None else limit // controllers.count()
    found = devices.available_bytes(experiment.local_mesh.local_devices, own)
    fewest = -controllers.highest(-(unknown if found is None else found))
    return None if fewest == unknown else fewest


class _Ready:
    """Turns tasks into batches of this process, and the ends of rungs into the next tasks."""

    def __init__(self, experiment: Experiment, schedule: Schedule, saved: list[Saved]) -> None:
        self._experiment, self._schedule, self._saved = experiment, schedule, saved
        self._tasks: dict[int, Task] = {}
        self._trained: dict[int, list[Trained]] = {}
        self._last: dict[str, Saved] = {}  # of the rungs' batches by folder, which the next rungs continue
        self.numbers: dict[int, Iterator[int]] = {}

    def batches(self, task: Task, source: Saved | None = None) -> list[Batch]:
        """The batches of a task, with their checkpoints."""
        count = self._schedule.count
        saved = [one for one in self._saved if int(one.folder_name) % count == task.number]
        self.numbers[task.number] = free_numbers(task.number, count, saved)
        self._tasks[task.number], self._trained[task.number] = task, []
        batches = task.batches(self._experiment, saved, source)
        return [part for batch in batches for part in batching.split_for_speed(self._experiment, batch)]

    def followers(self, session: Session, batch: Batch, done: Trained, last: Saved | None) -> list[Batch]:
        """The batches of the next rung or of a search's next batch, if this one was the last of its own."""
        if self._experiment.options.halving is None and self._experiment.space is None:
            return []
        self._trained[batch.task].append(done)
        if self._experiment.options.halving is not None:
            assert last is not None
            self._last[done.batch.folder_name] = last
        if any(one.task == batch.task for one in session.pending):
            return []
        tasks = self._schedule.done(self._tasks[batch.task], self._trained[batch.task])
        if not tasks:
            return []
        session.trained[:] = self._schedule.trained(with_waiting=False)
        return [one for task in tasks for one in self.batches(task, self._source(task))]

    def _source(self, task: Task) -> Saved | None:
        """The state of a task's runs at the end of the rung before, if there is one."""
        if not task.rung:
            return None
        parts = [self._last[name] for name in task.sources]
        return checkpoints.joined(parts, task.runs)._replace(lanes=task.lanes, rung=task.rung)


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
    session: Session | Driver, folder: pathlib.Path, groups: list[Group], error: Exception
) -> None:
    """Write the results so far after an error, and add a note to it."""
    experiment = session.experiment
    try:
        folders.require_same(folder)
        done = {run for t in session.trained for run in t.record.runs}
        saved = checkpoints.load(folder) if isinstance(session, Session) else []
        others = batching.latest(experiment, groups, saved, done)
        trained = [*session.trained, *begun(experiment, others)]
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
