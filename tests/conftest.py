"""What has to be settled before anything starts JAX: one CPU device a core, and quick compilation."""

import os

import jax
import pytest

from rljax.devices import use_cpu_cores

# Most tests compile a program to run it once: with little optimisation the suite takes two thirds of the time. With
# none at all, two programs that do the same need no longer round alike.
_QUICK = "--xla_backend_optimization_level=1"


def pytest_configure(config):
    use_cpu_cores()
    if "slow" not in config.getoption("-m").replace("not slow", ""):  # long learning runs want the fast programs
        os.environ.setdefault("XLA_FLAGS", _QUICK)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Let go of a module's compiled programs: those of the whole suite are more than a process can map."""
    yield
    jax.clear_caches()
