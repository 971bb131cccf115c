"""Successive halving: when configurations are compared, and which continue (Jamieson and Talwalkar 2016)."""

import numpy as np

from rljax.experiment.history import Runs
from rljax.report import statistics


def rungs(configurations: int, num_updates: int, factor: int | None) -> list[tuple[int, int]]:
    """The number of updates at which each rung ends, and how many configurations continue after it.

    As in the Hyperband paper's inner loop (Li et al. 2018), each rung is longer by the factor by which fewer
    configurations are left, so every rung costs about the same.

    Args:
        configurations: how many start.
        num_updates: of a whole run.
        factor: one in this many continues; None for no halving.
    """
    lengths: list[int] = []
    remaining: list[int] = []
    left, updates = configurations, num_updates
    while factor is not None and left > 1 and updates // factor >= 1:
        updates //= factor
        left = -(-left // factor)
        lengths.append(updates)
        remaining.append(left)
    return list(zip(sorted(lengths), remaining, strict=True))


def total_updates(configurations: int, num_updates: int, factor: int | None) -> int:
    """Updates of one seed of all configurations together."""
    left, total = configurations, 0
    for end, remaining in rungs(configurations, num_updates, factor):
        total += (left - remaining) * end
        left = remaining
    return total + left * num_updates


def survivors(runs: Runs, returns: np.ndarray, remaining: int) -> np.ndarray:
    """Which of R runs `[R]` bool belong to the configurations that continue, given each run's return `[R]`.

    Configurations are compared on the even seeds, as is the best one in the end, so the seeds it is reported on took
    part in no selection.
    """
    chosen_on = runs.seeds % 2 == 0
    scores = {
        configuration: statistics.score(returns[chosen_on & (runs.configurations == configuration)])
        for configuration in np.unique(runs.configurations).tolist()
    }
    best = sorted(scores, key=lambda configuration: -scores[configuration])[:remaining]
    return np.isin(runs.configurations, best)
