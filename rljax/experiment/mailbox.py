"""The actor between a cluster's workers and the driver. It needs only Ray, and is sent as source to start at once."""

import contextlib
import time

STOP, INTERRUPT = "stop", "interrupt"  # as `Progress.stop`, or as a signal: what the driver wants
LEAVE = "leave"  # the node is drained: save, and hand the task back
_DRAINED_SECONDS = 2.0  # between two questions which nodes are


class Mailbox:
    """Collects the workers' messages, pickled, for the driver, and has the driver's wish for them."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._wish = ""
        self._begun: set[int] = set()
        self._drained: set[str] = set()
        self._asked_at = -_DRAINED_SECONDS

    def begin(self, number: int) -> str:
        """Note that a worker begins a task, unless it is to stop; the driver's wish."""
        if not self._wish:
            self._begun.add(number)
        return self._wish

    def report(self, messages: list[bytes], node: str) -> str:
        """Take the messages of a worker on this node; the driver's wish, or to leave the node."""
        self._messages += messages
        return self._wish or (LEAVE if node in self._leaving() else "")

    def _leaving(self) -> set[str]:
        """The nodes that Ray drains, such as spot instances that are taken away soon."""
        if time.monotonic() - self._asked_at >= _DRAINED_SECONDS:
            self._asked_at = time.monotonic()
            with contextlib.suppress(Exception):  # not a public function
                from ray._private import state

                self._drained = set(state.state.get_draining_nodes())
        return self._drained

    def exchange(self, wish: str, again: list[int]) -> tuple[list[bytes], set[int]]:
        """Set the wish and forget tasks that begin again; all messages since the last time, and the begun tasks."""
        self._wish = wish
        self._begun -= set(again)
        messages, self._messages = self._messages, []
        return messages, self._begun
