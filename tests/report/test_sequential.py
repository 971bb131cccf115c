"""Intervals that hold at every look at more and more seeds."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import rljax
from rljax.report import sequential, statistics


def test_looks_come_in_batches_that_grow():
    looks = list(sequential.looks())
    assert looks[:6] == [16, 32, 48, 80, 128, 192]
    assert all(seeds % sequential.BATCH == 0 for seeds in looks)
    assert all(1.25 < after / before < 2.1 for before, after in itertools.pairwise(looks))
    assert looks[-1] <= sequential.MOST_SEEDS < 1.5 * looks[-1] + 16


def test_bounds_of_one_draw_by_hand():
    """Of two values, F(x) = 0.5 and 0.75: below the first one, and above the last one, half of the middle half each."""

    class Even:
        def standard_exponential(self, shape):
            return np.broadcast_to(np.array([0.5, 0.25, 0.25]), shape)

    lower, upper = sequential.bounds(np.array([[1.0], [3.0]]), Even(), 1)
    assert lower[0] == -np.inf  # the quantiles in [0.25, 0.5] may be anything up to 1
    assert_allclose(upper, 2 * (0.25 * 1.0 + 0.25 * 3.0))

    class Inside:
        def standard_exponential(self, shape):
            return np.broadcast_to(np.array([0.25, 0.25, 0.25, 0.25]), shape)

    lower, upper = sequential.bounds(np.array([[1.0], [3.0], [7.0]]), Inside(), 1)
    assert_allclose([lower[0, 0], upper[0, 0]], [(1 + 3) / 2, (3 + 7) / 2])


def test_an_interval_is_nearly_that_of_a_trimmed_mean_at_its_level():
    """Of normal values, whose IQM is nearly normal: Tukey and McLaughlin 1963, by the winsorized variance."""
    values = np.random.default_rng(0).normal(size=192)
    low, high = sequential.interval(values, 6)
    winsorized = np.clip(values, *np.quantile(values, [0.25, 0.75]))
    half = stats.norm.ppf(1 - 0.025 / 42) * np.std(winsorized) / (0.5 * np.sqrt(192))
    assert 1.0 < (high - low) / 2 / half < 1.15
    assert low < statistics.interquartile_mean(values) < high
    first = sequential.interval(values, 1)
    assert low < first[0] < first[1] < high  # later looks have smaller errors
    assert sequential.interval(values * 2 + 1, 6) == pytest.approx((2 * low + 1, 2 * high + 1))


def test_columns_are_separate_experiments():
    values = np.random.default_rng(1).normal(size=(32, 3))
    for ends, alone in zip(sequential.interval(values, 2), sequential.interval(values[:, 1], 2), strict=True):
        assert ends[1] == pytest.approx(alone)


def test_few_seeds_have_no_interval():
    low, high = sequential.interval(np.arange(8.0), 1)
    assert low == -np.inf
    assert high == np.inf


def test_equal_seeds_have_an_interval_of_width_zero():
    assert sequential.interval(np.full(48, 500.0), 3) == (500.0, 500.0)


def test_a_lump_at_the_quartile_is_no_certainty():
    """A quarter of the seeds failed: the IQM depends on whether it is a little more or less."""
    values = np.concatenate([np.full(37, 500.0), np.full(11, 20.0)])
    assert statistics.interquartile_mean(values) == 500.0
    low, high = sequential.interval(values, 3)
    assert low < 450.0
    assert high == 500.0


@pytest.mark.parametrize("until", ["", "5", "5 %%", "0%", "-1", "nan", "inf", "x%"])
def test_widths_are_read_or_refused(until):
    if until == "5":
        assert sequential.width_of(until) == (5.0, False)
        assert sequential.width_of("5%") == (0.05, True)
    else:
        with pytest.raises(rljax.UsageError, match="until takes a part of the IQM, such as 5%"):
            sequential.width_of(until)


def test_a_width_is_absolute_or_relative():
    values = np.full(8, -100.0)
    assert sequential.is_reached(values, (-105.0, -95.0), "5%")
    assert not sequential.is_reached(values, (-105.1, -95.0), "5%")
    assert sequential.is_reached(values, (-105.1, -95.0), "5.05")
    assert not sequential.is_reached(values, (-np.inf, np.inf), "50")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal", "skewed", "two levels", "a quarter fails"])
def test_the_interval_at_the_stop_covers_as_promised(name):
    """Of 400 experiments that stop at 10%, at least 95% but for chance (three standard errors: 3.3%)."""
    from sequential_coverage import DISTRIBUTIONS, coverage

    assert coverage(DISTRIBUTIONS[name], "10%", 400).stopped >= 0.95 - 0.033
