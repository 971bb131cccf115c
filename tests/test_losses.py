"""Losses against their closed forms, and their gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from rljax import losses

CLIP = 0.2


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


surrogate = jax.jit(losses.clipped_surrogate)
surrogate_slope = jax.jit(jax.vmap(jax.grad(losses.clipped_surrogate), (0, 0, None)))
clipped_squared = jax.jit(losses.clipped_squared)
clipped_slope = jax.jit(jax.vmap(jax.grad(losses.clipped_squared), (0, 0, 0, None)))
approximate_kl = jax.jit(losses.approximate_kl)
kl_slope = jax.jit(jax.vmap(jax.grad(losses.approximate_kl)))


def central(function, x, width=1e-6):
    return (np.asarray(function(x + width)) - np.asarray(function(x - width))) / (2 * width)


def ratios_and_advantages():
    """Every pair of a ratio, none on the edge of the clip, and an advantage of either sign."""
    log_ratio, advantages = np.meshgrid(np.log([0.3, 0.79, 0.81, 0.999, 1.1, 1.19, 1.21, 3.0]), [-2.0, -0.1, 0.5, 4.0])
    return log_ratio.ravel(), advantages.ravel()


def test_clipped_surrogate_equals_its_equation(x64):
    log_ratio, advantages = ratios_and_advantages()
    ratio = np.exp(log_ratio)
    expected = -np.minimum(ratio * advantages, np.clip(ratio, 1 - CLIP, 1 + CLIP) * advantages)
    np.testing.assert_allclose(surrogate(log_ratio, advantages, CLIP), expected, rtol=1e-12)
    # By hand: a good action is not credited beyond 1.2, a bad one is blamed in full.
    worked = surrogate(np.log([1.5, 1.5, 0.5, 0.5]), np.array([1.0, -1.0, 1.0, -1.0]), CLIP)
    np.testing.assert_allclose(worked, [-1.2, 1.5, -0.5, 0.8], rtol=1e-12)


def test_clipped_surrogate_has_no_gradient_exactly_where_the_clip_binds(x64):
    log_ratio, advantages = ratios_and_advantages()
    ratio = np.exp(log_ratio)
    slope = np.asarray(surrogate_slope(log_ratio, advantages, CLIP))
    binds = ((advantages > 0) & (ratio > 1 + CLIP)) | ((advantages < 0) & (ratio < 1 - CLIP))
    assert binds.sum() == 8
    np.testing.assert_array_equal(slope[binds], 0.0)
    np.testing.assert_allclose(slope[~binds], -(ratio * advantages)[~binds], rtol=1e-12)
    differences = central(lambda x: surrogate(x, advantages, CLIP), log_ratio)
    np.testing.assert_allclose(slope, differences, atol=1e-8)


def test_clipped_surrogate_starts_as_the_policy_gradient():
    advantages = np.array([-2.0, 0.5, 3.0], np.float32)
    slope = surrogate_slope(np.zeros(3, np.float32), advantages, CLIP)
    np.testing.assert_allclose(slope, -advantages, rtol=1e-6)


def test_clipped_surrogate_survives_a_ratio_that_overflows():
    far = np.array([100.0, 200.0], np.float32)
    np.testing.assert_allclose(surrogate(far, np.array([1.0, 2.0], np.float32), CLIP), [-1.2, -2.4], rtol=1e-6)
    np.testing.assert_array_equal(surrogate(far, np.zeros(2, np.float32), CLIP), 0.0)
    # The clip binds, so there is nothing to learn: a NaN here would destroy all parameters.
    np.testing.assert_array_equal(surrogate_slope(far, np.array([1.0, 2.0], np.float32), CLIP), 0.0)
    np.testing.assert_array_equal(surrogate_slope(-far, np.array([-1.0, 2.0], np.float32), CLIP), 0.0)


def test_squared_is_half_the_square():
    predictions, targets = jnp.array([1.0, -2.0, 0.5]), jnp.array([4.0, 2.0, 0.5])
    np.testing.assert_array_equal(losses.squared(predictions, targets), [4.5, 8.0, 0.0])
    slope = jax.grad(lambda v: losses.squared(v, targets).sum())(predictions)
    np.testing.assert_array_equal(slope, predictions - targets)


def test_clipped_squared_takes_the_larger_error(x64):
    rng = np.random.default_rng(0)
    v, old, target = rng.normal(size=(3, 200))
    limited = np.clip(v, old - CLIP, old + CLIP)
    larger = np.maximum((v - target) ** 2, (limited - target) ** 2) / 2
    smaller = np.minimum((v - target) ** 2, (limited - target) ** 2) / 2
    result = np.asarray(clipped_squared(v, old, target, CLIP))
    np.testing.assert_allclose(result, larger, rtol=1e-10, atol=1e-12)
    assert np.mean(result - smaller > 1e-3) > 0.5
    # By hand: from 0 to 1 with the target at 2 counts as 0.2 (error 1.8); with the target at -1 as 1 (error 2).
    np.testing.assert_allclose(clipped_squared(np.ones(2), np.zeros(2), np.array([2.0, -1.0]), CLIP), [1.62, 2.0])


def test_clipped_squared_stops_only_what_has_left_towards_its_target(x64):
    v, old = np.array([1.0, 1.0, 0.1, -1.0, -1.0]), np.zeros(5)
    target = np.array([2.0, -1.0, 2.0, -2.0, 1.0])
    slope = np.asarray(clipped_slope(v, old, target, CLIP))
    np.testing.assert_allclose(slope, [0.0, 2.0, -1.9, 0.0, -2.0], atol=1e-12)
    rng = np.random.default_rng(1)
    v, old, target = rng.normal(size=(3, 200))
    differences = central(lambda x: clipped_squared(x, old, target, CLIP), v)
    np.testing.assert_allclose(clipped_slope(v, old, target, CLIP), differences, atol=1e-7)


def test_approximate_kl_is_never_negative_and_zero_for_equal_policies():
    sizes = np.logspace(-9, 1.5, 4000).astype(np.float32)
    log_ratio = np.concatenate([-sizes, np.zeros(1, np.float32), sizes])
    estimate = np.asarray(approximate_kl(log_ratio))
    assert np.all(estimate >= 0)
    assert estimate[4000] == 0
    exact = np.expm1(log_ratio.astype(np.float64)) - log_ratio
    large = np.abs(log_ratio) > 1e-3
    np.testing.assert_allclose(estimate[large], exact[large], rtol=2e-3)


def test_approximate_kl_slope(x64):
    log_ratio = np.array([-2.0, -0.1, 0.0, 0.3, 1.5])
    np.testing.assert_allclose(kl_slope(log_ratio), np.expm1(log_ratio), atol=1e-12)
    np.testing.assert_allclose(kl_slope(log_ratio), central(approximate_kl, log_ratio), atol=1e-8)


def test_approximate_kl_expects_the_divergence_of_new_from_old(x64):
    mean, std = 0.5, 1.4
    old = np.random.default_rng(0).normal(size=200_000)
    log_ratio = -0.5 * ((old - mean) / std) ** 2 - np.log(std) + 0.5 * old**2
    estimate = np.asarray(approximate_kl(log_ratio))
    error = estimate.std() / np.sqrt(len(estimate))
    forward = np.log(std) + (1 + mean**2) / (2 * std**2) - 0.5
    backward = -np.log(std) + (std**2 + mean**2) / 2 - 0.5
    assert abs(estimate.mean() - forward) < 4 * error
    assert abs(forward - backward) > 20 * error


def test_huber_is_a_parabola_and_then_a_line_that_meets_it():
    """SciPy's has the same form."""
    predictions, targets = np.float32([0.3, -0.1, 2.0, -4.0, 0.5]), np.float32([0.0, 0.2, 0.5, 1.0, 0.0])
    for delta in (0.5, 2.0):
        expected = scipy.special.huber(delta, predictions - targets)
        np.testing.assert_allclose(losses.huber(predictions, targets, delta), expected, rtol=1e-6)
        np.testing.assert_allclose(losses.regression(predictions, targets, delta), expected, rtol=1e-6)
