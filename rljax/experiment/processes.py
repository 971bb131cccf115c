"""Train one experiment with several processes, on one machine or many; each trains a share of the runs.

JAX's multi-controller runtime (`jax.distributed`) connects them, in a child process that then exits: runs do not
communicate, and while that runtime lives, the end of one process aborts all others. After that, processes watch each
other through `hosts/` in the run's folder, which all must see: each one touches a file there every second.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from rljax.errors import UsageError, shown
from rljax.report import console, files

BEGUN, READ, DONE = range(3)  # stages of a process: started, has read the folder, has trained its runs
_HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 30.0  # after which a process counts as dead
_GRACE_SECONDS = 300.0  # for the other processes to save before they end: no chunk takes as long


class PeerLost(UsageError):
    """Another process of the run died or stopped; the results of this one have been saved."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The number of this process and of all processes, from `rljax.join`."""

    process: int = 0
    processes: int = 1
    token: int = 0
    """Shared by the processes that were started together, and by no others."""
    _runs: Iterator[int] = dataclasses.field(default_factory=itertools.count, repr=False, compare=False)


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> Hosts:
    """Wait for the other processes of this run; each calls this before anything starts JAX.

    Args:
        coordinator: address of process 0 and a free port there, "10.0.0.1:1234"; None under Slurm or Open MPI, which
            provide it and the next two.
        num_processes: how many there are.
        process_id: the number of this one, from 0.
        timeout: seconds to wait for them.

    Raises:
        UsageError: the arguments are missing or invalid, or not all processes connected.
    """
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise UsageError(f"coordinator must be an address and a port, such as 10.0.0.1:1234, got {shown(coordinator)}.")
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise UsageError("Pass coordinator, num_processes and process_id together, or none of them under Slurm or MPI.")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise UsageError(f"process_id must be between 0 and num_processes - 1, got {process_id} of {num_processes}.")
    options = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "initialization_timeout": timeout,
    }
    script = pathlib.Path(__file__).with_name("rendezvous.py")
    command = [sys.executable, "-P", str(script), json.dumps(options)]
    try:
        meeting = subprocess.run(command, capture_output=True, text=True, timeout=timeout + 60, check=False)
        met = json.loads(meeting.stdout.strip().splitlines()[-1]) if meeting.returncode == 0 else None
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        met = None
    if met is None and coordinator is None:
        raise UsageError(
            "JAX finds no Slurm or Open MPI job here (Open MPI 5 needs the package mpi4py), or its processes "
            f"could not connect within {timeout} seconds: pass coordinator, num_processes and process_id."
        )
    if met is None:
        raise UsageError(
            f"Process {process_id} of {num_processes} could not connect to the others at {coordinator} within "
            f"{timeout} seconds: start all of them, and check that this is the address of process 0 and that the port "
            "is free."
        )
    accelerators = met.pop("accelerators")
    # A device that Slurm has bound to the task is the only visible one, whatever its number on the machine.
    is_bound = len(os.environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1
    if accelerators not in (None, "all") and not is_bound:
        jax.config.update("jax_cuda_visible_devices", accelerators)
    return Hosts(**met)


class Peers:
    """The processes of one run: process 0 watches all others, and they watch process 0."""

    def __init__(self, hosts: Hosts, folder: pathlib.Path | None) -> None:
        self.process, self.processes = hosts.process, hosts.processes
        self._token = [hosts.token, next(hosts._runs)]
        self._folder = pathlib.Path() if folder is None else folder / "hosts"
        machine = platform.node()
        self._state: dict[str, Any] = {"token": self._token, "machine": machine, "stage": BEGUN, "all": {}}
        self._watched = [i for i in range(self.processes) if (i == 0) != (self.process == 0)]
        self._beats: dict[int, tuple[int, float]] = {}  # of each watched process: the latest beat, and when it was seen
        self._last: dict[int, dict[str, Any]] = {}  # its last state
        self._ended = threading.Event()
        self._publishing = threading.Lock()
        self._published: dict[str, Any] = {}
        self._lost: str | None = None

    @property
    def is_alone(self) -> bool:
        """True if there is only one process."""
        return self.processes == 1

    @property
    def num_local(self) -> int:
        """Number of processes on this machine, which share its memory; known once all have started."""
        return self._all().get("machines", {}).get(self._state["machine"], 1)

    def lost(self) -> str | None:
        """A sentence about a process that died or stopped; None while all are running."""
        return self._lost

    def reach(self, stage: int) -> None:
        """Publish the stage of this process."""
        self._publish(stage=stage)

    def wait(self, stage: int, interrupted: Callable[[], bool]) -> None:
        """Return once all have reached `stage`, one is lost, or the user interrupts."""
        while not (self.is_alone or self._lost or interrupted() or self._all().get("stage", BEGUN) >= stage):
            time.sleep(0.1)

    def begin(self) -> None:
        """Wait for process 0, which prepares the folder, before writing into it; then send heartbeats and watch."""
        started = time.monotonic()
        while self.process and 0 not in self._last:
            self._look(0)
            if time.monotonic() - started > SILENCE_SECONDS:
                raise PeerLost(
                    f"Process 0 of {self.processes} has not started in {self._folder.parent}: check its output, "
                    "and that all processes use the same folder."
                )
            time.sleep(0.1)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._publish()
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self, error: BaseException | None = None) -> None:
        """Stop watching; publish an error, unless it came from another process."""
        self._ended.set()
        if error is not None and self._lost is None:
            with contextlib.suppress(UsageError):
                self._publish(stopped=(str(error) or type(error).__name__).strip().splitlines()[0])

    def _all(self) -> dict[str, Any]:
        """What process 0 has published about all processes."""
        return (self._last.get(0, {}) if self.process else self._state).get("all", {})

    def _publish(self, **news: Any) -> None:
        with self._publishing:
            self._state |= news
            if not self.is_alone:
                files.write_json(self._path(self.process), self._state)

    def _path(self, process: int) -> pathlib.Path:
        return self._folder / f"{process:04d}.json"

    def _watch(self) -> None:
        while not self._ended.wait(_HEARTBEAT_SECONDS) and self._lost is None:
            with contextlib.suppress(OSError):
                os.utime(self._path(self.process))  # needs no room on a full disk
            for process in self._watched:
                self._look(process)
            if self.process == 0:
                with contextlib.suppress(UsageError):  # a full disk; the next beat tries again
                    self._publish_summary()
        if self._lost is not None and not self._ended.wait(_GRACE_SECONDS):
            console.say(self._lost)
            os._exit(1)

    def _publish_summary(self) -> None:
        """Publish the stage that all have reached, or that one is lost."""
        if len(self._last) == len(self._watched):
            states = [self._state, *self._last.values()]
            machines = collections.Counter(state["machine"] for state in states)
            summary = {"stage": min(state["stage"] for state in states), "machines": dict(machines)}
            if summary != self._published:
                self._publish(all=summary)
                self._published = summary
        if self._lost is not None:
            self._publish(stopped=self._lost)

    def _look(self, process: int) -> None:
        beat, state = -1, None
        with contextlib.suppress(OSError, ValueError), self._path(process).open(encoding="utf-8") as file:
            beat, state = os.fstat(file.fileno()).st_mtime_ns, json.load(file)
        now = time.monotonic()
        if state is not None and state["token"] == self._token:
            self._last[process] = state
        else:
            beat = -1  # left over from an earlier start
        before, seen_at = self._beats.get(process, (-2, now))
        self._beats[process] = (beat, seen_at if beat == before else now)
        said = self._last.get(process, {})
        name = f"Process {process} of {self.processes}"
        if said.get("stopped"):
            self._lost = (
                said["stopped"] if said["stopped"].startswith("Process") else f"{name} stopped: {said['stopped']}"
            )
        # A process may end once it has trained its runs; process 0 only once all have.
        done = said.get("all", {}).get("stage") == DONE if process == 0 else said.get("stage") == DONE
        if self._lost is None and not done and now - self._beats[process][1] > SILENCE_SECONDS:
            self._lost = f"{name} has not responded for {SILENCE_SECONDS:.0f} seconds: see its output."


@contextlib.contextmanager
def peers(hosts: Hosts | None, folder: pathlib.Path | None) -> Iterator[Peers]:
    """Join the processes that train into `folder`, and let the others know if this one fails."""
    joined = Peers(hosts or Hosts(), folder)
    if joined.is_alone:
        yield joined
        return
    joined.begin()
    try:
        yield joined
    except BaseException as error:
        joined.end(error)
        raise
    joined.end()
