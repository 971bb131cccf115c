"""Handle Ctrl-C, and warn about devices that do not respond."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from rljax.report import console

STALL_SECONDS = 120.0


def wait(program: Callable[..., Any], *arguments: Any) -> Any:
    """Call a compiled program and wait for it, with a warning if it takes too long."""
    with watched():
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


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Defer Ctrl-C: the first one lets the chunk finish, a second one stops at once."""
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or before in (None, signal.SIG_IGN):
        yield pressed.is_set  # Python delivers signals to the main thread only; an ignored signal is deliberate
        return

    def note(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        console.show_cursor()  # a second Ctrl-C ends the process before the progress bar could show it again
        console.say("Stopping after the running chunk; press Ctrl-C again to stop at once and lose it.")

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
