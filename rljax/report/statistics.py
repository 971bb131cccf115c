"""Statistics over seeds: interquartile means, their bootstrap intervals, comparisons (Agarwal et al. 2021)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_SEEDS = 5  # for an interval: of normal values it holds their middle 51% of the time with two, 75 with three

_RESAMPLES = 5_000

_LEAST_RESAMPLES = 500  # of many seeds, whose interval is narrow anyway

_DRAWS = 2e7  # values at most that are drawn for them, where the least leaves a choice

_COMPARISONS = 1_000

_MOST_COMPARED = 100  # configurations of the table of all pairs, which grows with their square


def interquartile_mean(values: np.ndarray, axis: int = 0) -> Any:
    """Mean of the middle half along `axis`: a quarter of the values is cut off at either end."""
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the interquartile mean over the first axis, seeds being resampled.

    Of few seeds it is somewhat narrow: 95% are 89 with five normal values, 92 with eight, 94 with twenty.

    Args:
        values: `[seeds, ...]`.
        confidence: coverage in (0, 1).

    Returns:
        lower and upper ends, each `[...]`; NaN with fewer than five seeds, of which resampling knows too little.
    """
    from scipy import stats

    if len(values) < LEAST_SEEDS:
        missing = np.full(values.shape[1:], np.nan)
        return missing, missing
    with warnings.catch_warnings():
        # A point without a finite value has no interval, which the NaN says already.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (values,),
            interquartile_mean,
            axis=0,
            vectorized=True,
            n_resamples=int(np.clip(_DRAWS / len(values), _LEAST_RESAMPLES, _RESAMPLES)),
            batch=int(np.clip(_DRAWS / values.size, 1, 1_000)),
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return result.confidence_interval.low, result.confidence_interval.high


def summarize(per_seed: np.ndarray) -> dict[str, Any]:
    """`iqm, ci95, mean, median, min, max, per_seed` of one value a seed `[seeds]`.

    A seed without a finite value is named in `not_finite` and left out of the statistics; nothing else is.
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
    """How often a draw of `values` is above one of `others`, ties counting half (Agarwal et al. 2021, section 4.3)."""
    return float(_improvements(values[None], others[None])[0])


def _improvements(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`[B, S]` against `[B, T]`: the Mann-Whitney statistic over its largest value, `[B]`."""
    counts = [
        np.searchsorted(row, x, "left").sum() + np.searchsorted(row, x, "right").sum()
        for x, row in zip(values, np.sort(others, axis=1), strict=True)
    ]
    return np.array(counts) / (2.0 * values.shape[1] * others.shape[1])


def improvement_interval(values: np.ndarray, others: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Stratified bootstrap interval of `probability_of_improvement`: either side's seeds are resampled apart.

    NaN where a side has fewer than five seeds.
    """
    if min(len(values), len(others)) < LEAST_SEEDS:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    draws = _improvements(*(rng.choice(x, (_COMPARISONS, len(x))) for x in (values, others)))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score(values: np.ndarray) -> float:
    """What configurations are ranked by: the interquartile mean of the finite values, minus infinity without one."""
    finite = _finite(values)
    return float(interquartile_mean(finite)) if len(finite) else -np.inf


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def compare(configurations: Sequence[np.ndarray | None]) -> dict[str, Any]:
    """Which of C configurations, given one value a seed `[S]` of each, is the best; None is not to be compared.

    The best is chosen by the interquartile mean on seeds 0, 2, 4, ... and reported on seeds 1, 3, 5, ..., since the
    value that a choice was made by flatters it. Values that are not finite are left out; `summarize` names them.

    Returns:
        `best`, with its place in the list, and `best_improves_on`, for each configuration the probability that the
        best one improves on it with its 95% interval, both on the seeds that the choice was not made by; and
        `probability_of_improvement`, on all seeds, `[C][C]` of a row's configuration on a column's. Both are None
        where a configuration has no finite value or is not compared. Of more than 100 there is no such table.
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
    every = [_finite(values) for values in returns]
    table = None
    if len(every) <= _MOST_COMPARED:
        table = [[probability_of_improvement(a, b) if len(a) and len(b) else None for b in every] for a in every]
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
