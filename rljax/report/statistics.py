"""Statistics over seeds, by scipy: the interquartile mean and its bootstrap interval (Agarwal et al. 2021)."""

import warnings
from typing import Any

import numpy as np

_RESAMPLES = 5_000


def interquartile_mean(values: np.ndarray, axis: int = 0) -> Any:
    """Mean of the middle half along `axis`: a quarter of the values is cut off at either end."""
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval of the interquartile mean over the first axis, seeds being resampled.

    Args:
        values: `[seeds, ...]`.
        confidence: coverage in (0, 1).

    Returns:
        lower and upper ends, each `[...]`; NaN with fewer than two seeds, where there is no interval.
    """
    from scipy import stats

    if len(values) < 2:
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
            n_resamples=_RESAMPLES,
            batch=100,
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
