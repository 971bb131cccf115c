"""One CPU device a core, so that a population's seeds can be sharded over the cores."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterable

import jax

from rljax.backend import threefry
from rljax.errors import UsageError

_USED = 0.9  # of a device's memory: the rest is for what no program's analysis tells

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cpu_cores() -> None:
    """Have JAX show one CPU device a core, unless it has started already or its user chose a number.

    Independent programs on a device each are faster than one program on a pool of threads, and XLA's pool has been
    seen to deadlock. This is JAX's own setting `jax_num_cpu_devices`; where it is set, it is left alone. Hashes of CPUs
    are compiled without loops from here on, however many devices there are.
    """
    threefry.without_loops()
    if not _chosen():
        with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices it has
            jax.config.update("jax_num_cpu_devices", _num_cores())


def use_one_cpu_thread() -> None:
    """Have JAX show one CPU device that works in one thread, unless it has started already or its user chose a number.

    This is for a process whose only work is one run: XLA's threads would hand each other operations of microseconds,
    which takes longer than it saves. XLA reads the environment variable `NPROC` for the size of its pool.
    """
    if not _chosen() and "NPROC" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", 1)
            os.environ["NPROC"] = "1"


def cpu_threads() -> int:
    """Threads that XLA has on the CPU: products divided among them otherwise are the same to rounding only."""
    try:
        threads = int(os.environ["NPROC"])
    except (KeyError, ValueError):  # XLA passes over text that is no number
        threads = _num_cores()
    return max(threads, jax.local_device_count() if jax.default_backend() == "cpu" else 1)  # a device has one at least


def _chosen() -> bool:
    """Whether the user has said how many CPU devices there are to be."""
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return by_flag or jax.config.jax_num_cpu_devices != -1


def memory(devices: Iterable[jax.Device], limit: int | None, processes: int = 1) -> int | None:
    """Bytes that each of these devices has for a population; None where that cannot be known.

    Args:
        devices: of this process. CPU devices share the machine's memory.
        limit: bytes of all of them together that may be used at most.
        processes: that share the machine's memory.
    """
    devices = list(devices)
    stats = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in each for each in stats):
        free = [each["bytes_limit"] - each.get("bytes_in_use", 0) for each in stats]
    else:
        free = [left // len(devices) // processes for left in _free_memory()]
    bounds = [int(_USED * each) for each in free]
    return min(bounds if limit is None else [*bounds, limit // len(devices)], default=None)


def _free_memory() -> list[int]:
    """Bytes that this machine has left, and the container that the process is in."""
    free = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    group = pathlib.Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free.append(limit - used + int(stats.get("inactive_file", 0)))  # files that are kept only while there is room
    return free


def parse_bytes(text: str | int) -> int:
    """Bytes of a number with a unit, such as "8GB" or "512MiB"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?\s*", str(text).lower())
    if match is None or match[2] not in _UNITS or not float(match[1]):
        raise UsageError(f"memory_limit must be bytes or a size such as 8GiB, got {text!r}.")
    return int(float(match[1]) * _UNITS[match[2]])


def readable(size: int) -> str:
    """Bytes as a person reads them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.3g} TiB"
