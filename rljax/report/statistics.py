"""Statistics over seeds, by scipy: the interquartile mean and its bootstrap interval (Agarwal et al. 2021)."""

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
    finite = per_seed[np.isfinite(per_seed)]
    result: dict[str, Any] = {}
    if finite.size:
        low, high = bootstrap_interval(finite)
        result = {
            "iqm": float(interquartile_mean(finite)),
            "ci95": [float(low), float(high)],
            "mean": float(finite.mean()),
            "median": float(np.median(finite)),
            "min": float(finite.min()),
            "max": float(finite.max()),
        }
    else:
        result = {"iqm": np.nan, "ci95": [np.nan, np.nan], "mean": np.nan, "median": np.nan, "min": np.nan, "max": np.nan}
    result["per_seed"] = [float(x) for x in per_seed]
    result["not_finite"] = [int(i) for i in np.flatnonzero(~np.isfinite(per_seed))]
    return result
