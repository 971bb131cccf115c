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


@pytest.mark.parametrize("constant", [0.0, 0.1, 123.456, 1000.1, -30000.1])
def test_a_constant_feature_is_standardized_to_zero(constant):
    # In float32 a plain mean of equal numbers is not that number, and the deviation is next to nothing.
    moments = running_statistics.init_moments((1,))
    for _ in range(10):
        moments = update_moments(moments, jnp.full((64, 8, 1), constant, jnp.float32))
    assert np.abs(running_statistics.standardize(moments, jnp.full((1,), constant, jnp.float32))) < 0.1
