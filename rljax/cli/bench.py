"""`rljax bench`: run the scripts of benchmarks/."""

import pathlib
import signal
import sys
from typing import Any

from rljax.errors import UsageError, suggest

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

    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    before |= {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return process.wait()
    except KeyboardInterrupt:  # from a terminal, which interrupts the script too
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already
        for harder in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                return process.wait(_SCRIPT_SECONDS) or 130
            except subprocess.TimeoutExpired:
                process.send_signal(harder)
        return process.wait() or 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
