"""Settings that come before JAX starts: one CPU device a core, quick compilation, and signals as in a terminal."""

import os
import platform
import signal

import jax
import pytest

from rljax.backend.devices import configure_jax

QUICK = ("--xla_cpu_max_isa=AVX", "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters")


def pytest_configure(config):
    # A shell starts background jobs with SIGINT ignored, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_enable_compilation_cache", False)  # the command line would write to the user's
    if "slow" not in config.getoption("-m").replace("not slow", ""):  # long learning runs want the fast programs
        # Most tests compile a program to run it once, and compiling is most of their time; see `toys.optimized`.
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # and for the processes that tests start
        if platform.machine() == "x86_64":
            # XLA's older emitters compile a learner in half the time of its new ones. They fuse multiplications with
            # additions according to what else is in a kernel, so that one learner in two programs would differ in
            # its last bits; without the instructions for that it does not.
            os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK])
    configure_jax()


@pytest.fixture
def default_signals():
    """Handle SIGTERM and SIGHUP by default, here and in child processes: nohup ignores them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Free a module's compiled programs: those of all tests are more than a process can map."""
    yield
    jax.clear_caches()
