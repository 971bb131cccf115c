"""What has to be settled before anything starts JAX: one CPU device a core, and quick compilation."""

import os

from rljax.devices import use_cpu_cores

# Most tests compile a program to run it once: with little optimisation the suite takes two thirds of the time. With
# none at all, two programs that do the same need no longer round alike.
_QUICK = "--xla_backend_optimization_level=1"


def pytest_configure(config):
    use_cpu_cores()
    if "slow" not in config.getoption("-m").replace("not slow", ""):  # long learning runs want the fast programs
        os.environ.setdefault("XLA_FLAGS", _QUICK)
