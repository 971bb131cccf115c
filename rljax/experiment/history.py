"""What a batch of runs has done so far, on the host: metrics, evaluations, and which runs have diverged."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import UsageError
from rljax.types import Metrics

Measures = dict[str, np.ndarray]  # of an evaluation besides its returns: means over episodes, `[R]` each


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """R runs by configuration and seed."""

    configurations: np.ndarray  # [R] numbers of their configurations
    seeds: np.ndarray  # [R]

    @classmethod
    def of(cls, pairs: np.ndarray | list[tuple[int, int]]) -> "Runs":
        """Runs from pairs `[R, 2]` of configuration and seed."""
        return cls(*np.array(pairs, np.int64).reshape(-1, 2).T)

    @property
    def pairs(self) -> np.ndarray:
        """Configuration and seed of each run, `[R, 2]`."""
        return np.stack([self.configurations, self.seeds], axis=1)

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.configurations.tolist(), self.seeds.tolist(), strict=True)

    def __getitem__(self, rows: np.ndarray | slice) -> "Runs":
        return Runs(self.configurations[rows], self.seeds[rows])

    def rows_of(self, configuration: int) -> np.ndarray:
        """Where the runs of one configuration are."""
        return np.flatnonzero(self.configurations == configuration)


class Frozen(NamedTuple):
    """A run that no longer changes, since it diverged or has reached the return that it was to reach."""

    update: int  # number of updates in its state, the last finite one
    env_steps: int
    counters: list[np.ndarray]  # the leaves of its state that all runs share, at that update
    is_solved: bool = False


class Kept(NamedTuple):
    """What R runs act with, as it was at an evaluation."""

    updates: np.ndarray  # [R] numbers of updates
    returns: np.ndarray  # [R] of the evaluation
    leaves: list[np.ndarray]  # [R, ...] each: those of the states that `act` reads

    def rows(self, rows: np.ndarray) -> "Kept":
        """Those of some of the runs."""
        return Kept(self.updates[rows], self.returns[rows], [leaf[rows] for leaf in self.leaves])

    def acting(self, row: int) -> list[np.ndarray]:
        """What one run acts with, without the axis of runs."""
        return [leaf[row] for leaf in self.leaves]

    def or_better(self, other: "Kept") -> "Kept":
        """Each run's better one of the two; the earlier one if they are equal."""
        better = (other.returns > self.returns) | np.isnan(self.returns)

        def choose(new: np.ndarray, old: np.ndarray) -> np.ndarray:
            return np.where(better.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        leaves = list(map(choose, other.leaves, self.leaves))
        return Kept(choose(other.updates, self.updates), choose(other.returns, self.returns), leaves)


def means(measures: Mapping[str, Any], runs: int) -> Measures:
    """The means of measures `[L, episodes]` over episodes, of the first R lanes; the length comes first."""
    names = sorted(measures, key=lambda name: (name != "length", name))
    return {name: np.asarray(measures[name])[:runs].mean(axis=1) for name in names}


class Record:
    """The history of a batch of R runs."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.updates = 0
        self.env_steps = 0  # of one run
        self.seconds = 0.0
        self.chunks: list[dict[str, np.ndarray]] = []
        self.eval_updates: list[int] = []
        self.eval_steps: list[int] = []
        self.evaluations: list[np.ndarray] = []  # mean returns, `[R]` each
        self.eval_measures: list[Measures] = []
        self.final_measures: Measures = {}  # of the final evaluation, once it was made
        self.frozen: dict[int, Frozen] = {}  # by lane
        self.kept: list[Kept] = []  # the best so far, or one for each evaluation

    def add_chunk(self, metrics: Metrics, count: int, seconds: float) -> None:
        """Add a chunk's metrics `[L, capacity, ...]`, of which `count` columns are filled."""
        if "env_steps" not in metrics:
            raise UsageError("The algorithm's metrics have no env_steps: its update must count them.")
        chunk = {name: np.asarray(rows)[: len(self.runs), :count].copy() for name, rows in metrics.items()}
        self.env_steps = int(chunk["env_steps"][:, -1].max())
        for lane, frozen in self.frozen.items():
            last = frozen.update + (not frozen.is_solved)  # also the update that was not finite, to see why
            self._blank(chunk, lane, max(last - self.updates, 0))
        self.chunks.append(chunk)
        self.updates += count
        self.seconds += seconds

    def _blank(self, chunk: dict[str, np.ndarray], lane: int, start: int) -> None:
        """Replace a frozen run's metrics from update `start` on with NaN or 0; its env_steps keep their last value."""
        for name, rows in chunk.items():
            if name == "env_steps":
                if start:
                    rows[lane, start:] = rows[lane, start - 1]
                else:  # frozen before this chunk, and maybe before the first update
                    rows[lane] = self.chunks[-1][name][lane, -1] if self.chunks else 0
            else:
                rows[lane, start:] = np.nan if np.issubdtype(rows.dtype, np.inexact) else 0

    def add_evaluation(self, returns: np.ndarray, measures: Mapping[str, Any]) -> None:
        """Add the returns and other measures `[L, episodes]` of an evaluation during training."""
        self.eval_updates.append(self.updates)
        self.eval_steps.append(self.env_steps)
        self.evaluations.append(returns[: len(self.runs)].mean(axis=1))
        self.eval_measures.append(means(measures, len(self.runs)))

    def rows(self, rows: np.ndarray) -> "Record":
        """The history of some of the runs."""
        part = Record(self.runs[rows])
        part.updates, part.env_steps = self.updates, self.env_steps
        part.seconds = self.seconds * len(rows) / len(self.runs)  # so that parts add up to the whole
        part.chunks = [{name: values[rows] for name, values in chunk.items()} for chunk in self.chunks]
        part.eval_updates, part.eval_steps = list(self.eval_updates), list(self.eval_steps)
        part.evaluations = [returns[rows] for returns in self.evaluations]
        part.eval_measures = [{name: x[rows] for name, x in measures.items()} for measures in self.eval_measures]
        part.final_measures = {name: x[rows] for name, x in self.final_measures.items()}
        part.frozen = {i: self.frozen[row] for i, row in enumerate(rows.tolist()) if row in self.frozen}
        part.kept = [kept.rows(rows) for kept in self.kept]
        return part

    @classmethod
    def joined(cls, records: list["Record"]) -> "Record":
        """One record of the runs of records of the same length."""
        whole = cls(Runs.of(np.concatenate([one.runs.pairs for one in records])))
        first = records[0]
        whole.updates, whole.env_steps = first.updates, max(one.env_steps for one in records)
        whole.seconds = sum(one.seconds for one in records)
        whole.chunks = [{name: np.concatenate([one.metrics[name] for one in records]) for name in first.metrics}]
        whole.eval_updates, whole.eval_steps = list(first.eval_updates), list(first.eval_steps)
        whole.evaluations = [np.concatenate(returns) for returns in zip(*(r.evaluations for r in records), strict=True)]
        for measures in zip(*(one.eval_measures for one in records), strict=True):
            whole.eval_measures.append({name: np.concatenate([one[name] for one in measures]) for name in measures[0]})
        measured = [one.final_measures for one in records]
        whole.final_measures = {name: np.concatenate([one[name] for one in measured]) for name in measured[0]}
        starts = np.cumsum([0, *(len(one.runs) for one in records)]).tolist()
        for start, one in zip(starts, records, strict=False):
            whole.frozen |= {start + lane: frozen for lane, frozen in one.frozen.items()}
        for parts in zip(*(one.kept for one in records), strict=True):
            whole.kept.append(
                Kept(
                    np.concatenate([part.updates for part in parts]),
                    np.concatenate([part.returns for part in parts]),
                    [np.concatenate(leaves) for leaves in zip(*(part.leaves for part in parts), strict=True)],
                )
            )
        return whole

    def without_metrics(self) -> "Record":
        """The record without what grows with the updates: metrics, and the policies of evaluations."""
        lean = copy.copy(self)
        lean.chunks, lean.kept = [], []
        lean.eval_updates, lean.eval_steps = list(self.eval_updates), list(self.eval_steps)
        lean.evaluations, lean.eval_measures = list(self.evaluations), list(self.eval_measures)
        lean.frozen = dict(self.frozen)
        return lean

    def copy(self) -> "Record":
        """A record that grows without this one."""
        return self.rows(np.arange(len(self.runs)))

    @property
    def is_solved(self) -> bool:
        """True if all runs are frozen, and not all of them because they diverged."""
        return len(self.frozen) == len(self.runs) and any(frozen.is_solved for frozen in self.frozen.values())

    @property
    def eval_returns(self) -> np.ndarray:
        """Mean returns of the evaluations, `[R, E]`."""
        return np.stack(self.evaluations, axis=1) if self.evaluations else np.zeros((len(self.runs), 0))

    @property
    def measures(self) -> Measures:
        """Other measures of the evaluations, `[R, E]` each."""
        names = self.eval_measures[0] if self.eval_measures else {}
        return {name: np.stack([measures[name] for measures in self.eval_measures], axis=1) for name in names}

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Every update's metrics, `[R, U, ...]` each."""
        names = self.chunks[0] if self.chunks else {}
        return {name: np.concatenate([chunk[name] for chunk in self.chunks], axis=1) for name in names}
