"""What has landed of a batch of runs, on the host: metrics, evaluations, and which runs have diverged."""

from typing import NamedTuple

import numpy as np

from rljax.errors import UsageError
from rljax.types import Metrics


class Diverged(NamedTuple):
    """A run whose parameters stopped being finite, and where it was frozen."""

    update: int  # updates done in its last finite state
    env_steps: int
    counters: list[np.ndarray]  # those leaves of its state that are one for all runs, as they were


class Record:
    """A batch of R runs as far as it has come."""

    def __init__(self, runs: np.ndarray) -> None:
        self.runs = runs  # [R, 2] configuration and seed of each
        self.updates = 0
        self.env_steps = 0  # of one run
        self.seconds = 0.0
        self.chunks: list[dict[str, np.ndarray]] = []
        self.eval_updates: list[int] = []
        self.eval_steps: list[int] = []
        self.evaluations: list[np.ndarray] = []
        self.diverged: dict[int, Diverged] = {}  # by lane

    def landed(self, metrics: Metrics, count: int, seconds: float) -> None:
        """Take in a chunk's metrics `[L, capacity, ...]`, of which `count` columns are filled."""
        if "env_steps" not in metrics:
            raise UsageError("The algorithm's metrics have no env_steps: its update must count them.")
        chunk = {name: np.asarray(rows)[: len(self.runs), :count].copy() for name, rows in metrics.items()}
        self.env_steps = int(chunk["env_steps"][:, -1].max())
        for lane, (update, _, _) in self.diverged.items():
            self._silence(chunk, lane, max(update + 1 - self.updates, 0))
        self.chunks.append(chunk)
        self.updates += count
        self.seconds += seconds

    def _silence(self, chunk: dict[str, np.ndarray], lane: int, start: int) -> None:
        """What a frozen run would have done is not what it did: no numbers from `start` on, its steps as they were."""
        for name, rows in chunk.items():
            if name == "env_steps":
                before = rows[lane, start - 1] if start else self.chunks[-1][name][lane, -1]
                rows[lane, start:] = before
            else:
                rows[lane, start:] = np.nan if np.issubdtype(rows.dtype, np.inexact) else 0

    def evaluated(self, returns: np.ndarray) -> None:
        """Take in the returns `[L, episodes]` of an evaluation along the way."""
        self.eval_updates.append(self.updates)
        self.eval_steps.append(self.env_steps)
        self.evaluations.append(returns[: len(self.runs)].mean(axis=1))

    def rows(self, rows: np.ndarray) -> "Record":
        """Some of the runs, as far as they have come."""
        part = Record(self.runs[rows])
        part.updates, part.env_steps = self.updates, self.env_steps
        part.seconds = self.seconds * len(rows) / len(self.runs)  # so that parts add up to the whole
        part.chunks = [{name: values[rows] for name, values in chunk.items()} for chunk in self.chunks]
        part.eval_updates, part.eval_steps = list(self.eval_updates), list(self.eval_steps)
        part.evaluations = [returns[rows] for returns in self.evaluations]
        part.diverged = {i: self.diverged[row] for i, row in enumerate(rows.tolist()) if row in self.diverged}
        return part

    @property
    def latest_return(self) -> float:
        """Mean of the latest chunk's episode returns, NaN if none did."""
        returns = self.chunks[-1].get("episode_return", np.array([np.nan]))
        return float(returns[np.isfinite(returns)].mean()) if np.isfinite(returns).any() else np.nan

    @property
    def eval_returns(self) -> np.ndarray:
        """`[R, E]`."""
        return np.stack(self.evaluations, axis=1) if self.evaluations else np.zeros((len(self.runs), 0))

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """`[R, U, ...]` each."""
        names = self.chunks[0] if self.chunks else {}
        return {name: np.concatenate([chunk[name] for chunk in self.chunks], axis=1) for name in names}
