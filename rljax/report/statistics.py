"""Statistics over seeds: interquartile means, their bootstrap intervals, comparisons (Agarwal et al. 2021)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

MIN_SEEDS = 5  # for an interval; on normal values its coverage is only 51% with two seeds, 75% with three

_MAX_RESAMPLES = 5_000

_MIN_RESAMPLES = 500  # enough for many seeds, whose interval is narrow

_MAX_DRAWS = 2e7  # bound on resamples times seeds, unless _MIN_RESAMPLES exceeds it

_COMPARISONS = 1_000

_MAX_COMPARED = 100  # configurations; the table of all pairs grows with their square


def interquartile_mean(values: np.ndarray, axis: int = 0) -> Any:
    """Mean of the middle half along `axis`: the lowest and the highest quarter of the values are dropped."""
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = _MAX_RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the interquartile mean over the first axis, resampling seeds.

    With few seeds it is somewhat narrow: a 95% interval of normal values covers 89% with five, 92% with eight, 94% with
    twenty.

    Args:
        values: `[seeds, ...]`.
        confidence: coverage in (0, 1).
        resamples: the most to draw; fewer for many seeds.

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
            interquartile_mean,
            axis=0,
            vectorized=True,
            n_resamples=int(np.clip(_MAX_DRAWS / len(values), _MIN_RESAMPLES, resamples)),
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


def improvement_interval(values: np.ndarray, others: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Stratified bootstrap interval of `probability_of_improvement`: each side's seeds are resampled separately.

    NaN if a side has fewer than five seeds.
    """
    if min(len(values), len(others)) < MIN_SEEDS:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    draws = _improvements(*(rng.choice(x, (_COMPARISONS, len(x))) for x in (values, others)))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


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
