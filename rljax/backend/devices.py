"""CPU devices, threads and bytes: one device per core, so that runs can be sharded over the cores."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterable

import jax

from rljax.backend import threefry
from rljax.errors import UsageError

_USABLE = 0.9  # of a device's bytes; the compiler's estimates do not include everything

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def configure_jax(single_run: bool = False) -> str | None:
    """Set JAX up for a CPU: one device per core, or one thread for a single run; and hash without loops.

    Call it before anything starts JAX. Settings of the user (`jax_num_cpu_devices`, `NPROC`, or a number of CPU devices
    in `XLA_FLAGS`) are kept.

    Args:
        single_run: this process trains one run of small networks, for which one thread is faster than many.

    Returns:
        a sentence for the user if JAX has already started with fewer CPU devices than cores and without such settings,
        else None.
    """
    threefry.install()
    if not single_run:
        return _use_cpu_cores()
    _use_one_cpu_thread()
    return None


def _num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _use_cpu_cores() -> str | None:
    """Give JAX one CPU device per core.

    Independent programs, one per device, are faster than one program on a pool of threads, and XLA's pool has been seen
    to deadlock.
    """
    if _num_devices_is_set():
        return None
    cores = _num_cores()
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:  # JAX has already started
        devices = jax.local_device_count()
        if jax.default_backend() == "cpu" and devices < cores:
            return (
                f"JAX has already started with {devices} CPU device{'s' * (devices > 1)} on {cores} cores: "
                "call rljax.configure_jax() at the top of the script to train seeds on all cores."
            )
    return None


def _use_one_cpu_thread() -> None:
    """Give JAX one CPU device with one thread.

    Threads would pass each other operations of microseconds, which costs more time than it saves. XLA reads the size of
    its thread pool from the environment variable `NPROC`.
    """
    if not _num_devices_is_set() and "NPROC" not in os.environ:
        with contextlib.suppress(RuntimeError):  # JAX has already started
            jax.config.update("jax_num_cpu_devices", 1)
            os.environ["NPROC"] = "1"


def cpu_threads() -> int:
    """The number of XLA's CPU threads. With another number, results are equal only to rounding."""
    try:
        threads = int(os.environ["NPROC"])
    except (KeyError, ValueError):  # XLA ignores text that is not a number
        threads = _num_cores()
    # Every device has at least one thread.
    return max(threads, jax.local_device_count() if jax.default_backend() == "cpu" else 1)


def _num_devices_is_set() -> bool:
    """True if the user or an earlier call has set the number of CPU devices."""
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return by_flag or jax.config.jax_num_cpu_devices != -1


def available_bytes(devices: Iterable[jax.Device], limit: int | None, processes: int = 1) -> int | None:
    """The bytes that runs can use on each of these devices; None if unknown.

    Args:
        devices: of this process. CPU devices share the machine's memory.
        limit: upper bound on the bytes of all these devices together.
        processes: number of processes that share the machine's memory.
    """
    devices = list(devices)
    stats = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in device_stats for device_stats in stats):
        free = [device_stats["bytes_limit"] - device_stats.get("bytes_in_use", 0) for device_stats in stats]
    else:
        free = [size // len(devices) // processes for size in _free_bytes()]
    bounds = [int(_USABLE * size) for size in free]
    return min(bounds if limit is None else [*bounds, limit // len(devices)], default=None)


def _free_bytes() -> list[int]:
    """Free bytes of this machine, and of the container around this process, as far as they are known."""
    free = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    group = pathlib.Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free.append(limit - used + int(stats.get("inactive_file", 0)))  # file cache, which is freed when needed
    return free


def parse_bytes(text: str | int) -> int:
    """Parse a size such as "8GB" or "512MiB" into bytes; an invalid one is a `UsageError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?\s*", str(text).lower())
    if match is None or match[2] not in _UNITS or not float(match[1]):
        raise UsageError(f"memory_limit must be a number of bytes or a size such as 8GiB, got {text!r}.")
    return int(float(match[1]) * _UNITS[match[2]])


def readable(size: int) -> str:
    """Format bytes with a unit, such as "3 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.3g} TiB"
