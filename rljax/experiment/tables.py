"""Metrics and evaluations as tables: one row for each run and update, or each run and evaluation."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.experiment.history import Runs


def of_metrics(
    runs: Runs, first: int, metrics: dict[str, np.ndarray], seeds: int, is_sweep: bool = False, every: int = 1
) -> dict[str, np.ndarray]:
    """Columns of metrics, sorted by update and run.

    Args:
        runs: R runs.
        first: number of updates before the first one of `metrics`.
        metrics: `[R, U, ...]` of U consecutive updates, by name; further axes give a column for each entry.
        seeds: number of seeds of each configuration; run `configuration * seeds + seed` has that number.
        is_sweep: add the columns `configuration` and `seed`.
        every: rows only for updates whose number is a multiple of this.
    """
    updates = first + 1 + np.arange(metrics["env_steps"].shape[1])
    chosen = updates % every == 0
    columns = _about(runs, seeds, is_sweep, int(chosen.sum()))
    columns |= {"update": np.repeat(updates[chosen], len(runs)), "env_steps": np.array([])}
    for name, rows in metrics.items():
        entries = rows[:, chosen].reshape(*rows[:, chosen].shape[:2], math.prod(rows.shape[2:]))
        for i in range(entries.shape[2]):
            columns[name if rows.ndim == 2 else f"{name}_{i}"] = entries[:, :, i].T.ravel()
    return columns


def of_evaluations(
    runs: Runs, env_steps: np.ndarray, evaluated: dict[str, np.ndarray], seeds: int, is_sweep: bool = False
) -> dict[str, np.ndarray]:
    """Columns of evaluations, from environment steps `[E]` and measures `[R, E]`, sorted by evaluation and run."""
    columns = _about(runs, seeds, is_sweep, len(env_steps))
    columns |= {"env_steps": np.repeat(env_steps, len(runs))}
    return columns | {name: values.T.ravel() for name, values in evaluated.items()}


def _about(runs: Runs, seeds: int, is_sweep: bool, times: int) -> dict[str, np.ndarray]:
    about = {"run": runs.configurations * seeds + runs.seeds}
    if is_sweep:
        about |= {"configuration": runs.configurations, "seed": runs.seeds}
    return {name: np.tile(column, times) for name, column in about.items()}


def frame(parts: Sequence[dict[str, Any]]) -> Any:
    """Several tables as one pandas DataFrame.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("frame() needs pandas: pip install pandas.") from None
    return pandas.concat([pandas.DataFrame(part) for part in parts], ignore_index=True)
