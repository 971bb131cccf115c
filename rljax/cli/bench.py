"""`rljax bench`: run the scripts of benchmarks/."""

import pathlib
import signal
import sys
from typing import Any

from rljax.cli.parsing import USAGE
from rljax.errors import UsageError

# What `rljax bench` runs of benchmarks/: a script and its first options.
_BENCHMARKS = {
    "throughput": ["throughput.py"],
    "scaling": ["scaling.py"],
    "tables": ["tables.py"],
    "compiling": ["compiling.py"],
    "peers": ["peers.py"],
    "bars": ["bars.py"],
    "learning": ["learning.py"],
    "thousands": ["thousands.py"],
    "check": ["throughput.py", "--check"],
}

# Hours, what is for a GPU, and what the others do at greater length: only where they are named.
_LONG_OR_SHORT = ("learning", "thousands", "check")

_SCRIPT_SECONDS = 30.0  # for a script to end by itself where it was interrupted as rljax was


def bench(arguments: list[str]) -> int:
    """Run one benchmark, or all that are not left out; the exit code."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    folder = pathlib.Path(__file__).parents[2] / "benchmarks"
    if not folder.is_dir():
        raise UsageError("The benchmarks are in rljax's repository: install it from its clone, with pip install -e .")
    names, rest = (
        (arguments[:1], arguments[1:]) if arguments else ([n for n in _BENCHMARKS if n not in _LONG_OR_SHORT], [])
    )
    for name in names:
        if name not in _BENCHMARKS:
            raise UsageError(f"There is no benchmark {name!r}: known are {', '.join(_BENCHMARKS)}.")
        script, *options = _BENCHMARKS[name]
        # A process each: nothing that one has compiled or holds in memory weighs on the next.
        if code := _exit_code([sys.executable, str(folder / script), *options, *rest]):
            return code
    return 0


def _exit_code(command: list[str]) -> int:
    """Run a script to its end and return its exit code; what ends rljax interrupts the script too."""
    import subprocess

    process = subprocess.Popen(command)

    def interrupt(*_: Any) -> None:
        process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        return process.wait()
    except KeyboardInterrupt:  # a terminal's reaches the script too
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is being ended already
        for harder in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                return process.wait(_SCRIPT_SECONDS) or 130
            except subprocess.TimeoutExpired:
                process.send_signal(harder)
        return process.wait() or 130
    finally:
        signal.signal(signal.SIGTERM, before)
