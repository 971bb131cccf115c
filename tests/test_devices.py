"""`rljax.configure_jax` in fresh processes: devices, threads, and what it reports when JAX has already started."""

import os
import subprocess
import sys

import pytest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
SETTINGS = ("NPROC", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES")

pytestmark = pytest.mark.skipif(CORES == 1, reason="needs two cores")


def run(program, **env):
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run([sys.executable, "-c", program], env=clean | env, check=True, capture_output=True, text=True)


REPORT = "import jax, os, rljax; print(rljax.configure_jax({}), jax.device_count(), os.environ.get('NPROC'))"


@pytest.mark.parametrize(
    ("single_run", "env", "expected"),
    [
        (False, {}, f"None {CORES} None"),
        (True, {}, "None 1 1"),
        (False, {"JAX_NUM_CPU_DEVICES": "3"}, "None 3 None"),
        (True, {"JAX_NUM_CPU_DEVICES": "3"}, "None 3 None"),
        (False, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, "None 3 None"),
    ],
)
def test_a_core_has_a_device_unless_the_user_has_set_another_number(single_run, env, expected):
    assert run(REPORT.format(single_run), **env).stdout.split("\n")[0] == expected


STARTED_EARLY = """
import jax
jax.numpy.zeros(1)
import rljax
print(rljax.configure_jax())
print(rljax.configure_jax(single_run=True))
for _ in range(2):
    try:
        rljax.run(None, None)
    except rljax.UsageError:
        pass
"""


def test_a_start_of_jax_before_it_is_reported_once():
    sentence = (
        f"JAX has already started with 1 CPU device on {CORES} cores: "
        "call rljax.configure_jax() at the top of the script to train seeds on all cores."
    )
    done = run(STARTED_EARLY)
    assert done.stdout.splitlines() == [sentence, "None"]
    assert done.stderr.splitlines().count(f"rljax: {sentence}") == 1
    assert run(STARTED_EARLY, JAX_NUM_CPU_DEVICES="1").stdout.splitlines() == ["None", "None"]
