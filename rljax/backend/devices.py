"""CPU devices, threads and bytes: one device per core, so that runs can be sharded over the cores."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

import jax

from rljax.backend import threefry
from rljax.errors import UsageError, shown

_USABLE = 0.9  # of a device's bytes; the compiler's estimates do not include everything

PROC, CGROUP = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")

_MIN_FILES = 64  # that a process may have open

_MIN_ADDRESSES = 2**31  # bytes of address space

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def configure_jax(single_run: bool = False) -> str | None:
    """Set JAX up for a CPU: one device per core, or one thread for a single run; and hash without loops.

    Call it before anything starts JAX. Settings of the user (`jax_num_cpu_devices`, `NPROC`, or a number of CPU devices
    in `XLA_FLAGS`) are kept.

    Args:
        single_run: this process trains one run of small networks, for which one thread is faster than many.

    Raises:
        UsageError: the process may use too few files or addresses for JAX.

    Returns:
        a sentence for the user if JAX has already started with fewer CPU devices than cores and without such settings,
        else None.
    """
    _check_limits()
    threefry.install()
    if not single_run:
        return _use_cpu_cores()
    _use_one_cpu_thread()
    return None


def _check_limits() -> None:
    """Refuse limits of the system (ulimit) under which JAX ends without a sentence, or hangs."""
    try:
        import resource
    except ImportError:  # Windows
        return
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < _MIN_FILES:
        raise UsageError(f"Only {files} files may be open at once, and training needs {_MIN_FILES}: raise `ulimit -n`.")
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= space < _MIN_ADDRESSES:
        raise UsageError(
            f"Only {readable(space)} of addresses may be used, and JAX needs {readable(_MIN_ADDRESSES)}: "
            "raise `ulimit -v`."
        )


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


def available_bytes(devices: Iterable[jax.Device], limit: int | None) -> int | None:
    """The bytes that runs can use on each of these devices; None if unknown.

    Args:
        devices: of this process. CPU devices share the machine's memory.
        limit: upper bound on the bytes of all these devices together.
    """
    devices = list(devices)
    stats = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in device_stats for device_stats in stats):
        free = [device_stats["bytes_limit"] - device_stats.get("bytes_in_use", 0) for device_stats in stats]
    else:
        free = [size // len(devices) for size in free_bytes()]
    bounds = [int(_USABLE * size) for size in free]
    return min(bounds if limit is None else [*bounds, limit // len(devices)], default=None)


def total_bytes(devices: Iterable[jax.Device]) -> int | None:
    """The bytes that each of these devices has, in use or not; None if unknown. CPU devices share the machine's."""
    devices = list(devices)
    stats = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in device_stats for device_stats in stats):
        return min(device_stats["bytes_limit"] for device_stats in stats)
    sizes = [limit for limit, _ in _groups()]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        sizes.append(_meminfo("MemTotal"))
    with contextlib.suppress(ImportError):  # Windows
        import resource

        limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        sizes += [limit for limit in limits if limit >= 0]
    return min(sizes) // len(devices) if sizes else None


def free_bytes() -> list[int]:
    """Free bytes of this machine, and of the control groups around this process, as far as they are known."""
    free = [left for _, left in _groups()]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        free.append(_meminfo("MemAvailable"))
    return free


def _meminfo(name: str) -> int:
    lines = (PROC / "meminfo").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _groups() -> Iterator[tuple[int, int]]:
    """The bytes that this process's control group and those around it may use, and how many are left of them."""
    own = ""
    with contextlib.suppress(OSError, StopIteration):
        lines = (PROC / "self/cgroup").read_text().splitlines()
        own = next(line for line in lines if line.startswith("0::")).removeprefix("0::").strip("/")
    for group in (CGROUP / own, *(CGROUP / own).parents):
        with contextlib.suppress(OSError, ValueError):
            limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
            stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            cached = int(stats.get("inactive_file", 0))  # file cache, which is freed when needed
            yield limit, limit - used + cached
        if group == CGROUP:
            break


def parse_bytes(text: str | int) -> int:
    """Parse a size such as "8GB" or "512MiB" into bytes; an invalid one is a `UsageError`."""
    written = text if isinstance(text, str) else shown(text)
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?\s*", written.lower())
    size = float(match[1]) * _UNITS.get(match[2], 0) if match is not None else 0.0
    if not 1 <= size < 2.0**63:
        raise UsageError(f"memory_limit must be a number of bytes or a size such as 8GiB, got {shown(text)}.")
    return int(size)


def readable(size: int) -> str:
    """Format bytes with a unit, such as "3 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.3g} TiB"
