"""Running moments, and the observations and rewards that they scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import running_statistics


def test_standardize_and_rescale_before_any_sample_only_clip():
    moments = running_statistics.init_moments((2,))
    assert np.allclose(running_statistics.standardize(moments, jnp.array([0.5, -99.0])), [0.5, -10.0])
    assert np.allclose(
        running_statistics.rescale(running_statistics.init_moments(), jnp.array([3.0, 99.0])), [3.0, 10.0]
    )


update_moments = jax.jit(running_statistics.update_moments)


@pytest.mark.parametrize(
    ("center", "spread"), [(0.0, 1.0), (1e3, 1.0), (-1e3, 0.05), (1e5, 10.0), (1e-3, 1e-2), (-7.0, 300.0)]
)
def test_moments_equal_those_of_numpy(center, spread):
    random = np.random.default_rng(0)
    moments, parts = running_statistics.init_moments((3,)), []
    for number in range(12):
        part = random.normal(center + number * spread / 4, spread, (64, 8, 3)).astype(np.float32)
        parts.append(part.reshape(-1, 3))
        moments = update_moments(moments, jnp.asarray(part))
    everything = np.concatenate(parts).astype(np.float64)
    assert moments.samples == len(everything)
    assert np.all(np.abs(moments.mean - everything.mean(0)) < 2e-3 * everything.std(0) + 1e-7 * abs(center))
    assert np.allclose(running_statistics.deviation(moments), everything.std(0), rtol=1e-3)


def test_moments_of_parts_of_different_sizes():
    random = np.random.default_rng(1)
    parts = [random.normal(5.0 * size, 2.0, (size,)).astype(np.float32) for size in (1, 2, 7, 100)]
    moments = running_statistics.init_moments()
    for part in parts:
        moments = running_statistics.update_moments(moments, jnp.asarray(part))
    everything = np.concatenate(parts)
    assert moments.samples == 110
    assert np.isclose(moments.mean, everything.mean(), rtol=1e-5)
    assert np.isclose(running_statistics.deviation(moments), everything.std(), rtol=1e-5)


CONSTANTS = [0.0, 0.1, 123.456, 1000.1, -30000.1, 1e-20, -1e37]


@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_constant_feature_is_standardized_to_zero(constant):
    # In float32 a plain mean of equal numbers is not that number, and the deviation is next to nothing.
    moments = running_statistics.init_moments((1,))
    for size in ((64, 8, 1), (1, 1, 1), (1000, 3, 1)) * 3:
        moments = update_moments(moments, jnp.full(size, constant, jnp.float32))
    assert moments.mean == np.float32(constant)
    assert running_statistics.deviation(moments) == 0.0
    assert running_statistics.standardize(moments, moments.mean) == 0.0
    slope = jax.grad(lambda x: running_statistics.standardize(moments, x).sum())(moments.mean)
    assert 0.0 <= slope <= 1.0
    assert running_statistics.rescale(moments, moments.mean) == np.clip(constant, -1.0, 1.0).astype(np.float32)


@pytest.mark.parametrize("constant", [0.1, -1000.1, 1e37])
def test_rounding_noise_of_a_constant_is_not_scaled_up(constant):
    noisy = np.full((1000, 1), constant, np.float32)
    noisy[::7] = np.nextafter(noisy[0], np.float32(np.inf))
    moments = update_moments(running_statistics.init_moments((1,)), noisy)
    assert np.abs(running_statistics.standardize(moments, noisy)).max() < 1e-6


def assert_equal_to_numpys(moments, samples, rtol=1e-5):
    wide = samples.astype(np.float64)
    assert moments.samples == len(wide)
    size = np.maximum(np.abs(wide.mean(0)), wide.std(0))
    np.testing.assert_allclose(moments.mean / size, wide.mean(0) / size, atol=1e-6)
    np.testing.assert_allclose(running_statistics.deviation(moments), wide.std(0), rtol=rtol)


MAGNITUDES = [
    (0.0, 1.0), (3.0, 2.0), (1e4, 1.0), (1e6, 1.0), (-1e5, 1e-1), (1e-20, 1e-21), (0.0, 1e-20), (1e37, 1e36),
    (5e36, 1e31), (0.0, 3e36), (1e-3, 1e10),
]  # fmt: skip


@pytest.mark.parametrize("shape", [(3000, 1), (20, 150), (4, 25_000), (1, 1_000_003)])
@pytest.mark.parametrize(("mean", "spread"), MAGNITUDES)
def test_moments_are_numpys_for_any_magnitude(mean, spread, shape):
    samples = np.random.default_rng(0).normal(mean, spread, shape).astype(np.float32)
    moments, _ = run(running_statistics.init_moments(), samples)
    assert_equal_to_numpys(moments, samples.reshape(-1))
    flat = samples.reshape(-1)[:1000]
    wide = samples.astype(np.float64)
    expected = (flat.astype(np.float64) - wide.mean()) / wide.std()
    np.testing.assert_allclose(running_statistics.standardize(moments, flat), expected, rtol=1e-4, atol=1e-5)


@jax.jit
def run(moments, batches):
    """Merge batches `[B, ...]` one after the other."""
    return jax.lax.scan(
        lambda moments, batch: (running_statistics.update_moments(moments, batch), None), moments, batches
    )


def test_the_deviation_of_two_values_and_of_an_outlier_in_a_large_batch():
    two = np.where(np.random.default_rng(0).random(500_000) < 0.3, 0.1, 0.0).astype(np.float32)
    outlier = np.full(500_000, 0.3, np.float32)
    outlier[0] = 1e6
    for samples in (two, outlier):
        assert_equal_to_numpys(update_moments(running_statistics.init_moments(), samples), samples)


@pytest.mark.parametrize("count", [1e3, 2.0**24, 1e8, 1e10])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e33])
def test_late_samples_count_as_much_as_early_ones(count, scale):
    """After `count` samples of mean 3 and deviation 2 come 20,000 of another distribution, one at a time."""
    start = np.tile(np.array([1.0, 5.0], np.float32) * np.float32(scale), 500)
    moments, total = update_moments(running_statistics.init_moments(), start), 1000
    merge = jax.jit(running_statistics.merge)
    while total < count:
        moments, total = merge(moments, moments), 2 * total
    np.testing.assert_allclose(moments.mean, 3.0 * scale, rtol=1e-6)
    np.testing.assert_allclose(running_statistics.deviation(moments), 2.0 * scale, rtol=1e-6)
    late = (np.random.default_rng(0).normal(3000.0, 700.0, 20_000) * scale).astype(np.float32)
    moments, _ = run(moments, late[:, None])
    wide = late.astype(np.float64) / scale
    everything = total + len(wide)
    mean = (3.0 * total + wide.sum()) / everything
    variance = (4.0 * total + np.square(wide - mean).sum()) / everything + (3.0 - mean) ** 2 * total / everything
    exact = float(moments.samples) + float(moments.samples_rest)
    assert exact == everything
    np.testing.assert_allclose(moments.mean, mean * scale, rtol=1e-6)
    np.testing.assert_allclose(running_statistics.deviation(moments), np.sqrt(variance) * scale, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e36])
def test_merging_two_is_merging_all_samples(scale):
    random = np.random.default_rng(0)
    parts = [(random.normal(i, 1 + i, (40 * i + 1, 2)) * scale).astype(np.float32) for i in range(4)]
    empty = running_statistics.init_moments((2,))
    a, b, c, d = (update_moments(empty, part) for part in parts)
    merge = running_statistics.merge
    for merged in (
        merge(merge(a, b), merge(c, d)),
        merge(d, merge(c, merge(b, a))),
        merge(merge(empty, a), merge(merge(b, c), merge(d, empty))),
    ):
        assert_equal_to_numpys(merged, np.concatenate(parts))
    assert jax.tree.all(jax.tree.map(np.array_equal, merge(empty, empty), empty))


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_is_not_hidden(spoiled):
    moments = update_moments(running_statistics.init_moments(), jnp.array([1.0, 2.0]))
    moments = update_moments(moments, jnp.array([1.0, spoiled]))
    assert np.isnan(running_statistics.standardize(moments, jnp.float32(1.0)))
    assert np.isnan(running_statistics.rescale(moments, jnp.float32(1.0)))
