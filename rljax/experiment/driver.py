"""Train an experiment's tasks on a Ray cluster: submit them, start lost ones again, collect what they did."""

import contextlib
import dataclasses
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax.backend import devices
from rljax.errors import UsageError
from rljax.experiment import folders, mailbox, manifest, worker
from rljax.experiment.batching import Batch
from rljax.experiment.cluster import Connection
from rljax.experiment.combining import Trained
from rljax.experiment.history import Record
from rljax.experiment.outlets import Outlets
from rljax.experiment.progress import Progress
from rljax.experiment.schedule import Schedule, Task
from rljax.experiment.spec import Experiment
from rljax.experiment.worker import Outcome
from rljax.report import console, live

_POLL_SECONDS = 0.2
_CURVES_SECONDS = 5.0  # between two writes of `curves.csv`
_MOST_DEATHS = 20  # of workers in a row, on one task that gets no further

_Key = tuple[int, tuple[int, int]]  # of a batch: the number of its task, and its first run


@dataclasses.dataclass
class Driver:
    """Trains an experiment on a cluster; see `train`."""

    connection: Connection
    experiment: Experiment
    schedule: Schedule
    interrupted: Callable[[], bool]
    show: live.Show
    outlets: Outlets
    forwards: bool  # metrics go to loggers or callbacks here
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.trained: list[Trained] = []
        self._records: dict[_Key, Record] = {}
        self._speeds: dict[_Key, float] = {}  # environment steps per second of the batches that are trained
        self._orders: dict[Any, Task] = {}  # by the reference to what a task returns
        self._training_return = np.nan
        self._memory: dict[int, float] = {}  # that a task asks for after it ran out of it
        self._deaths: dict[int, tuple[int, int]] = {}  # of a task's workers, and its updates at the first of them
        self._again: list[int] = []
        self._said: set[str] = set()
        self._curves_at = 0.0

    def train(self) -> None:
        """Train all tasks; after an error or an interrupt, once every worker has saved.

        Raises:
            Exception: the first error of a task, as a local run raises it.
        """
        ray, experiment = self.connection.ray, self.experiment
        assert experiment.folder is not None
        self._identity = ray.put(self.connection.identity)
        self._remote = self.connection.remote(worker.train, experiment.layout)
        failure: Exception | None = None
        begun: set[int] = set()
        self._ship()
        self._submit(self.schedule.tasks)
        while self._orders:
            wish = self._wish(failure)
            if wish:  # after the mailbox has it, a task that has not begun will not begin
                begun = self._exchange(wish)
                self._cancel([reference for reference, task in self._orders.items() if task.number not in begun])
            ray.wait(list(self._orders), num_returns=1, timeout=_POLL_SECONDS)
            ready, _ = ray.wait(list(self._orders), num_returns=len(self._orders), timeout=0)
            self._exchange(wish)
            for reference in ready:
                try:
                    self._collect(reference, is_ending=bool(self._wish(failure)))
                except Exception as error:  # of the user's code, on a worker
                    failure = failure or error
            self._show()
        self._exchange("")
        ray.kill(self.connection.mailbox)
        del self.connection.mailbox  # the next one is new
        found = self.schedule.trained(with_waiting=True)
        trained = sorted(found, key=lambda one: int(one.batch.folder_name))
        self.trained = [t for t in trained if t.record.updates] or trained
        if failure is not None:
            raise failure
        folders.remove_locks(experiment.folder)

    def _wish(self, failure: Exception | None) -> str:
        if failure is not None or self.interrupted():
            return mailbox.INTERRUPT
        return mailbox.STOP if self.outlets.stopped else ""

    def _ship(self) -> None:
        """Send the configurations to the workers. Ray keeps one copy for all tasks."""
        assert self.experiment.folder is not None
        text = (self.experiment.folder / manifest.FILE).read_text(encoding="utf-8")
        shipment = self.connection.pack(self.experiment, (manifest.FILE, text), self.forwards)
        self._shipment = self.connection.ray.put(shipment)

    def _submit(self, tasks: list[Task]) -> None:
        for task in tasks:
            order = worker.Order(
                number=task.number,
                tasks=self.schedule.count,
                group=self.schedule.groups.index(task.group),
                rung=task.rung,
                runs=task.runs.pairs,
                lanes=task.lanes,
                sources=task.sources,
            )
            memory = self._memory.get(task.number)
            remote = self.connection.remote(worker.train, self.experiment.layout, memory) if memory else self._remote
            reference = remote.remote(self._shipment, order, self.connection.mailbox, self._identity)
            self._orders[reference] = task

    def _cancel(self, references: list[Any]) -> None:
        for reference in references:
            with contextlib.suppress(Exception):  # it ends meanwhile
                self.connection.ray.cancel(reference)

    def _collect(self, reference: Any, is_ending: bool) -> None:
        """Take what a task returned; start it again if its worker was lost."""
        ray, task = self.connection.ray, self._orders.pop(reference)
        errors = ray.exceptions
        try:
            outcome: Outcome = ray.get(reference)
        except errors.RayTaskError as error:
            if not is_ending:
                raise self.connection.refusal(error) from None
            return
        except errors.RayError as error:  # a worker or a node died, also with tasks that waited there
            if not is_ending:
                self._start_again(task, error)
            return
        self.compile_seconds += outcome.compile_seconds
        if outcome.error is not None:
            raise worker.unpickled(outcome.error)
        if outcome.is_sent_away and not is_ending:
            self._start_again(task, None)
            return
        trained = [
            Trained(
                Batch(
                    task.group, part.record.runs, part.lanes, None, task.rung, task.number, folder_name=part.folder_name
                ),
                part.record,
                None,
                part.final,
                part.num_updates,
            )
            for part in outcome.parts
        ]
        for one in trained:
            self._take(task.number, one.record)
        following = self.schedule.done(task, trained)
        if following:  # from now on each run counts where it is
            going_on = {run for one_task in following for run in one_task.runs}
            for key, record in list(self._records.items()):
                rows = [row for row, run in enumerate(record.runs) if run not in going_on]
                if len(rows) < len(record.runs):
                    del self._records[key]
                    if rows:
                        self._take(key[0], record.rows(np.array(rows)))
            if self.experiment.space is not None:  # which has suggested them now
                self._ship()
            self._submit(following)

    def _start_again(self, task: Task, error: Exception | None) -> None:
        """Submit a task whose worker was lost, unless that happens again and again without progress."""
        updates = max((one.updates for key, one in self._records.items() if key[0] == task.number), default=0)
        count, at = self._deaths.get(task.number, (0, updates))
        count = 1 if updates > at else count + 1
        self._deaths[task.number] = count, max(updates, at)
        if error is not None and count >= _MOST_DEATHS:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UsageError(
                f"The workers of task {task.number} died {count} times at update {updates}: give it more with "
                f"task_resources, or lower runs_per_batch ({lines[0][:200] if lines else type(error).__name__})."
            )
        if isinstance(error, self.connection.ray.exceptions.OutOfMemoryError):
            self._ask_for_more_memory(task)
        elif error is None:
            self._say(f"A worker was asked to stop and has saved task {task.number}: another one continues it.")
        else:
            self._say(f"A worker of task {task.number} was lost: another one continues it from its checkpoint.")
        self._again.append(task.number)
        self._submit([task])

    def _ask_for_more_memory(self, task: Task) -> None:
        """Let a task that ran out of its node's memory share the node with fewer others."""
        memory = self.connection.more_memory(self._memory.get(task.number))
        if memory is None:
            raise UsageError(
                f"Task {task.number} runs out of memory on the largest node of the cluster: lower runs_per_batch."
            )
        self._memory[task.number] = memory
        self._say(
            f"Task {task.number} ran out of its node's memory: it continues from its checkpoint where "
            f"{devices.readable(int(memory))} are free."
        )

    def _exchange(self, wish: str) -> set[int]:
        """Give the mailbox the wish, and take its messages; the numbers of the tasks that have begun."""
        try:
            exchanged = self.connection.mailbox.exchange.remote(wish, self._again)
            messages, begun = self.connection.ray.get(exchanged, timeout=60)
        except self.connection.ray.exceptions.RayError:
            return {task.number for task in self._orders.values()}  # it starts again
        self._again = []
        for number, kind, content in map(pickle.loads, messages):
            self._hear(number, kind, content)
        return begun

    def _hear(self, number: int, kind: str, content: Any) -> None:
        if kind == "say":
            self._say(content)
        elif kind == "record":
            self._take(number, content)
        elif kind == "metrics":
            self.outlets.updates(*content)
        elif kind == "evaluation":
            self.outlets.evaluated(*content)
        else:
            self._advance(number, *content)

    def _say(self, sentence: str) -> None:
        """Print a sentence once, however many workers say it."""
        if sentence not in self._said:
            self._said.add(sentence)
            console.say(sentence)

    def _take(self, number: int, record: Record) -> None:
        """Note what a batch has done."""
        key = number, next(iter(record.runs))
        self._records[key] = record
        self._speeds.pop(key, None)

    def _advance(self, number: int, progress: Progress, training_return: float) -> None:
        """Note a batch's progress, and pass it on."""
        key = number, next(iter(progress.runs))
        record = self._records.get(key)
        if record is None or len(record.runs) != len(progress.runs):
            record = self._records[key] = Record(progress.runs)
        record.updates, record.env_steps = progress.updates, progress.env_steps
        self._speeds[key], self._training_return = progress.env_steps_per_second, training_return
        if progress.is_evaluation and progress.updates not in record.eval_updates:
            record.eval_updates.append(progress.updates)
            record.eval_steps.append(progress.env_steps)
            record.evaluations.append(progress.returns)
            record.eval_measures.append(progress.measures)
        self.outlets.call(dataclasses.replace(progress, halt=self.outlets.stop))

    def _show(self) -> None:
        """Show how far all runs are, and write the curves now and then."""
        records = list(self._records.values())
        count = max((len(one.evaluations) for one in records), default=0)
        evaluations = [
            np.concatenate([one.evaluations[i] for one in records if len(one.evaluations) > i]) for i in range(count)
        ]
        newest = [one for one in records if len(one.evaluations) == count]
        latest = [run for one in newest for run in one.runs]
        names = newest[0].eval_measures[-1] if count else {}
        measures = {name: np.concatenate([one.eval_measures[-1][name] for one in newest]) for name in names}

        def name(row: int) -> str:
            point, seed = latest[row]
            return f"configuration {point}, seed {seed}" if self.experiment.fields else f"seed {seed}"

        frozen = [one for record in records for one in record.frozen.values()]
        solved = sum(one.is_solved for one in frozen)
        self.show(
            live.Status(
                updates=sum(len(one.runs) * one.updates for one in records),
                env_steps_per_second=sum(self._speeds.values()),
                training_return=self._training_return,
                evaluations=evaluations,
                measures=measures,
                policy=self.experiment.judged_by,
                name=name,
                diverged=len(frozen) - solved,
                solved=solved,
            )
        )
        if time.monotonic() - self._curves_at > _CURVES_SECONDS and evaluations:
            self.outlets.curves(records)
            self._curves_at = time.monotonic()
