"""Intervals of the interquartile mean that hold at every look at a growing number of seeds.

The k-th look gives an interval of level 1 - alpha / (k (k + 1)). These errors sum to alpha, so that with probability
1 - alpha all intervals hold, whichever look a run stops at and for whatever reason (a union bound).

A look's interval is that of Learned-Miller and Thomas 2019 ("A new confidence interval for the mean of a bounded random
variable"), for the interquartile mean: whatever the distribution, its values F(x) at n sorted samples are distributed
like n sorted uniform numbers. These are drawn; between two samples the quantile function is at least the lower one and
at most the upper one; so every draw bounds the interquartile mean, and the ends are quantiles of these bounds. It needs
no variance and no normality, only the middle half's tails to lie within the samples. Its authors conjecture its
coverage for every distribution and number of samples; `benchmarks/sequential_coverage.py` measures it.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from rljax.errors import UsageError, shown
from rljax.report.statistics import interquartile_mean

BATCH = 16  # seeds that are added at least
GROWTH = 1.5  # of their number from look to look, so that the errors stay large
MOST_SEEDS = 10_000
_DRAWS = 10_000
_DRAWS_IN_TAILS = 25  # at least, in each
_CHUNK = 4_000_000  # numbers drawn at once


def looks() -> Iterator[int]:
    """The numbers of seeds at the looks: 16, 32, 48, 80, 128, ... up to 10,000."""
    seeds = BATCH
    while seeds <= MOST_SEEDS:
        yield seeds
        seeds += max(BATCH, BATCH * math.ceil(seeds * (GROWTH - 1) / BATCH))


def width_of(until: str) -> tuple[float, bool]:
    """The half-width in a text, and whether it is a fraction of |IQM|: "5%" or "2.5".

    Raises:
        UsageError: it is neither.
    """
    is_relative = until.endswith("%")
    try:
        width = float(until.removesuffix("%")) / (100.0 if is_relative else 1.0)
    except ValueError:
        width = math.nan
    if not 0 < width < math.inf:
        raise UsageError(
            f"until takes a part of the IQM, such as 5%, or a half-width, such as 2.5, got {shown(until)}."
        )
    return width, is_relative


def interval(values: np.ndarray, look: int, confidence: float = 0.95) -> tuple[Any, Any]:
    """The interval of the k-th look at finite values `[S, ...]`, over the first axis.

    Returns:
        lower and upper ends, `[...]` each; infinite if there are too few.
    """
    alpha = (1.0 - confidence) / (look * (look + 1))
    middle, rng = np.median(values, axis=0), np.random.default_rng(0)
    columns = np.sort(values - middle, axis=0).reshape(len(values), -1)  # equal values give exactly that value
    count = max(_DRAWS, math.ceil(2 * _DRAWS_IN_TAILS / alpha))
    ends = [bounds(columns, rng, size) for size in _chunks(count, max(_CHUNK // (len(values) + 1), 1))]
    lows, highs = map(np.concatenate, zip(*ends, strict=True))
    low = np.quantile(lows, alpha / 2, axis=0, method="lower")
    high = np.quantile(highs, 1 - alpha / 2, axis=0, method="higher")
    return middle + low.reshape(values.shape[1:]), middle + high.reshape(values.shape[1:])


def bounds(columns: np.ndarray, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the interquartile means, `[draws, C]` each, given sorted values `[S, C]`."""
    spacings = rng.standard_exponential((draws, len(columns) + 1))
    edges = np.cumsum(spacings, axis=1)
    edges = np.clip(edges / edges[:, -1:], 0.25, 0.75)
    weights = 2.0 * np.diff(edges, axis=1, prepend=0.25)  # of the gap below each value, and of the one above all
    lower = np.where(weights[:, :1] > 0, -np.inf, weights[:, 1:] @ columns)
    upper = np.where(weights[:, -1:] > 0, np.inf, weights[:, :-1] @ columns)
    return lower, upper


def _chunks(count: int, size: int) -> list[int]:
    return [min(size, count - first) for first in range(0, count, size)]


def is_reached(values: np.ndarray, ends: tuple[Any, Any], until: str) -> Any:
    """True `[...]` where an interval of values `[S, ...]` is as narrow as asked for."""
    width, is_relative = width_of(until)
    allowed = width * abs(interquartile_mean(values)) if is_relative else width
    return (ends[1] - ends[0]) / 2 <= allowed
