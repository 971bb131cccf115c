"""What callbacks receive while a run trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.experiment.history import Runs


@dataclasses.dataclass(repr=False)
class Progress:
    """What R runs that train side by side have done, after a chunk of updates or an evaluation.

    `rljax.run` calls `callback(progress)` on the host, between two calls of the compiled program, so whatever a
    callback does leaves the runs' bits unchanged.
    """

    runs: Runs
    """Their configurations and seeds, `[R]` each."""
    updates: int
    """Updates of each run so far."""
    num_updates: int
    """Updates of a whole run."""
    env_steps: int
    """Environment steps of each run so far."""
    env_steps_per_second: float
    """Of all R runs together, since they began."""
    metrics: dict[str, np.ndarray]
    """New metrics, `[R, U, ...]` for the U updates of the last chunk; empty at an evaluation."""
    returns: np.ndarray
    """Mean returns of the latest evaluation, `[R]`; NaN before the first."""
    measures: dict[str, np.ndarray]
    """Other means of the latest evaluation, `[R]` each: `length`, and what the environment's info declares."""
    is_evaluation: bool
    """True if `returns` are new."""
    fetch: Callable[[], Any] = dataclasses.field(repr=False)
    halt: Callable[[], None] = dataclasses.field(repr=False)

    def for_sending(self, with_metrics: bool) -> "Progress":
        """What can be sent to another process."""
        metrics = self.metrics if with_metrics else {}
        return dataclasses.replace(self, metrics=metrics, fetch=_states_are_elsewhere, halt=_states_are_elsewhere)

    @property
    def states(self) -> Any:
        """The runs' states, `[R, ...]`, copied to the host when this is read."""
        return self.fetch()

    def stop(self) -> None:
        """End the experiment here as Ctrl-C does, but as planned: final evaluation, results and files are complete."""
        self.halt()

    @property
    def training_return(self) -> float:
        """Mean return of the episodes that ended in the last chunk, with exploration; NaN if none did."""
        returns = self.metrics.get("episode_return", np.array([]))
        return float(returns[np.isfinite(returns)].mean()) if np.isfinite(returns).any() else np.nan

    def __repr__(self) -> str:
        kind = "evaluation" if self.is_evaluation else "chunk"
        return f"Progress({kind} of {len(self.runs)} runs at update {self.updates:,} of {self.num_updates:,})"


def _states_are_elsewhere() -> Any:
    raise UsageError("On a cluster the states are on the workers: load the checkpoints with rljax.load instead.")
