"""What runs on a cluster's workers: choose the sizes of batches, train a task, report to the driver.

A task runs the same code as a local run, with one task's batches. It reports through a small actor, the mailbox, whose
replies bring the driver's wish to stop. It returns what is small; states and metrics stay in the folder.
"""

import contextlib
import functools
import hashlib
import pathlib
import pickle
import signal
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.backend import devices
from rljax.backend.program_cache import use_default
from rljax.backend.versions import versions
from rljax.errors import WORKERS_LINE, UsageError, located, user_line
from rljax.experiment import (
    batching,
    checkpoints,
    compilation,
    folders,
    metrics_file,
    placement,
    remote,
    session,
    sweeps,
)
from rljax.experiment.batching import Batch, lanes_for
from rljax.experiment.checkpoints import Saved
from rljax.experiment.history import Record, Runs
from rljax.experiment.mailbox import INTERRUPT, LEAVE, STOP
from rljax.experiment.outlets import Outlets
from rljax.experiment.progress import Progress
from rljax.experiment.schedule import Task, free_numbers
from rljax.experiment.shipping import Job, Shipment, unpack
from rljax.experiment.spec import Experiment, Layout
from rljax.report import console

_REPORT_SECONDS = 0.5  # between two reports of a worker
_LOCK_SECONDS = 60.0  # for another worker of the same task to die: it lost its node
_SEES_SECONDS = 10.0  # for a shared folder to show a new file
_RUNS_PER_CPU, _RUNS_PER_DEVICE = 16, 256  # where more side by side are hardly faster
_ROOMY = 0.25  # of the available bytes: a batch whose states need less is not compiled to find out whether it fits


class Order(NamedTuple):
    """A task as it is sent."""

    number: int
    tasks: int  # how many there are
    group: int
    rung: int
    runs: np.ndarray  # [R, 2]
    lanes: int
    sources: tuple[str, ...]  # folders of the batches of the rung before


class Part(NamedTuple):
    """What a batch of a task has done, without its states and metrics."""

    folder_name: str
    lanes: int
    record: Record
    final: np.ndarray  # [R, episodes]
    num_updates: int


class Outcome(NamedTuple):
    """What a task returns."""

    parts: list[Part]
    is_sent_away: bool = False  # the worker was asked to stop, and has saved
    compile_seconds: float = 0.0
    error: bytes | None = None  # pickled


class _Link:
    """A worker's connection to the mailbox.

    It waits for futures: `ray.get` and `ray.wait` lend the task's CPU to another task, and both then run slowly.
    """

    def __init__(self, ray: Any, mailbox: Any, number: int) -> None:
        self._ray, self._mailbox, self._number = ray, mailbox, number
        self._node = ray.get_runtime_context().get_node_id()
        self._waiting: list[tuple[int, str, Any]] = []
        self._reply: Any = None
        self._sent_at = 0.0
        self._evaluations: dict[tuple[int, int], int] = {}
        self.wish = ""

    def send(self, kind: str, content: Any, at_once: bool = False) -> None:
        """Send a message with the next report; of "chunk" only the last one."""
        if kind == "chunk":
            self._waiting = [one for one in self._waiting if one[1] != kind]
        self._waiting.append((self._number, kind, content))
        if at_once or time.monotonic() - self._sent_at >= _REPORT_SECONDS:
            self._flush()

    def _flush(self) -> None:
        self.stop_is_wanted()
        messages = [pickle.dumps(one) for one in self._waiting]
        with contextlib.suppress(self._ray.exceptions.RayError):  # the mailbox starts again elsewhere
            self._reply = self._mailbox.report.remote(messages, self._node).future()
            self._waiting, self._sent_at = [], time.monotonic()

    def stop_is_wanted(self) -> str:
        """The driver's latest wish."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            if self._reply is not None and self._reply.done():
                reply, self._reply = self._reply, None
                self.wish = reply.result()
        return self.wish

    def end(self) -> None:
        """Send what is left, before the task's result."""
        with contextlib.suppress(self._ray.exceptions.RayError, TimeoutError):
            self._flush()
            self._reply.result(timeout=10)

    # As `Logs`:
    def chunk(self, runs: Runs, first: int, metrics: dict[str, np.ndarray]) -> None:
        """Forward metrics to the driver's loggers."""
        self.send("metrics", (runs, first, metrics))

    def evaluation(self, runs: Runs, env_steps: int, evaluated: dict[str, np.ndarray]) -> None:
        """Forward an evaluation to the driver's loggers."""
        first = next(iter(runs))
        number = self._evaluations[first] = self._evaluations.get(first, -1) + 1  # they come from the first one on
        self.send("evaluation", (runs, number, env_steps, evaluated))

    def finish(self, summary: dict[str, Any]) -> None:
        """The driver ends the loggers."""


@functools.cache
def identity() -> dict[str, str]:
    """The versions on which results depend, and a checksum of rljax's own source."""
    root, total = pathlib.Path(folders.__file__).parents[1], 0
    for path in sorted(root.rglob("*.py")):
        total = zlib.crc32(path.read_bytes(), zlib.crc32(str(path.relative_to(root)).encode(), total))
    return {**versions(), "rljax's source": f"{total:08x}"}


def check_identity(drivers: dict[str, str]) -> None:
    """Refuse to train with other versions than the driver's."""
    for name, wanted in drivers.items():
        if identity()[name] != wanted:
            what = "another version of rljax" if name == "rljax's source" else f"{name} {identity()[name]}"
            here = "" if name == "rljax's source" else f" {wanted}"
            raise UsageError(
                f"A worker of the cluster has {what} than this machine: install {name.partition("'")[0]}{here} there."
            )


def measure(shipment: Shipment, drivers: dict[str, str], is_sized: bool) -> Layout | bytes:
    """The devices of this worker, and the sizes of batches for them unless they are known; or a pickled error."""
    try:
        check_identity(drivers)
        _, experiment, groups = _unpacked(shipment)
        sized = groups if experiment.space is None else groups[:1]
        sizes = () if is_sized else tuple(_size(experiment, group) for group in sized)
        return Layout(experiment.devices, experiment.device, devices.cpu_threads(), sizes)
    except Exception as error:
        return pickled(error)


def _size(experiment: Experiment, group: sweeps.Group) -> int:
    """How many runs of a group to train side by side: no more than are useful, and fit into this worker's memory."""
    mesh, options = experiment.local_mesh, experiment.options
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    most = (_RUNS_PER_CPU if is_cpu else _RUNS_PER_DEVICE) * experiment.lane_devices
    runs = [(point, seed) for point in group.points for seed in range(options.seeds)]
    size = min(len(runs), options.runs_per_batch or most)
    batch = Batch(group, Runs.of(runs[:size]), lanes_for(size, experiment.lane_devices))
    batch = batching.split_for_speed(experiment, batch)[0]
    available = devices.available_bytes(mesh.devices.flat, options.memory_bytes)
    config = experiment.points[group.points[0]].config
    state = jax.eval_shape(experiment.algorithm.init, jax.random.key(0), config)
    needed = compilation.bytes_of(state) * batch.lanes // mesh.size
    if available is not None and (options.memory_limit is not None or needed > _ROOMY * available):
        needed = session.compiled(experiment, batch).programs.bytes
        lanes = batching.lanes_that_fit(experiment, batch, needed, available)
        if lanes < batch.lanes:
            batch = batching.split_to_fit(experiment, batch, lanes, needed, available)[0]
    return len(batch.runs)


def train(shipment: Shipment, order: Order, mailbox: Any, drivers: dict[str, str]) -> Outcome:
    """Train a task from its checkpoints, and save; errors of training are part of the outcome."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):  # the mailbox starts again elsewhere
        if mailbox.begin.remote(order.number).future().result():
            return Outcome([])
    link = _Link(ray, mailbox, order.number)
    try:
        check_identity(drivers)
        job, experiment, groups = _unpacked(shipment)
        assert experiment.folder is not None
        with (
            console.listening(lambda sentence: link.send("say", sentence, at_once=True)),
            folders.task_locked(experiment.folder, order.number, _LOCK_SECONDS),
        ):
            return _train(experiment, groups[order.group], order, link, job.forwards_metrics)
    except Exception as error:
        return Outcome([], error=pickled(error))
    finally:
        link.end()


def _train(experiment: Experiment, group: sweeps.Group, order: Order, link: _Link, forwards: bool) -> Outcome:
    folder = experiment.folder
    assert folder is not None
    task = Task(order.number, group, order.rung, Runs.of(order.runs), order.lanes)
    remote.fetch(folder, lambda name: _is_of(order, name))
    saved, source = checkpoints.of_task(folder, order.number, order.tasks), None
    for one in saved:
        session.check_checkpoint(experiment, one)
        _refuse_shorter(experiment, one)
        link.send("record", one.record.without_metrics())
    if order.rung and not saved:
        source = _source(folder, order, task)

    def report(progress: Progress) -> None:
        kind = "progress" if forwards or progress.is_evaluation else "chunk"
        lean = progress.for_sending(with_metrics=forwards)
        link.send(kind, (lean, progress.training_return), at_once=progress.is_evaluation)
        if link.stop_is_wanted() == STOP:
            progress.stop()

    outlets = Outlets(experiment, (report,), writer=checkpoints.Writer(folder), logs=link if forwards else None)
    with _asked_to_go() as was_asked:
        here = session.Session(
            experiment=experiment,
            pending=task.batches(experiment, saved, source),
            numbers={order.number: free_numbers(order.number, order.tasks, saved)},
            available=None,  # the size is the manifest's: a batch is halved only if it really does not fit
            interrupted=lambda: was_asked() or link.stop_is_wanted() in (INTERRUPT, LEAVE),
            show=lambda status: None,
            outlets=outlets,
            followers=lambda *_: [],
        )
        try:
            here.train()
        finally:
            outlets.flush()
        parts = []
        for trained in here.trained:
            name, record = trained.batch.folder_name, trained.record
            metrics_file.write_batch(experiment, folder, name, record, trained.batch.rung_start(experiment))
            lean = record.without_metrics()
            parts.append(Part(name, trained.batch.lanes, lean, trained.final, trained.num_updates))
        remote.upload(folder)
        is_sent_away = link.wish == LEAVE or (was_asked() and not link.wish)
        return Outcome(parts, is_sent_away=is_sent_away, compile_seconds=here.compile_seconds)


def _is_of(order: Order, name: str) -> bool:
    """True if a file is of a checkpoint that a task begins with."""
    kind, _, rest = name.partition("/")
    number = rest.partition("/")[0]
    is_batch = kind == checkpoints.FOLDER and number.isdecimal()
    return is_batch and (number in order.sources or int(number) % order.tasks == order.number)


def _refuse_shorter(experiment: Experiment, saved: Saved) -> None:
    """Refuse a new length that is shorter than what has been trained."""
    done, num_updates = saved.record.updates, experiment.points[saved.record.runs.configurations[0]].config.num_updates
    if num_updates < done:
        raise UsageError(
            f"total_steps is now only {num_updates:,} updates, and {done:,} are already completed: pass a larger one."
        )


def _source(folder: pathlib.Path, order: Order, task: Task) -> Saved:
    """The state of a task's runs at the end of the rung before."""
    found = [checkpoints.newest(folder / checkpoints.FOLDER / name) for name in order.sources]
    parts = [one for one in found if one is not None]
    if len(parts) < len(found):
        raise UsageError(f"{folder} lacks checkpoints of the rung before: restore them, or start again.")
    return checkpoints.joined(parts, task.runs)._replace(lanes=order.lanes, rung=order.rung)


_jobs: dict[str, Any] = {}  # the last one, which the next task shares
_experiments: dict[str, tuple[Job, Experiment, list[sweeps.Group]]] = {}


def key_of(shipment: Shipment) -> str:
    """What identifies a shipment."""
    return hashlib.sha256(shipment.pickled).hexdigest()


def unpacked(shipment: Shipment) -> Any:
    """What the driver has sent, with JAX set up as there."""
    from ray import cloudpickle

    key = key_of(shipment)
    if key not in _jobs:
        _jobs.clear()
        devices.configure_jax()
        use_default()
        _jobs[key] = unpack(shipment, cloudpickle.loads)
    return _jobs[key]


def _unpacked(shipment: Shipment) -> tuple[Job, Experiment, list[sweeps.Group]]:
    """The experiment on this worker's devices, and its groups."""
    key, job = key_of(shipment), unpacked(shipment)
    if key not in _experiments:
        _experiments.clear()
        folder = remote.joined(job.folder)
        _check_sees(folder, *job.token)
        runs, configs = len(job.points) * job.options.seeds, [point.config for point in job.points]
        used = job.options.devices if job.layout is None else job.layout.devices
        experiment = Experiment(
            algorithm=job.algorithm,
            name=job.name,
            points=list(job.points),
            fields=job.fields,
            options=job.options,
            mesh=placement.mesh(runs, used, job.options.shard, configs),
            folder=folder,
            layout=job.layout,
            space=job.space,
        )
        _experiments[key] = job, experiment, experiment.groups()
    return _experiments[key]


def _check_sees(folder: pathlib.Path, name: str, text: str) -> None:
    """Refuse a folder without the file that the driver has written there."""
    until = time.monotonic() + _SEES_SECONDS  # for a shared folder to show a new file
    while True:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if (folder / name).read_text(encoding="utf-8") == text:
                return
        if time.monotonic() > until:
            raise UsageError(
                f"A worker of the cluster does not see {folder} as this machine does: choose a folder that all "
                "machines share."
            )
        time.sleep(0.2)


@contextlib.contextmanager
def _asked_to_go() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM, with which Ray ends the workers of a node that stops, instead of ending at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def pickled(error: Exception) -> bytes:
    """An error with its notes and the user's line, for the driver."""
    from ray import cloudpickle

    line = user_line(error)
    notes = [*getattr(error, "__notes__", []), "On a worker:\n" + "".join(traceback.format_exception(error))]
    try:
        data = cloudpickle.dumps(error)
        pickle.loads(data)
    except Exception:  # errors of custom classes need not survive it
        data = cloudpickle.dumps(RuntimeError(located(error)))
    return pickle.dumps((data, line, notes))


def unpickled(data: bytes) -> Exception:
    """The error that `pickled` has packed."""
    from ray import cloudpickle

    packed, line, notes = pickle.loads(data)
    error = cloudpickle.loads(packed)
    error.__notes__ = notes
    setattr(error, WORKERS_LINE, line)
    return error
