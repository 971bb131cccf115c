"""Signals that stop a run, and devices that do not respond."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from rljax.backend import controllers
from rljax.envs import pools
from rljax.experiment.signals import STOPPING, is_default
from rljax.report import console

STALL_SECONDS = 120.0


def wait(program: Callable[..., Any], *arguments: Any) -> Any:
    """Call a compiled program and wait for it, with a warning if it takes too long.

    Raises:
        UsageError: an environment on the host failed.
    """
    with watched(), pools.failures():
        return jax.block_until_ready(program(*arguments))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Warn if a device has not responded for two minutes, since the run may have hung."""
    sentence = (
        f"A device has not responded for {STALL_SECONDS:.0f} seconds: if the processor is idle, the run has hung; "
        "press Ctrl-C twice and use fewer seeds or devices=1."
    )
    timer = threading.Timer(STALL_SECONDS, console.say, (sentence,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Pressed:
    """Whether a signal has asked the run to stop, here or in another process of it, and which one."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        self.signal = controllers.highest(self.signal or 0) or None
        return self.signal is not None


@contextlib.contextmanager
def interrupts() -> Iterator[Pressed]:
    """Defer Ctrl-C, SIGTERM and SIGHUP until the chunk has finished; a second Ctrl-C stops at once.

    Handlers that the user has set for SIGTERM and SIGHUP are kept.
    """
    pressed = Pressed()
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # Python delivers signals to the main thread only
        return

    def note(number: int, _: Any) -> None:
        again = ""
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            console.show_cursor()  # a second Ctrl-C ends the process before the progress bar could show it again
            again = "; press Ctrl-C again to stop at once and lose it"
        if pressed.signal is None or again:
            console.say(f"Stopping after the running chunk{again}.")
        pressed.signal = pressed.signal or number

    before = {number: signal.getsignal(number) for number in STOPPING}
    taken = [n for n in STOPPING if is_default(n) or (n == signal.SIGINT and callable(before[n]))]
    for number in taken:
        signal.signal(number, note)
    try:
        yield pressed
    finally:
        for number in taken:
            signal.signal(number, before[number])
