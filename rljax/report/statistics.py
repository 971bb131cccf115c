"""Statistics over seeds: interquartile means, their bootstrap intervals, comparisons (Agarwal et al. 2021)."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

MIN_SEEDS = 5  # for an interval; on normal values its coverage is only 51% with two seeds, 75% with three

_MAX_RESAMPLES = 5_000

_MIN_RESAMPLES = 500  # enough for many seeds, whose interval is narrow

_MAX_DRAWS = 2e7  # bound on resamples times values, unless _MIN_RESAMPLES exceeds it

_COMPARISONS = 1_000

_PERMUTATIONS = 9_999

POWER = 0.8  # with which a difference is to be shown

_MAX_COMPARED = 100  # configurations; the table of all pairs grows with their square


def interquartile_mean(values: np.ndarray, axis: int = 0) -> Any:
    """Mean of the middle half along `axis`: the lowest and the highest quarter of the values are dropped."""
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(
    values: np.ndarray,
    confidence: float = 0.95,
    resamples: int = _MAX_RESAMPLES,
    statistic: Callable[..., Any] = interquartile_mean,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the interquartile mean over the first axis, resampling seeds.

    With few seeds it is somewhat narrow: a 95% interval of normal values covers 89% with five, 92% with eight, 94% with
    twenty.

    Args:
        values: `[seeds, ...]`.
        confidence: coverage in (0, 1).
        resamples: the most to draw; fewer for many values.
        statistic: another one to estimate, `(values, axis) -> [...]`, such as `np.mean`.

    Returns:
        lower and upper ends, each `[...]`; NaN with fewer than five seeds, too few for resampling.
    """
    from scipy import stats

    if len(values) < MIN_SEEDS:
        missing = np.full(values.shape[1:], np.nan)
        return missing, missing
    with warnings.catch_warnings():
        # A point without a finite value has no interval; the NaN result shows it.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (values,),
            statistic,
            axis=0,
            vectorized=True,
            n_resamples=int(np.clip(_MAX_DRAWS / values.size, _MIN_RESAMPLES, resamples)),
            batch=int(np.clip(_MAX_DRAWS / values.size, 1, 1_000)),
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return result.confidence_interval.low, result.confidence_interval.high


def summarize(per_seed: np.ndarray) -> dict[str, Any]:
    """Summarise one value per seed `[seeds]`: `iqm, ci95, mean, median, min, max, per_seed, not_finite`.

    Seeds without a finite value are listed in `not_finite` and excluded from the statistics; all others count.
    """
    finite = np.isfinite(per_seed)
    values = per_seed[finite] if finite.any() else np.array([np.nan])
    low, high = bootstrap_interval(values)
    return {
        "iqm": float(interquartile_mean(values)),
        "ci95": [float(low), float(high)],
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
        "per_seed": [float(x) for x in per_seed],
        "not_finite": [int(i) for i in np.flatnonzero(~finite)],
    }


def probability_of_improvement(values: np.ndarray, others: np.ndarray) -> float:
    """P(X > Y) for X from `values` and Y from `others`, ties counting half (Agarwal et al. 2021, section 4.3)."""
    return float(_improvements(values[None], others[None])[0])


def _improvements(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The Mann-Whitney statistic of `[B, S]` against `[B, T]`, divided by its maximum, `[B]`."""
    counts = [
        np.searchsorted(row, x, "left").sum() + np.searchsorted(row, x, "right").sum()
        for x, row in zip(values, np.sort(others, axis=1), strict=True)
    ]
    return np.array(counts) / (2.0 * values.shape[1] * others.shape[1])


def improvement_interval(
    values: np.ndarray, others: np.ndarray, confidence: float = 0.95, is_paired: bool = False
) -> tuple[float, float]:
    """Stratified bootstrap interval of `probability_of_improvement`: each side's seeds are resampled separately.

    If the sides are paired, pairs are resampled. NaN if a side has fewer than five seeds.
    """
    if min(len(values), len(others)) < MIN_SEEDS:
        return np.nan, np.nan
    draws = _improvements(*_resampled(values, others, is_paired, _COMPARISONS))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resampled(
    values: np.ndarray, others: np.ndarray, is_paired: bool, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap samples of `[S]` and `[T]` values, `[resamples, S]` and `[resamples, T]`."""
    rng = np.random.default_rng(0)
    if is_paired:
        rows = rng.integers(len(values), size=(resamples, len(values)))
        return values[rows], others[rows]
    return rng.choice(values, (resamples, len(values))), rng.choice(others, (resamples, len(others)))


class Difference(NamedTuple):
    """How far two runs' interquartile means are apart, and what their seeds could show."""

    difference: float
    ci95: tuple[float, float]
    """Bootstrap interval; NaN with fewer than five seeds."""
    p: float
    """Of a permutation test of equal distributions."""
    smallest: float
    """The smallest difference that these seeds would show, at 5% and with a power of 80%; NaN with fewer than five."""
    seeds: float
    """Seeds of each run that would show the observed difference so; infinite if it is 0, NaN with fewer than five."""


def difference(values: np.ndarray, others: np.ndarray, is_paired: bool = False) -> Difference:
    """Compare the interquartile means of `[S]` and `[T]` finite values; paired, both are of the same seeds in order.

    The interval resamples each side's seeds, or pairs of them. The test permutes values between the sides, or within
    pairs, so that its level holds for any number of seeds. What more seeds would show follows from the bootstrap's
    standard error, which shrinks with the square root of their number.
    """
    from scipy import stats

    observed = float(interquartile_mean(values) - interquartile_mean(others))
    test = stats.permutation_test(
        (values, others),
        lambda x, y, axis: interquartile_mean(x, axis=axis) - interquartile_mean(y, axis=axis),
        permutation_type="samples" if is_paired else "independent",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        batch=1_000,
        rng=np.random.default_rng(0),
    )
    sizes = len(values), len(others)
    if min(sizes) < MIN_SEEDS:
        return Difference(observed, (np.nan, np.nan), float(test.pvalue), np.nan, np.nan)
    resamples = int(np.clip(_MAX_DRAWS / sum(sizes), _MIN_RESAMPLES, _MAX_RESAMPLES))
    middles = [interquartile_mean(draws, axis=1) for draws in _resampled(values, others, is_paired, resamples)]
    low, high = np.quantile(middles[0] - middles[1], [0.025, 0.975])
    # The variance that one seed of each run would have, without the bootstrap's bias for few seeds.
    of_one = [np.var(draws) * size * size / (size - 1) for draws, size in zip(middles, sizes, strict=True)]
    if is_paired:
        of_one = [np.var(middles[0] - middles[1]) * sizes[0] * sizes[0] / (sizes[0] - 1), 0.0]
    error = math.sqrt(of_one[0] / sizes[0] + of_one[1] / sizes[1])
    critical = stats.t(sizes[0] - 1 if is_paired else sum(sizes) - 2).ppf([0.975, POWER]).sum()
    seeds = math.ceil(critical**2 * sum(of_one) / observed**2) if observed else math.inf
    return Difference(observed, (float(low), float(high)), float(test.pvalue), critical * error, max(seeds, 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that all of them hold together (Holm 1979)."""
    corrected, largest = np.ones(len(p_values)), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, (len(p_values) - rank) * p_values[i])
        corrected[i] = min(largest, 1.0)
    return corrected.tolist()


def performance_profile(
    tasks: Sequence[np.ndarray], thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fraction of all tasks' runs above each threshold `[T]`, with the ends of its 95% interval, `[T]` each.

    Agarwal et al. 2021, section 4.2. The intervals are those of `stratified`, at each threshold.
    """
    values = np.concatenate(tasks)
    above = (values[:, None] > thresholds).mean(axis=0)
    if min(map(len, tasks)) < MIN_SEEDS:
        missing = np.full(len(thresholds), np.nan)
        return above, missing, missing
    draws = np.sort(_stratified_draws(tasks, _COMPARISONS), axis=1)
    fractions = np.array([len(row) - np.searchsorted(row, thresholds, "right") for row in draws]) / len(values)
    low, high = np.quantile(fractions, [0.025, 0.975], axis=0)
    return above, low, high


def stratified(tasks: Sequence[np.ndarray]) -> tuple[float, tuple[float, float]]:
    """The interquartile mean of all tasks' values together, and its 95% stratified bootstrap interval.

    Each task's seeds are resampled separately (Agarwal et al. 2021, section 4.1). With fewer than five seeds in a task
    there is no interval.

    Args:
        tasks: `[S]` scores of each, of equally many seeds, so that all tasks count the same.
    """
    middle = float(interquartile_mean(np.concatenate(tasks)))
    if min(map(len, tasks)) < MIN_SEEDS:
        return middle, (np.nan, np.nan)
    resamples = int(np.clip(_MAX_DRAWS / sum(map(len, tasks)), _MIN_RESAMPLES, _MAX_RESAMPLES))
    low, high = np.quantile(interquartile_mean(_stratified_draws(tasks, resamples), axis=1), [0.025, 0.975])
    return middle, (float(low), float(high))


def _stratified_draws(tasks: Sequence[np.ndarray], resamples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.choice(task, (resamples, len(task))) for task in tasks], axis=1)


def score(values: np.ndarray) -> float:
    """The score that ranks configurations: the interquartile mean of the finite values, minus infinity without any."""
    finite = _finite(values)
    return float(interquartile_mean(finite)) if len(finite) else -np.inf


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def compare(configurations: Sequence[np.ndarray | None]) -> dict[str, Any]:
    """Find the best of C configurations, given one value per seed `[S]` of each; None excludes a configuration.

    The best is chosen by the interquartile mean on seeds 0, 2, 4, ... and reported on seeds 1, 3, 5, ..., since the
    values used for the choice overestimate it. Values that are not finite are excluded; `summarize` lists them.

    Returns:
        `best`, with its index in the list; `best_improves_on`, for each configuration the probability that the best
        one improves on it and its 95% interval, both on the seeds not used for the choice; and
        `probability_of_improvement` on all seeds, `[C][C]`, of the row's configuration over the column's. Entries are
        None if a configuration has no finite value or is excluded; with more than 100 configurations the table is None.
    """
    compared = [i for i, values in enumerate(configurations) if values is not None]
    returns = [np.zeros(0) if values is None else values for values in configurations]
    seeds = max(map(len, returns))
    chosen_on, reported_on = (slice(0, None, 2), slice(1, None, 2)) if seeds > 1 else (slice(None), slice(0, 0))

    best = max(compared, key=lambda i: score(returns[i][chosen_on]))
    held_out = [_finite(values[reported_on]) for values in returns]
    improvement = [
        {
            "probability": probability_of_improvement(held_out[best], other),
            "ci95": list(improvement_interval(held_out[best], other)),
        }
        if len(other) and len(held_out[best])
        else None
        for other in held_out
    ]
    finite = [_finite(values) for values in returns]
    table = None
    if len(finite) <= _MAX_COMPARED:
        table = [[probability_of_improvement(a, b) if len(a) and len(b) else None for b in finite] for a in finite]
    return {
        "best": {
            "configuration": best,
            "chosen_on_seeds": list(range(seeds)[chosen_on]),
            "reported_on_seeds": list(range(seeds)[reported_on]),
            "final_return": summarize(returns[best][reported_on]) if seeds > 1 else None,
        },
        "best_improves_on": improvement,
        "probability_of_improvement": table,
    }
