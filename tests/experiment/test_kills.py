"""Runs of the command line that are killed and stopped at random moments, and resumed until they have the same bits.

108 signals in about 180 processes, so half an hour or more: `make test-kills`.
"""

import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import toys

from rljax.experiment import checkpoints

WALK = ["--env", f"{toys.__file__}:walk", "--num-envs", "4"]  # quick to trace; gymnax takes a second to import
SMALL = ["--hidden-sizes", "8"]
BUFFER = ["--buffer-size", "1000", "--prefill-steps", "200"]
RUNS = {
    "ppo": [*WALK, *SMALL, "--num-steps", "8", "--num-epochs", "1", "--total-steps", "200000"],
    "recurrent_ppo": [*WALK, *SMALL, "--num-steps", "8", "--num-epochs", "1", "--total-steps", "50000"],
    "dqn": [*WALK, *SMALL, *BUFFER, "--total-steps", "100000"],
    "c51": [*WALK, *SMALL, *BUFFER, "--num-atoms", "5", "--value-low=0", "--value-high=9", "--total-steps", "30000"],
    "sac": ["--env", "Pendulum-v1", "--num-envs", "4", *SMALL, *BUFFER, "--total-steps", "10000"],
    # Several batches, one after the other, on two devices if there are two cores.
    "q_learning": [
        *("--env", "FrozenLake-misc", "--seeds", "2", "--total-steps", "100000"),
        *("--sweep", "step_size=0.1,0.2,0.4,0.8", "--halving", "2"),
    ],
}
OPTIONS = ["--evaluations", "3", "--eval-episodes", "2", "--checkpoint-every", "0", "--overwrite"]
KILL, STOPS = signal.SIGKILL, [signal.SIGINT] * 4 + [signal.SIGTERM] * 3 + [signal.SIGHUP]
SIGNALS = [KILL] * 10 + STOPS  # for each algorithm
TIMINGS = {"env_steps_per_second", "compile_seconds", "train_seconds"}
COMMAND = [sys.executable, "-m", "rljax"]

total: collections.Counter[str] = collections.Counter()


def results(folder):
    """All that a finished run leaves, except timings."""
    summary = json.loads((folder / "summary.json").read_text())
    found = [{name: value for name, value in summary.items() if name not in TIMINGS}]
    found.append((folder / "curves.csv").read_text())
    for saved in sorted(checkpoints.load(folder), key=lambda one: (one.rung, *one.record.runs)):
        record = saved.record
        arrays = [*saved.leaves, saved.keys, saved.final, record.eval_returns, *record.metrics.values()]
        found += [record.updates, list(record.runs), list(record.metrics), saved.axes, record.eval_updates]
        found += [(array.dtype.name, array.shape, np.ascontiguousarray(array).tobytes()) for array in arrays]
    return found


def is_handled(process, number):
    """True once a process has a handler for the signal."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


class Runner:
    """Starts the command line, with one cache of compiled programs for all starts."""

    def __init__(self, tmp_path, name):
        self.out = tmp_path / "x"
        self.train = ["train", name, *RUNS[name], *OPTIONS, "--out", str(self.out)]
        self.errors = tmp_path / "errors"
        self.environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def is_begun(self):
        """False if the run was killed before it had written what it is."""
        return (self.out / "config.json").exists()

    def next_command(self):
        return ["resume", str(self.out)] if self.is_begun() else self.train

    def start(self, command, number=None, after=0.0):
        """Run a command, and send it a signal some seconds after it began: its exit code and standard error."""
        with self.errors.open("w") as errors:
            process = subprocess.Popen(
                [*COMMAND, *command], stdout=subprocess.DEVNULL, stderr=errors, env=self.environment
            )
        try:
            if number not in (None, KILL):  # before its first import Python decides what a signal does
                while process.poll() is None and not is_handled(process, signal.SIGTERM):
                    time.sleep(0.002)
            if number is not None:
                try:
                    process.wait(after)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
            code = process.wait(600)
        finally:
            process.kill()
        said = self.errors.read_text()
        total["tracebacks"] += "Traceback" in said
        print(f"  {command[0]} {number and number.name} at {after:.1f} s: {code}, {said.splitlines()[-1:]}", flush=True)
        assert all(line.startswith("rljax: ") for line in said.splitlines()), said
        return code, said

    def signalled(self, number, after):
        """Send a signal to the next command: True if it ended it, False if the command ended first."""
        command = self.next_command()
        code, said = self.start(command, number, after)
        if code == 0:
            total["ended first"] += 1
            return False
        assert code == (-number if number == KILL else 128 + number), said
        if number != KILL:
            last = said.splitlines()[-1]
            assert last.startswith(("rljax: Interrupted.", "rljax: Stopped after ")), said
            total[f"said {last.split()[1]}"] += 1
        total[f"{number.name} to {command[0]}, code {code}"] += 1
        left = next(
            (name for name in ("checkpoints/*/[0-9]*[0-9]", "config.json") if any(self.out.glob(name))), "nothing"
        )
        total[f"left {left.partition('/')[0]}"] += 1
        return True


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("name", RUNS)
def test_signals_at_any_moment_change_no_bit(tmp_path, name):
    runner = Runner(tmp_path, name)
    assert runner.start(runner.train)[0] == 0  # fills the cache
    expected = results(runner.out)
    began = time.monotonic()
    assert runner.start(runner.train)[0] == 0
    seconds = time.monotonic() - began
    assert results(runner.out) == expected
    rng = random.Random(name)
    moments = [(i + rng.random()) / len(SIGNALS) for i in range(len(SIGNALS))]  # from the start to the expected end
    planned = list(zip(rng.sample(SIGNALS, len(SIGNALS)), rng.sample(moments, len(SIGNALS)), strict=True))
    while planned:
        (runner.out / "config.json").unlink(missing_ok=True)  # the next command starts anew
        for _ in range(rng.choice([1, 3, 6])):  # the first signal hits `train`, the others mostly `resume`
            if not planned:
                break
            number, moment = planned.pop()
            # A resumed run has less to do.
            if not runner.signalled(number, moment * seconds * (0.7 if runner.is_begun() else 1.0)):
                planned.append((number, moment * rng.random()))
                break
        code, said = runner.start(runner.next_command())
        assert code == 0, said
        assert results(runner.out) == expected
        total["equal results"] += 1
        print(f"{name}: {len(planned)} signals left; {dict(sorted(total.items()))}", flush=True)
    assert total["tracebacks"] == 0
