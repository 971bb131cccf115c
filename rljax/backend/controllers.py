"""Several processes that run one program over the devices of all: JAX's multi-controller runtime.

Every process makes the same calls in the same order. Decisions that could differ, since they depend on a clock, a
signal or a file, are agreed on first: see `first` and `highest`. Outside `together`, and in a single process, all
functions here return what they are given.
"""

import atexit
import contextlib
import ctypes
import errno
import json
import os
import re
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from rljax.errors import UsageError

_REACH_SECONDS = 30.0  # for process 0 to listen at its address
_JOIN_SECONDS = 300.0  # for all processes to come
_JAX_SECONDS = 3600  # JAX ends the process if it waits for longer, with a stack trace
_LINGER_SECONDS = 2.0  # that process 0 waits after an error, so that the others end first
_LOST = re.compile(
    r"gloo|nccl|connection (closed|reset)|coordination|heartbeat|socket closed|broken pipe", re.IGNORECASE
)

_is_together = False
_process: int | None = None  # the number of this process, once it has met the others


def parse(distributed: str) -> tuple[int, int, str] | None:
    """The process, their number and the address in a value of `distributed`; None for "auto"."""
    if distributed == "auto":
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})@(.+):(\d{1,5})", distributed)
    if found is None or not int(found[1]) < int(found[2]) or not 0 < int(found[4]) < 2**16:
        raise UsageError(
            f"distributed must be auto, or PROCESS/PROCESSES@HOST:PORT such as 0/2@node1:5000, got {distributed!r}."
        )
    return int(found[1]), int(found[2]), f"{found[3]}:{int(found[4])}"


def join(distributed: str, say: Callable[[str], object]) -> None:
    """Join the other processes, before anything starts JAX; a second call does nothing.

    Args:
        distributed: "auto" for what Slurm or Open MPI say, or "PROCESS/PROCESSES@HOST:PORT".
        say: prints a sentence while this waits.

    Raises:
        UsageError: the address is wrong, processes do not come, or JAX has started already.
    """
    given = parse(distributed)
    if jax.distributed.is_initialized():
        return
    settings: dict[str, Any] = {}
    if given is not None:
        process, processes, address = given
        _reach(address, is_ours=process == 0)
        settings = {"coordinator_address": address, "num_processes": processes, "process_id": process}
        settings["cluster_detection_method"] = "deactivate"
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    failures: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(**settings, initialization_timeout=_JAX_SECONDS)
        except Exception as error:  # JAX raises many kinds
            failures.append(error)

    # In a thread, so that Ctrl-C and our own limit end the wait: JAX's would end in a stack trace.
    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    started, has_said = time.monotonic(), False
    while thread.is_alive() and time.monotonic() - started < _JOIN_SECONDS:
        thread.join(0.1)
        if not has_said and time.monotonic() - started > 5:
            has_said = True
            say("Waiting for the other processes.")
    if thread.is_alive():
        raise UsageError(
            f"Not all processes have come in {_JOIN_SECONDS:.0f} seconds: start each with its own number and the same "
            "address."
        )
    if failures:
        raise UsageError(_why_not_joined(failures[0], distributed)) from failures[0]


def _why_not_joined(error: Exception, distributed: str) -> str:
    text = str(error)
    if "before any JAX" in text:
        return (
            "JAX has already started in this process: call jax.distributed.initialize at the top of the script, and "
            "pass distributed=auto."
        )
    if distributed == "auto" and "be defined" in text:
        return "There is no Slurm or Open MPI around this process: pass distributed=PROCESS/PROCESSES@HOST:PORT."
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return f"The processes could not be joined ({lines[0][:300].rstrip('.')}): check their numbers and the address."


def _reach(address: str, is_ours: bool) -> None:
    """Wait until process 0 listens at its address; in process 0 itself check that it is this machine's and free."""
    host, _, port = address.rpartition(":")
    place = host.strip("[]"), int(port)
    with contextlib.ExitStack() as stack:
        if is_ours:
            try:
                family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
                stack.enter_context(
                    socket.create_server(("", place[1]), family=family, dualstack_ipv6=socket.has_dualstack_ipv6())
                )
            except OSError as error:
                why = "in use by another process" if error.errno == errno.EADDRINUSE else error.strerror
                raise UsageError(f"Process 0 cannot use port {port}, since it is {why}: choose another.") from None
        until = time.monotonic() + _REACH_SECONDS
        while True:
            try:
                socket.create_connection(place, timeout=max(until - time.monotonic(), 0.1)).close()
                return
            except OSError as error:
                why = error.strerror or str(error)
                if is_ours or isinstance(error, socket.gaierror) or time.monotonic() > until:
                    break
                time.sleep(0.2)
    if is_ours:
        raise UsageError(f"{address} does not lead to this machine, on which process 0 runs ({why}): give its address.")
    raise UsageError(f"Process 0 does not answer at {address} ({why}): start it first, or check the address.")


def _require_equal_devices() -> None:
    """Refuse processes of which some have more devices than others."""
    found = [device.process_index for device in jax.devices()]
    counts = [found.count(process) for process in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise UsageError(f"All processes need the same number of devices, and they have {', '.join(map(str, counts))}.")


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Drop what libraries write to standard output, past Python."""
    library = ctypes.CDLL(None)
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def together(distributed: str | None, say: Callable[[str], object]) -> Iterator[None]:
    """Run what follows with the other processes if `distributed` says so.

    Raises:
        UsageError: as `join`; or another process was lost.
    """
    global _is_together, _process  # noqa: PLW0603 - as JAX's runtime, which is global, too
    if distributed is None:
        yield
        return
    join(distributed, say)
    if _process is None:
        atexit.register(_end_after_error)
        _require_equal_devices()
        with _without_output():  # Gloo prints to standard output that it has connected
            _gathered([0])
    _process = jax.process_index()
    before, _is_together = _is_together, jax.process_count() > 1
    try:
        yield
    except Exception as error:
        if _is_together and not isinstance(error, UsageError) and _LOST.search(str(error)):
            lost = UsageError(
                "Another process of this run has ended, and with it the run: see its own message; "
                "`rljax resume` continues from the newest checkpoint, on any number of processes."
            )
            for note in getattr(error, "__notes__", []):
                lost.add_note(note)
            raise lost from error
        raise
    finally:
        _is_together = before


def count() -> int:
    """The number of processes that run together."""
    return jax.process_count() if _is_together else 1


def is_first() -> bool:
    """True in process 0, which prints and writes; True in a single process."""
    return not _is_together or jax.process_index() == 0


def is_first_of_all() -> bool:
    """As `is_first`, also after `together` has ended."""
    return _process in (None, 0)


def first(value: int) -> int:
    """Process 0's value, in every process."""
    return int(_gathered([value])[0, 0]) if _is_together else value


def highest(value: int) -> int:
    """The highest value of all processes, in every process."""
    return int(_gathered([value]).max()) if _is_together else value


def _gathered(values: list[int]) -> np.ndarray:
    """Every process's values, `[processes, values]`."""
    from jax.experimental import multihost_utils

    words = np.asarray(values, np.int64).view(np.uint32)  # without x64 JAX has no integers of 64 bits
    return np.ascontiguousarray(multihost_utils.process_allgather(words)).view(np.int64)


def on_host(x: Any) -> np.ndarray:
    """The whole array as NumPy's, also where its parts are on the devices of several processes, which all call this."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def placed(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has in full, with each process's part on its devices."""
    if not _is_together:
        return tree
    return jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]), tree, shardings)


@contextlib.contextmanager
def refusing_together() -> Iterator[None]:
    """If what follows is a `UsageError` in one process, it is one in all."""
    try:
        yield
    except UsageError:
        highest(1)
        raise
    if highest(0):
        raise UsageError("Another process cannot continue: see its own message.")


def require_same(facts: Mapping[str, Any]) -> None:
    """Refuse to train if the processes differ in one of these facts, which are plain data.

    Raises:
        UsageError: which ones.
    """
    if not _is_together:
        return
    names, values = _checksum(list(facts)), [_checksum(value) for value in facts.values()]
    rows = _gathered([names, _checksum(values)])
    others = np.flatnonzero((rows != rows[0]).any(axis=1))
    if not len(others):
        return
    differing = ["their programs"]
    if (rows[:, 0] == rows[0, 0]).all():
        columns = _gathered(values)
        differing = [name for name, column in zip(facts, columns.T, strict=True) if (column != column[0]).any()]
    raise UsageError(
        f"Processes 0 and {others[0]} differ in {', '.join(differing)}: start all with the same program and arguments."
    )


def _checksum(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def end_after_error(code: int) -> None:
    """End a process of several whose program has failed, at once: JAX would wait for the others, and then abort."""
    if not jax.distributed.is_initialized():
        return
    if _process == 0:  # through which the others are connected
        time.sleep(_LINGER_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_after_error() -> None:
    """At the exit of a script; its traceback has been printed."""
    error = getattr(sys, "last_exc", None)
    if error is not None and not isinstance(error, KeyboardInterrupt):
        end_after_error(1)
