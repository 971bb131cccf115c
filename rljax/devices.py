"""One CPU device a core, so that a population's seeds can be sharded over the cores."""

import contextlib
import os

import jax


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cpu_cores() -> None:
    """Have JAX show one CPU device a core, unless it has started already or its user chose a number.

    Independent programs on a device each are faster than one program on a pool of threads, and XLA's pool has been
    seen to deadlock. This is JAX's own setting `jax_num_cpu_devices`; where it is set, it is left alone.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or jax.config.jax_num_cpu_devices != -1:
        return
    with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices it has
        jax.config.update("jax_num_cpu_devices", _num_cores())
