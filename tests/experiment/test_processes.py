"""Two processes that train one experiment: the same results, one summary, and what happens if one dies."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import toys
from toys import own

import rljax
from rljax.experiment import processes

TESTS = pathlib.Path(toys.__file__).parent
SCRIPT = """
import os, sys, time; sys.path[:0] = [{root!r}, {tests!r}]
import rljax, toys
from toys import own
from rljax.experiment import history, loop, processes
what, folder, port, process = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
processes.SILENCE_SECONDS = 5.0 if what == "impatient" else 600.0
hosts = rljax.join("127.0.0.1:" + port, 2, process)
if what == "resume":
    rljax.resume(folder, algorithm=own, config={config}, hosts=hosts, progress=False)
    sys.exit()
if what == "halting":
    add_chunk = history.Record.add_chunk
    def halt(record, *inputs):
        add_chunk(record, *inputs)
        if record.updates == 5:
            while not os.path.exists(folder + ".go"):
                time.sleep(0.05)
            processes.SILENCE_SECONDS = {silence}
    history.Record.add_chunk = halt
    loop.train = toys.in_chunks_of(1)
try:
    result = rljax.run(own, {config}, hosts=hosts, out=folder, {options})
except (rljax.UsageError, KeyboardInterrupt) as error:
    print(error, file=sys.stderr)
    sys.exit(3)
print(result.summary["best"])
"""
OPTIONS = {"seeds": 5, "evaluations": 3, "eval_episodes": 2, "sweep": {"rate": [0.1, 0.3]}}


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.walk, num_updates=40)


@pytest.fixture(scope="module")
def whole(config):
    return rljax.run(own, config, progress=False, devices=1, **OPTIONS)


def start(what, folder, silence=600.0):
    """Both processes of one start; what they print goes to pipes.

    With "halting" they wait at their fifth update for `go`; afterwards a process that is silent for `silence` seconds
    counts as dead.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {**OPTIONS, "progress": False, "devices": 1, "checkpoint_every": 0 if what == "halting" else None}
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    script = SCRIPT.format(
        root=str(TESTS.parent),
        tests=str(TESTS),
        config="own.Config(env=toys.walk, num_updates=40)",
        options=given,
        silence=silence,
    )
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, what, str(folder), str(port), str(process)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in (0, 1)
    ]


def wait_until_halted(folder, started):
    deadline = time.monotonic() + 600
    while len(list(folder.glob("checkpoints/*/000004"))) < 2:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started)
        time.sleep(0.1)


def go(folder):
    folder.with_name(folder.name + ".go").touch()


def ended(started):
    """What each printed on both pipes."""
    outputs = [process.communicate(timeout=600) for process in started]
    return [out for out, _ in outputs], [err for _, err in outputs]


def check_whole(folder, whole):
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interrupted"] is False
    for mine, theirs in zip(summary["configurations"], whole.summary["configurations"], strict=True):
        np.testing.assert_allclose(mine["final_return"]["per_seed"], theirs["final_return"]["per_seed"], rtol=1e-5)
        np.testing.assert_allclose(mine["final_return"]["iqm"], theirs["final_return"]["iqm"], rtol=1e-5)
    assert len((folder / "curves.csv").read_text().splitlines()) == 1 + 2 * 5 * 4
    loaded = rljax.load(folder, configuration=1, algorithm=own, config=own.Config(env=toys.walk, num_updates=40))
    np.testing.assert_allclose(loaded.states.params, whole.results[1].states.params, rtol=1e-5)


def test_two_processes_give_the_results_of_one(whole, tmp_path):
    started = start("run", tmp_path / "x")
    outs, errs = ended(started)
    assert [process.returncode for process in started] == [0, 0], errs
    assert outs[0] == outs[1]  # each returns the whole
    assert len(list((tmp_path / "x/checkpoints").iterdir())) == 2
    check_whole(tmp_path / "x", whole)


@pytest.mark.parametrize(
    ("victim", "silence"),
    [(0, 5.0), *(pytest.param(i, processes.SILENCE_SECONDS, marks=pytest.mark.slow) for i in (0, 1))],
)
def test_a_dead_process_ends_the_other_and_both_resume(whole, tmp_path, victim, silence):
    started = start("halting", tmp_path / "x", silence)
    wait_until_halted(tmp_path / "x", started)
    started[victim].kill()
    go(tmp_path / "x")
    _, errs = ended(started)
    said = errs[1 - victim].strip()
    assert started[1 - victim].returncode == 3, said
    assert said.count("\n") == 0
    assert said.startswith(f"Process {victim} of 2 has not responded for")
    assert "rljax resume" in said
    again = start("resume", tmp_path / "x")
    _, errs = ended(again)
    assert [process.returncode for process in again] == [0, 0], errs
    check_whole(tmp_path / "x", whole)


@pytest.mark.slow
def test_an_interrupted_process_ends_the_other_and_one_process_can_resume(config, whole, tmp_path):
    started = start("halting", tmp_path / "x")
    wait_until_halted(tmp_path / "x", started)
    started[1].send_signal(signal.SIGINT)
    go(tmp_path / "x")
    _, errs = ended(started)
    assert [process.returncode for process in started] == [3, 3], errs
    assert "Process 1 of 2 stopped: Stopped" in errs[0]
    assert "rljax resume" in errs[1]
    rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False, devices=1)
    check_whole(tmp_path / "x", whole)


@pytest.mark.slow
def test_all_processes_refuse_a_folder_in_use(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/notes.txt").write_text("mine")
    started = start("impatient", tmp_path / "x")
    _, errs = ended(started)
    assert [process.returncode for process in started] == [3, 3], errs
    assert "already holds results" in errs[0]
    assert "Process 0 of 2 has not started" in errs[1]
    assert os.listdir(tmp_path / "x") == ["notes.txt"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("10.0.0.1", 2, 0), "address and a port"),
        (("10.0.0.1:1234", 2, None), "together"),
        (("10.0.0.1:1234", 2, 2), "between 0 and"),
        ((None, None, None), "Slurm or Open MPI"),
        (("127.0.0.1:1", 2, 1, 1), "could not connect"),
    ],
)
def test_invalid_arguments_of_join_are_refused(given, words):
    with pytest.raises(rljax.UsageError, match=words) as error:
        rljax.join(*given)
    assert "\n" not in str(error.value)


def test_several_processes_need_a_folder_and_no_halving(config, tmp_path):
    one = rljax.Hosts(0, 2, 1)
    with pytest.raises(rljax.UsageError, match="pass out"):
        rljax.run(own, config, hosts=one)
    with pytest.raises(rljax.UsageError, match="one process"):
        rljax.run(own, config, hosts=one, out=tmp_path, halving=2, sweep={"rate": [0.1, 0.2]})
