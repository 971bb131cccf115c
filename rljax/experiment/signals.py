"""Signals that stop the `rljax` command: Ctrl-C, and the warnings of batch systems and closed terminals.

`rljax/__init__.py` imports this module first, since the other imports take seconds, in which a signal would end in a
traceback. It imports nothing heavy.
"""

import contextlib
import os
import signal
import sys
from typing import Any

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def end_command(number: int, _: Any = None) -> None:
    """End the process with one sentence. An exception instead would be lost in a callback from C++."""
    with contextlib.suppress(OSError):
        os.write(2, b"rljax: Interrupted.\n")
    os._exit(128 + number)


def ignore() -> None:
    """Ignore the signals at the end of the command, when all is written.

    While Python cleans up, for a few tenths of a second, it has no handlers, and a signal would end it in silence.
    """
    for number in STOPPING:
        if signal.getsignal(number) is end_command:
            signal.signal(number, signal.SIG_IGN)


def is_default(number: int) -> bool:
    """True unless the user has set a handler for the signal, or ignores it, as under nohup."""
    return signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, end_command)


def _is_command() -> bool:
    """True if this process is `rljax ...` or `python -m rljax ...`, not a program that imports rljax."""
    program = (getattr(sys, "argv", None) or [""])[0]
    return os.path.basename(program) in ("rljax", "rljax.exe") or (program == "-m" and "rljax" in sys.orig_argv)


if _is_command():
    for _number in STOPPING:
        if is_default(_number):
            signal.signal(_number, end_command)
