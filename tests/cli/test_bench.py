"""`rljax bench`: the scripts that it starts, and how they end."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

from rljax import cli


def test_bench_runs_the_scripts_and_returns_their_exit_code(monkeypatch, capsys):
    assert cli.main(["bench", "throughputs"]) == 2
    assert "There is no benchmark 'throughputs'" in capsys.readouterr().err
    ran = []

    class Process:
        def __init__(self, command):
            script = pathlib.Path(command[1])
            assert script.is_file()
            ran.append([script.name, *command[2:]])

        def wait(self):
            return int(ran[-1][0] == "peers.py")

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert cli.main(["bench", "thousands", "--seeds", "4"]) == 0
    assert cli.main(["bench"]) == 1
    names = ("throughput", "scaling", "tables", "compiling", "peers")
    assert ran == [["thousands.py", "--seeds", "4"], *[[f"{name}.py"] for name in names]]


def test_bench_stops_after_an_interrupt(monkeypatch):
    ran = []

    class Process:
        def __init__(self, command):
            ran.append(command)

        def wait(self, seconds=None):
            if seconds is None:
                raise KeyboardInterrupt
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert cli.main(["bench"]) == 130
    assert len(ran) == 1


@pytest.mark.parametrize("deafness", [0, 1, 2])
def test_terminating_bench_ends_its_script(monkeypatch, deafness):
    """At first by an interrupt, then by all that it takes."""
    sent = []

    class Process:
        def __init__(self, command):
            pass

        def wait(self, seconds=None):
            if not sent:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)  # the signal's handler ends this
            if len(sent) <= deafness:
                raise subprocess.TimeoutExpired("script", seconds)
            return 0

        def send_signal(self, number):
            sent.append(number)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(subprocess, "Popen", Process)
    assert cli.main(["bench"]) == 130
    assert sent == [signal.SIGINT, signal.SIGINT, signal.SIGTERM][: deafness + 1]
    assert signal.getsignal(signal.SIGTERM) is before
