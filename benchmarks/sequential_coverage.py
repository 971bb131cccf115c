"""Coverage of the intervals of `seeds="until ..."`, by simulation: `python benchmarks/sequential_coverage.py`.

Returns of seeds are drawn from known distributions, and looked at as `rljax.run` does, until the interval is narrow
enough. Counted is how often the interval at the stop has the true IQM in it, and how often those of all looks do.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import integrate, stats

from rljax.report import sequential

_AT_ONCE = 200  # experiments

Draw = Callable[[np.random.Generator, int], np.ndarray]


class Distribution(NamedTuple):
    """Returns of seeds."""

    draw: Draw
    iqm: float


def _of(distribution: "stats.rv_continuous") -> Distribution:
    iqm, _ = integrate.quad(distribution.ppf, 0.25, 0.75)
    return Distribution(lambda rng, n: distribution.rvs(size=n, random_state=rng), 2 * iqm)


def _two_levels(low: float, high: float, part: float, noise: float) -> Distribution:
    """A part of the seeds ends near the low level, the others at or near the high one."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return np.where(rng.random(n) < part, low, high) + noise * rng.standard_normal(n)

    sample = np.sort(draw(np.random.default_rng(1), 4_000_000))
    return Distribution(draw, float(sample[1_000_000:3_000_000].mean()))


DISTRIBUTIONS = {
    "normal": _of(stats.norm(100, 30)),
    "skewed": _of(stats.lognorm(0.6, scale=100)),
    "heavy tails": _of(stats.t(2, loc=100, scale=20)),
    "two levels": _two_levels(100, 200, 0.5, 10.0),
    "a quarter fails": _two_levels(20, 500, 0.25, 0.0),
    "a third fails": _two_levels(20, 500, 0.33, 0.0),
    "a tenth fails": _two_levels(20, 500, 0.1, 5.0),
}


class Coverage(NamedTuple):
    """Fractions of experiments whose intervals have the true IQM, and their median number of seeds."""

    stopped: float
    all_looks: float
    seeds: float


def coverage(distribution: Distribution, until: str, experiments: int, most: int = 660) -> Coverage:
    """Repeat an experiment; one that is not narrow enough by `most` seeds stops there."""
    parts = [_coverage(distribution, until, i, most) for i in range(experiments // _AT_ONCE)]
    stopped, all_looks, seeds = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Coverage(stopped.mean(), all_looks.mean(), float(np.median(seeds)))


def _coverage(distribution: Distribution, until: str, seed: int, most: int) -> tuple[np.ndarray, ...]:
    """Of some experiments: whether the intervals hold at the stop and at all looks, and the numbers of seeds."""
    looks = [seeds for seeds in sequential.looks() if seeds <= most]
    values = distribution.draw(np.random.default_rng(seed), looks[-1] * _AT_ONCE).reshape(looks[-1], _AT_ONCE)
    open_, stopped, all_looks, counts = (np.full(_AT_ONCE, x) for x in (True, True, True, looks[-1]))
    for look, seeds in enumerate(looks, start=1):
        rows = np.flatnonzero(open_)
        if not len(rows):
            break
        ends = sequential.interval(values[:seeds, rows], look)
        stopped[rows] = (ends[0] <= distribution.iqm) & (distribution.iqm <= ends[1])
        all_looks[rows] &= stopped[rows]
        counts[rows] = seeds
        open_[rows] = ~sequential.is_reached(values[:seeds, rows], ends, until)
    return stopped, all_looks, counts


def main() -> None:
    """Print a line for each distribution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", default="5%")
    parser.add_argument("--experiments", type=int, default=1_000)
    given = parser.parse_args()
    print(f"| returns | IQM | covered at the stop | at all looks | seeds, median |\n|{'---|' * 5}")
    for name, distribution in DISTRIBUTIONS.items():
        found = coverage(distribution, given.until, given.experiments)
        print(
            f"| {name} | {distribution.iqm:.1f} | {found.stopped:.1%} | {found.all_looks:.1%} | {found.seeds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
