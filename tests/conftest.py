"""What has to be settled before anything starts JAX: one CPU device a core, and quick compilation."""

import jax
import pytest

from rljax.backend.devices import configure_jax


def pytest_configure(config):
    configure_jax()
    if "slow" not in config.getoption("-m").replace("not slow", ""):  # long learning runs want the fast programs
        # Most tests compile a program to run it once, and compiling is most of their time; see `toys.optimized`.
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Let go of a module's compiled programs: those of the whole suite are more than a process can map."""
    yield
    jax.clear_caches()
