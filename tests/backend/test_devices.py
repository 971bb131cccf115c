"""Devices, their threads, and their bytes."""

import os
import subprocess
import sys

import jax
import pytest

import rljax
from rljax.backend import devices


@pytest.mark.parametrize(("chosen", "threads"), [("300", 300), ("0", None), ("many", None), ("", None)])
def test_cpu_threads_follow_the_variable_that_xla_reads(monkeypatch, chosen, threads):
    monkeypatch.setenv("NPROC", chosen)  # one device a core is shown here, and each has a thread
    assert devices.cpu_threads() == (threads or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("1.5 GB", 1_500_000_000), (1000, 1000), ("512m", 512_000_000), ("2kib", 2048)],
)
def test_sizes_are_parsed_to_bytes(text, size):
    assert devices.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "-1GB", "0", "GB", "", "0.5", 0.5, "9" * 400, 10**400, True, None])
def test_invalid_sizes_are_refused(text):
    with pytest.raises(rljax.UsageError, match="memory_limit"):
        devices.parse_bytes(text)


def test_cpu_devices_share_the_memory_of_the_machine():
    one = devices.available_bytes(jax.devices()[:1], None)
    assert one is None or one > 2**20
    assert devices.available_bytes(jax.devices()[:1], 1000) == 1000
    assert devices.available_bytes([jax.devices()[0]] * 2, 1000) == 500
    assert devices.readable(3 * 2**30) == "3 GiB"


@pytest.mark.parametrize(
    ("limits", "total", "free"), [((300, 200), 200, 150), ((200, 300), 200, 150), ((9999, "max"), 9999, 9949)]
)
def test_the_bytes_of_control_groups(monkeypatch, tmp_path, limits, total, free):
    """Those of this process's group and of the one around it, each with 50 bytes in use besides file cache."""
    groups = [tmp_path / "cgroup", tmp_path / "cgroup/job"]
    groups[1].mkdir(parents=True)
    for group, limit in zip(groups, limits, strict=True):
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("80\n")
        (group / "memory.stat").write_text("anon 50\ninactive_file 30\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/job\n")
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 990 kB\n")
    monkeypatch.setattr(devices, "PROC", tmp_path)
    monkeypatch.setattr(devices, "CGROUP", groups[0])
    assert devices.total_bytes(jax.devices("cpu")[:1]) == total
    assert min(devices.free_bytes()) == free


# --- configure_jax, in fresh processes ---

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
SETTINGS = ("NPROC", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES")

needs_cores = pytest.mark.skipif(CORES == 1, reason="needs two cores")


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


@needs_cores
def test_a_start_of_jax_before_it_is_reported_once():
    sentence = (
        f"JAX has already started with 1 CPU device on {CORES} cores: "
        "call rljax.configure_jax() at the top of the script to train seeds on all cores."
    )
    done = run(STARTED_EARLY)
    assert done.stdout.splitlines() == [sentence, "None"]
    assert done.stderr.splitlines().count(f"rljax: {sentence}") == 1
    assert run(STARTED_EARLY, JAX_NUM_CPU_DEVICES="1").stdout.splitlines() == ["None", "None"]
