"""Curves of a run over its training: evaluations, windowed training returns and other metrics, on several x-axes."""

from typing import NamedTuple

import numpy as np

from rljax.report.runs import Entry

WINDOWS = 100  # that a metric is averaged in
BOOKKEEPING = ("update", "env_steps", "episodes", "episode_return", "episode_length", "reward")


class Series(NamedTuple):
    """Values of S seeds at W points of training."""

    axes: dict[str, np.ndarray]
    """Where the points are, by the name of the x-axis: `[W]` if it is the same for all seeds, else `[S, W]`."""
    values: np.ndarray
    """`[S, W]`."""
    seeds: np.ndarray
    """`[S]`."""


def evaluated(entry: Entry) -> Series:
    """The returns of the evaluations."""
    axes = _axes(entry, entry.eval_steps, entry.eval_updates)
    return Series(axes, entry.eval_returns, entry.seeds)


def training_return(entry: Entry) -> Series | None:
    """Mean return of the episodes that ended in a window of updates, with exploration; None if it is not recorded.

    A window in which no episode ended has the value of the one before, and one after the end of a run that was cut
    short has none.
    """
    if "episode_return" not in entry.metrics:
        return None
    returns = entry.metrics["episode_return"]
    episodes = entry.metrics.get("episodes", np.ones(returns.shape))
    counted = np.where(np.isfinite(returns), np.nan_to_num(episodes), 0.0)
    totals, counts = _sums(np.nan_to_num(returns) * counted), _sums(counted)
    means = np.divide(totals, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    # A run that diverged keeps its last value.
    last = np.maximum.accumulate(np.where(np.isfinite(means), np.arange(means.shape[1]), 0), axis=1)
    kept = np.take_along_axis(means, last, axis=1)
    was_trained = _sums((~np.isnan(entry.metrics["update"])).astype(float)) > 0
    return _windowed(entry, np.where(was_trained, kept, np.nan))


def metric(entry: Entry, name: str) -> Series | None:
    """A metric's mean in windows of updates; None if the run has none of that name."""
    if name not in entry.metrics:
        return None
    values = entry.metrics[name]
    counts = _sums(np.isfinite(values).astype(float))
    sums = _sums(np.where(np.isfinite(values), values, 0.0))
    return _windowed(entry, np.divide(sums, counts, out=np.full(counts.shape, np.nan), where=counts > 0))


def realised_value(entry: Entry) -> Series | None:
    """What the values of the states in an episode are if all its rewards are equal: see `mean_value`.

    None if the run does not record what it takes.
    """
    discount = entry.config.get("discount")
    length, total = metric(entry, "episode_length"), training_return(entry)
    if length is None or total is None or not isinstance(discount, float | int) or not 0 <= discount < 1:
        return None
    return total._replace(values=mean_value(total.values, length.values, discount))


def mean_value(returns: np.ndarray, lengths: np.ndarray, discount: float) -> np.ndarray:
    """The mean over an episode's states of the discounted return from each, if all its rewards are equal.

    With a return R in L steps, r = R / L, it is r / (1 - g) (1 - g (1 - g^L) / (L (1 - g))) for a discount g < 1.
    """
    steps, rest = np.maximum(lengths, 1.0), 1.0 - discount
    return returns / steps * (1.0 - discount * (1.0 - discount**steps) / (steps * rest)) / rest


def _edges(updates: int) -> np.ndarray:
    """Where windows of updates begin, `[W]`."""
    return np.unique(np.linspace(0, updates, min(updates, WINDOWS) + 1).round().astype(int))[:-1]


def _sums(values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, _edges(values.shape[1]), axis=1)


def _windowed(entry: Entry, values: np.ndarray) -> Series:
    updates = np.nanmax(entry.metrics["update"], axis=0)
    ends = np.append(_edges(len(updates))[1:], len(updates)) - 1
    steps = np.nanmax(entry.metrics["env_steps"][:, ends], axis=0)
    return Series(_axes(entry, steps, updates[ends]), values, entry.seeds)


def _axes(entry: Entry, env_steps: np.ndarray, updates: np.ndarray) -> dict[str, np.ndarray]:
    axes = {"env steps": env_steps.astype(float)}
    if "episodes" in entry.metrics and entry.recorded.options.metrics_every == 1:
        ended = np.cumsum(np.nan_to_num(entry.metrics["episodes"]), axis=1)
        ended[np.isnan(entry.metrics["update"])] = np.nan
        known, start = np.nanmax(entry.metrics["update"], axis=0), np.zeros((len(ended), 1))
        at = np.searchsorted(known, updates, "right")
        axes["episodes"] = np.concatenate([start, ended], axis=1)[:, at]
    if np.isfinite(entry.seconds_per_step):
        axes["seconds"] = axes["env steps"] * entry.seconds_per_step
    return axes


def middle(axis: np.ndarray) -> np.ndarray:
    """An axis `[W]` for what is computed over seeds: the median of those that came so far."""
    return np.ma.median(np.ma.masked_invalid(axis), axis=0).filled(np.nan) if axis.ndim == 2 else axis
