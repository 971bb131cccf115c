"""`rljax bench`: run the scripts of benchmarks/."""

import pathlib
import signal
import sys
from typing import Any

from rljax.errors import UsageError, suggest
from rljax.experiment.signals import STOPPING, is_default

# A script of benchmarks/, its first options, and what it measures.
_BENCHMARKS = {
    "throughput": (["throughput.py"], "environment steps per second, next to their floors"),
    "scaling": (["scaling.py"], "how the cost of an update grows"),
    "tables": (["tables.py"], "ten thousand tables at once"),
    "compiling": (["compiling.py"], "seconds to compile"),
    "peers": (["peers.py"], "other libraries on the same tasks"),
    "bars": (["bars.py"], "targets and results"),
    "learning": (["learning.py"], "what the presets reach on 20 seeds (hours)"),
    "thousands": (["thousands.py"], "thousands of agents on a GPU"),
    "check": (["throughput.py", "--check"], "speed of three algorithms, compared with results/baseline.json"),
}
_NOT_BY_DEFAULT = ("learning", "thousands", "check")
_SCRIPT_SECONDS = 30.0  # for an interrupted script to end by itself


def bench(arguments: list[str]) -> int:
    """Run one benchmark, or the default ones; return the exit code."""
    default = [name for name in _BENCHMARKS if name not in _NOT_BY_DEFAULT]
    if arguments and arguments[0] in ("-h", "--help"):
        print("usage: rljax bench [NAME] [options]\n\nNAME -h lists the options of a benchmark.\n")
        for name, (_, what) in _BENCHMARKS.items():
            print(f"  {name:12} {what}")
        print(f"\nWithout a name: {', '.join(default)}.")
        return 0
    folder = pathlib.Path(__file__).parents[2] / "benchmarks"
    if not folder.is_dir():
        raise UsageError("The benchmarks are in rljax's repository: install it from its clone, with pip install -e .")
    names, rest = (arguments[:1], arguments[1:]) if arguments else (default, [])
    for name in names:
        if name not in _BENCHMARKS:
            raise UsageError(f"There is no benchmark {name!r}: {suggest(name, _BENCHMARKS)}")
        script, *options = _BENCHMARKS[name][0]
        # One process each, so that compiled programs and memory of one do not slow the next.
        if code := _exit_code([sys.executable, str(folder / script), *options, *rest]):
            return code
    return 0


def _exit_code(command: list[str]) -> int:
    """Run a script and return its exit code; a signal that ends rljax interrupts the script too."""
    import subprocess

    process = subprocess.Popen(command)

    def interrupt(*_: Any) -> None:
        process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    stopping = [number for number in STOPPING if is_default(number)]  # not those that are ignored, as under nohup
    before = {number: signal.getsignal(number) for number in stopping}
    for number in stopping:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else interrupt)
    try:
        return process.wait()
    except KeyboardInterrupt:  # from a terminal, which interrupts the script too
        for number in set(stopping) - {signal.SIGINT}:
            signal.signal(number, signal.SIG_IGN)  # it is ending already
        for harder in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                return process.wait(_SCRIPT_SECONDS) or 130
            except subprocess.TimeoutExpired:
                process.send_signal(harder)
        return process.wait() or 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
