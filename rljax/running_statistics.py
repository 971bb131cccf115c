"""Running means and standard deviations, as part of the training state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_CLIP = 10.0

_EPSILON = 1e-8


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of all samples so far."""

    samples: jax.Array  # [] float32, their number
    mean: jax.Array  # [*shape] float32
    squared: jax.Array  # [*shape] float32


def init_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Moments of no samples, with which `standardize` only clips."""
    return Moments(jnp.float32(0.0), jnp.zeros(shape), jnp.zeros(shape))


def update_moments(moments: Moments, batch: jax.Array) -> Moments:
    """Merge a batch `[..., *shape]` into the moments (Chan, Golub and LeVeque 1979, equation 2.1)."""
    axes = tuple(range(batch.ndim - moments.mean.ndim))
    batch = batch.astype(jnp.float32)
    batch_count = jnp.float32(batch.size / max(moments.mean.size, 1))
    # Relative to one sample, the mean of a constant is exact for constants of any size.
    origin = batch.reshape(-1, *moments.mean.shape)[0]
    batch_mean = origin + (batch - origin).mean(axes)
    batch_squared = jnp.square(batch - batch_mean).sum(axes)
    count = moments.samples + batch_count
    delta = batch_mean - moments.mean
    mean = moments.mean + delta * (batch_count / count)
    squared = moments.squared + batch_squared + jnp.square(delta) * moments.samples * batch_count / count
    return Moments(count, mean, squared)


def deviation(moments: Moments) -> jax.Array:
    """The standard deviation `[*shape]`, or 1 without samples."""
    variance = jnp.where(moments.samples > 0, moments.squared / jnp.maximum(moments.samples, 1.0), 1.0)
    return jnp.sqrt(variance + _EPSILON)


def standardize(moments: Moments, x: jax.Array) -> jax.Array:
    """`(x - mean) / deviation`, clipped to [-10, 10]; `x` is `[..., *shape]`."""
    return jnp.clip((x - moments.mean) / deviation(moments), -_CLIP, _CLIP)


def rescale(moments: Moments, x: jax.Array) -> jax.Array:
    """`x / deviation`, clipped to [-10, 10], without subtracting the mean; `x` is `[..., *shape]`."""
    return jnp.clip(x / deviation(moments), -_CLIP, _CLIP)
