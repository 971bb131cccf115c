"""Statistics over seeds: interquartile means, bootstrap intervals, comparisons."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from rljax.report import statistics
from rljax.report.statistics import bootstrap_interval, improvement_interval, interquartile_mean, summarize


def middle_half(values):
    """The interquartile mean from its definition: sorted, a quarter (rounded down) dropped at either end."""
    values = sorted(values)
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 11, 20, 30])
def test_interquartile_mean_is_the_mean_of_the_middle_half(size):
    values = np.random.default_rng(size).normal(size=(size, 3)) ** 3
    np.testing.assert_allclose(interquartile_mean(values), [middle_half(column) for column in values.T], rtol=1e-12)
    # That of rliable: scipy's mean trimmed by a quarter of all values.
    np.testing.assert_allclose(interquartile_mean(values[:, 0]), stats.trim_mean(values[:, 0], 0.25, axis=None))


def test_interquartile_mean_by_hand_ignores_outliers():
    assert interquartile_mean(np.array([1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1e9])) == 3.5
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, 4.0, 100.0])) == 3.0
    assert interquartile_mean(np.array([0.0, 2.0, 4.0, 7.0, 8.0, 100.0, -50.0])) == np.mean([0, 2, 4, 7, 8])
    np.testing.assert_array_equal(interquartile_mean(np.arange(8.0).reshape(2, 4), axis=1), [1.5, 5.5])


def test_interval_contains_the_interquartile_mean_and_shrinks_with_seeds():
    widths = []
    for size in (8, 32, 128):
        values = np.random.default_rng(size).normal(size=(size, 20))
        low, high = bootstrap_interval(values)
        middle = interquartile_mean(values)
        assert low.shape == high.shape == (20,)
        assert np.all((low < middle) & (middle < high))
        widths.append((high - low).mean())
    # With the square root of the number of seeds.
    assert 1.6 < widths[0] / widths[1] < 2.5
    assert 1.6 < widths[1] / widths[2] < 2.5


def test_interval_has_its_coverage():
    # Each column is an independent experiment of 20 seeds, from a distribution with interquartile mean zero.
    values = np.random.default_rng(0).normal(size=(20, 300))
    low, high = bootstrap_interval(values)
    assert 0.87 <= np.mean((low < 0) & (high > 0)) <= 0.99
    low, high = bootstrap_interval(values[:, :100], confidence=0.5)
    assert 0.35 <= np.mean((low < 0) & (high > 0)) <= 0.65


def test_interval_of_a_column_does_not_depend_on_the_others():
    values = np.random.default_rng(1).normal(size=(6, 3))
    low, high = bootstrap_interval(values)
    alone = bootstrap_interval(values[:, 1])
    np.testing.assert_allclose([low[1], high[1]], alone, rtol=1e-12)
    np.testing.assert_allclose(bootstrap_interval(values), (low, high), rtol=1e-12)


def test_one_seed_has_no_interval():
    low, high = bootstrap_interval(np.array([3.0]))
    assert np.isnan(low)
    assert np.isnan(high)
    low, high = bootstrap_interval(np.ones((1, 4)))
    assert np.all(np.isnan(low))
    assert low.shape == high.shape == (4,)


def test_equal_seeds_have_an_interval_of_width_zero():
    for values in (np.full(7, 500.0), np.full((5, 3), -1.5)):
        low, high = bootstrap_interval(values)
        np.testing.assert_array_equal(low, values[0])
        np.testing.assert_array_equal(high, values[0])


def test_a_curve_with_a_gap_gives_no_warning():
    values = np.random.default_rng(2).normal(size=(5, 3))
    values[2, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_interval(values)
    assert np.all(np.isfinite(low[[0, 2]]))
    assert np.all(low[[0, 2]] < high[[0, 2]])


def test_summary_of_finite_seeds():
    values = np.array([3.0, 1.0, 2.0, 100.0, 4.0])
    summary = summarize(values)
    assert list(summary) == ["iqm", "ci95", "mean", "median", "min", "max", "per_seed", "not_finite"]
    assert (summary["iqm"], summary["mean"], summary["median"]) == (3.0, 22.0, 3.0)
    assert (summary["min"], summary["max"]) == (1.0, 100.0)
    skewed = summarize(np.array([0.0, 1.0, 2.0, 6.0, 100.0]))
    assert (skewed["iqm"], skewed["median"]) == (3.0, 2.0)
    assert summary["per_seed"] == list(values)
    assert summary["not_finite"] == []
    assert summary["ci95"][0] < 3.0 < summary["ci95"][1]
    assert summary["ci95"] == [float(end) for end in bootstrap_interval(values)]


def test_summary_names_and_excludes_seeds_without_a_number():
    summary = summarize(np.array([1.0, np.nan, 2.0, 3.0, np.inf, -np.inf, 2.0, 2.0]))
    assert summary["not_finite"] == [1, 4, 5]
    assert (summary["iqm"], summary["mean"], summary["min"], summary["max"]) == (2.0, 2.0, 1.0, 3.0)
    assert len(summary["per_seed"]) == 8
    assert np.isnan(summary["per_seed"][1])
    rest = summarize(np.array([1.0, 2.0, 3.0, 2.0, 2.0]))
    assert summary["ci95"] == rest["ci95"]


def test_too_few_seeds_have_no_interval():
    values = np.random.default_rng(0).normal(size=(5, 2000))
    low, high = bootstrap_interval(values)
    assert 0.86 <= np.mean((low < 0) & (high > 0)) <= 0.92
    assert np.isnan(bootstrap_interval(values[:4])).all()
    assert np.isnan(improvement_interval(values[:4, 0], values[:, 1])).all()
    assert not np.isnan(improvement_interval(values[:, 0], values[:, 1])).any()


def test_summary_of_one_seed_and_of_none():
    one = summarize(np.array([np.nan, 7.0]))
    assert (one["iqm"], one["mean"], one["not_finite"]) == (7.0, 7.0, [0])
    assert np.all(np.isnan(one["ci95"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = summarize(np.array([np.nan, np.nan]))
    assert none["not_finite"] == [0, 1]
    assert np.isnan(none["iqm"])
    assert np.isnan(none["max"])


def test_probability_of_improvement_by_counting():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 7).astype(float), rng.integers(0, 5, 9).astype(float)
    counted = np.mean([(a > b) + 0.5 * (a == b) for a in x for b in y])
    np.testing.assert_allclose(statistics.probability_of_improvement(x, y), counted)
    np.testing.assert_allclose(statistics.probability_of_improvement(y, x), 1 - counted)
    low, high = statistics.improvement_interval(x, y)
    assert 0 <= low < counted < high <= 1
    assert np.isnan(statistics.improvement_interval(x[:1], y)).all()


def test_the_interval_of_an_improvement_has_the_width_of_two_independent_samples():
    """The Mann-Whitney statistic of n and n equal values has variance (1 / n + 1 / n) / 12, nearly."""
    values = np.random.default_rng(0).normal(size=(20, 30))
    for confidence, deviations in ((0.95, 1.96), (0.5, 0.674)):
        low, high = np.mean([improvement_interval(x, x, confidence) for x in values], axis=0)
        assert high - low == pytest.approx(2 * deviations * np.sqrt(2 / 30 / 12), rel=0.1)
        assert low + high == pytest.approx(1.0, abs=0.02)


def test_the_best_is_reported_on_other_seeds_than_it_was_chosen_on():
    lucky = np.array([9.0, 1, 9, 1, 9, 1, 9, 1])
    steady = np.full(8, 5.0)
    compared = statistics.compare([steady, lucky])
    assert compared["best"]["configuration"] == 1
    assert compared["best"]["final_return"]["iqm"] == 1.0
    assert compared["best_improves_on"][0]["probability"] == 0.0
    assert compared["best_improves_on"][1]["probability"] == 0.5
    table = np.array(compared["probability_of_improvement"])
    np.testing.assert_allclose(table + table.T, 1.0)  # ties count half
    for i, j in itertools.product(range(len(table)), repeat=2):
        a, b = (steady, lucky)[i][:, None], (steady, lucky)[j][None]
        np.testing.assert_allclose(table[i, j], ((a > b) + 0.5 * (a == b)).mean())
    one = statistics.compare([np.array([1.0]), np.array([2.0]), np.array([np.nan])])
    assert one["best"]["configuration"] == 1
    assert one["best"]["final_return"] is None
    assert one["best_improves_on"] == [None, None, None]


def test_comparisons_are_of_the_row_with_the_column():
    worse = np.arange(12.0)
    compared = statistics.compare([worse, worse + 3.5])
    table, (improvement, itself) = compared["probability_of_improvement"], compared["best_improves_on"]
    counted = np.mean(worse[:, None] + 3.5 > worse)
    assert counted > 0.7
    np.testing.assert_allclose(table, [[0.5, 1 - counted], [counted, 0.5]])
    assert improvement["probability"] == np.mean(worse[1::2, None] + 3.5 > worse[1::2])
    low, high = improvement["ci95"]
    assert 1 - high < low < improvement["probability"] < high
    assert itself["probability"] == 0.5


def test_the_score_is_the_interquartile_mean_of_finite_values():
    assert statistics.score(np.array([0.0, 1.0, np.nan, 2.0, 6.0, 100.0, np.inf])) == 3.0
    assert statistics.score(np.array([np.nan])) == -np.inf


def test_configurations_left_out_are_never_the_best():
    compared = statistics.compare([None, np.array([1.0, 2, 1, 2]), np.full(4, np.nan), None, np.array([0.0, 0, 3, 3])])
    assert compared["best"]["configuration"] == 4  # 1.5 against 1 on seeds 0 and 2
    assert [of and of["probability"] for of in compared["best_improves_on"]] == [None, 0.5, None, None, 0.5]
    table = compared["probability_of_improvement"]
    assert [[i for i, cell in enumerate(row) if cell is not None] for row in table] == [[], [1, 4], [], [], [1, 4]]
    assert statistics.compare([None, np.full(2, np.nan)])["best"]["configuration"] == 1


def test_a_difference_of_paired_seeds_is_that_of_the_pairs():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(0, 10, 40), rng.normal(0, 1, 40)
    paired, apart = (statistics.difference(x + 1 + noise, x, is_paired) for is_paired in (True, False))
    assert paired.difference == apart.difference == interquartile_mean(x + 1 + noise) - interquartile_mean(x)
    assert paired.p < 0.001
    assert apart.p > 0.3
    low, high = paired.ci95
    assert high - low < 2
    assert 5 < apart.ci95[1] - apart.ci95[0] < 15
    # Twice the seeds for half the variance: the observed difference needs (smallest / difference)^2 as many.
    assert apart.seeds == pytest.approx(40 * (apart.smallest / apart.difference) ** 2, rel=0.01)


def test_what_seeds_could_show_follows_the_power_of_two_samples():
    """The IQM of n normal values has a standard deviation of 1.09 / sqrt(n); a power of 80% takes 2.80 of them."""
    found = [statistics.difference(*np.random.default_rng(i).normal(size=(2, 60))) for i in range(8)]
    assert np.mean([one.smallest for one in found]) == pytest.approx(2.80 * 1.09 * np.sqrt(2 / 60), rel=0.1)


def test_equal_values_differ_by_nothing():
    same = statistics.difference(np.full(6, 5.0), np.full(6, 5.0), is_paired=True)
    assert (same.difference, same.p, same.smallest, same.seeds) == (0.0, 1.0, 0.0, np.inf)
    few = statistics.difference(np.arange(4.0), np.arange(6.0))
    assert np.isnan([*few.ci95, few.smallest, few.seeds]).all()
    assert few.p > 0.3


@pytest.mark.slow
def test_the_smallest_difference_is_shown_with_its_power():
    """Of 60 experiments with that true difference about 80% show it, and without any about 5%."""
    for is_paired in (True, False):
        shown = np.zeros(2)
        for i in range(60):
            x, y = np.random.default_rng(i).normal(size=(2, 25))
            true = 2.80 * 1.09 * np.sqrt(2 / 25)
            shown += [statistics.difference(x + shift, y, is_paired).p < 0.05 for shift in (true, 0.0)]
        assert 0.65 < shown[0] / 60 < 0.95
        assert shown[1] / 60 < 0.14


def test_corrected_p_values_by_hand():
    """Holm 1979: the smallest of three counts three times, the next twice, and none is below one before it."""
    np.testing.assert_allclose(statistics.holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_a_profile_counts_the_runs_above_a_threshold():
    above, low, high = statistics.performance_profile([np.arange(6.0), np.arange(6.0) + 3], np.array([-1.0, 3.0, 8.0]))
    np.testing.assert_allclose(above, [1.0, 7 / 12, 0.0])
    assert low[1] < 7 / 12 < high[1]
    assert (low[0], high[2]) == (1.0, 0.0)
    assert np.isnan(statistics.performance_profile([np.arange(4.0)], np.zeros(1))[1]).all()


def test_tasks_are_resampled_separately():
    """The spread between tasks is no uncertainty: two constant tasks have an interval of width zero."""
    assert statistics.stratified([np.zeros(6), np.ones(6)]) == (0.5, (0.5, 0.5))
    middle, (low, high) = statistics.stratified([np.arange(6.0), np.arange(6.0) + 10])
    assert low < middle == 7.5 < high
    assert np.isnan(statistics.stratified([np.zeros(4), np.ones(6)])[1]).all()
