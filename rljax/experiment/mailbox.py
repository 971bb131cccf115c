"""The actor between a cluster's workers and the driver. It imports nothing, and is sent as source to start at once."""

STOP, INTERRUPT = "stop", "interrupt"  # as `Progress.stop`, or as a signal: what the driver wants


class Mailbox:
    """Collects the workers' messages, pickled, for the driver, and has the driver's wish for them."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._wish = ""
        self._begun: set[int] = set()

    def begin(self, number: int) -> str:
        """Note that a worker begins a task, unless it is to stop; the driver's wish."""
        if not self._wish:
            self._begun.add(number)
        return self._wish

    def report(self, messages: list[bytes]) -> str:
        """Take a worker's messages; the driver's wish."""
        self._messages += messages
        return self._wish

    def exchange(self, wish: str, again: list[int]) -> tuple[list[bytes], set[int]]:
        """Set the wish and forget tasks that begin again; all messages since the last time, and the begun tasks."""
        self._wish = wish
        self._begun -= set(again)
        messages, self._messages = self._messages, []
        return messages, self._begun
