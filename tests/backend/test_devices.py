"""Devices, their threads, and their bytes."""

import os

import jax
import pytest

import rljax
from rljax.backend import devices


@pytest.mark.parametrize(("chosen", "threads"), [("300", 300), ("0", None), ("many", None), ("", None)])
def test_threads_are_those_that_xla_takes_from_its_variable(monkeypatch, chosen, threads):
    monkeypatch.setenv("NPROC", chosen)  # one device a core is shown here, and each has a thread
    assert devices.cpu_threads() == (threads or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("1.5 GB", 1_500_000_000), (1000, 1000), ("512m", 512_000_000), ("2kib", 2048)],
)
def test_sizes(text, size):
    assert devices.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "-1GB", "0", "GB", ""])
def test_sizes_that_cannot_be(text):
    with pytest.raises(rljax.UsageError, match="memory_limit"):
        devices.parse_bytes(text)


def test_the_memory_of_this_machine_is_shared_by_its_devices():
    one = devices.memory(jax.devices()[:1], None)
    assert one is None or one > 2**20
    assert devices.memory(jax.devices()[:1], 1000) == 1000
    assert devices.memory([jax.devices()[0]] * 2, 1000) == 500
    assert devices.readable(3 * 2**30) == "3 GiB"
