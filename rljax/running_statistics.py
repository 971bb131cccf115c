"""Running means and standard deviations, as part of the training state.

They are as accurate as NumPy's in 64 bits, for up to 2**48 samples of any magnitude whose differences fit into float32.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend import rounding

_CLIP = 10.0

_BLOCK = 32  # numbers added one after the other; rounding errors grow with it


class Moments(NamedTuple):
    """Number, mean and standard deviation of all samples so far, and what rounding has cut off from each."""

    samples: jax.Array  # [] float32, their number
    mean: jax.Array  # [*shape] float32
    spread: jax.Array  # [*shape] float32, the standard deviation; 0 without samples
    samples_rest: jax.Array
    mean_rest: jax.Array
    spread_rest: jax.Array

    @property
    def squared(self) -> jax.Array:
        """The sum of squared deviations from the mean, `[*shape]`."""
        return jnp.square(self.spread) * self.samples


def is_moments(tree: Any) -> bool:
    """True for `Moments`, to treat them as leaves of a tree."""
    return isinstance(tree, Moments)


def init_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Moments of no samples, with which `standardize` only clips."""
    zero, zeros = jnp.float32(0.0), jnp.zeros(shape, jnp.float32)
    return Moments(zero, zeros, zeros, zero, zeros, zeros)


def update_moments(moments: Moments, batch: jax.Array) -> Moments:
    """Merge a batch `[..., *shape]` into the moments."""
    return merge(moments, _of_batch(batch.astype(jnp.float32), batch.ndim - moments.mean.ndim))


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of the samples of both (Chan, Golub and LeVeque 1979, equation 2.1).

    Increments are added to pairs of floats, so that no number of samples makes them too small to count. The deviation
    is updated, not its square, which would leave float32's range.
    """
    samples = rounding.add((first.samples, first.samples_rest), second.samples)
    samples = rounding.add(samples, second.samples_rest)
    weight = second.samples / jnp.maximum(samples[0], 1.0)
    far, near = second.mean - first.mean, second.mean_rest - first.mean_rest
    delta = far + near
    mean = rounding.add(rounding.add((first.mean, first.mean_rest), far * weight), near * weight)

    unit = jnp.maximum(jnp.maximum(first.spread, second.spread), jnp.abs(delta))
    unit = jnp.where(unit == 0.0, 1.0, unit)
    old = first.spread / unit
    change = jnp.square(second.spread / unit) + (1.0 - weight) * jnp.square(delta / unit) - jnp.square(old)
    total = old + rounding.root(jnp.maximum(jnp.square(old) + weight * change, 0.0))
    growth = unit * (weight * change / jnp.where(total == 0.0, 1.0, total))
    spread = rounding.add((first.spread, first.spread_rest), growth)
    return Moments(samples[0], mean[0], spread[0], samples[1], mean[1], spread[1])


def _of_batch(batch: jax.Array, axes: int) -> Moments:
    """The moments of a batch over its first `axes` axes."""
    count = math.prod(batch.shape[:axes])
    samples = jnp.float32(count)
    # Relative to one sample, the mean of a constant is exact for constants of any size.
    origin = batch[(0,) * axes]
    unit = jnp.abs(batch - origin).max(axis=range(axes)) if axes else jnp.zeros_like(batch)
    unit = jnp.where(unit == 0.0, 1.0, unit)
    mean = origin + unit * _mean((batch - origin) / unit, axes)
    differences = (batch - mean) / unit
    correction = _mean(differences, axes)
    variance = jnp.maximum(_mean(jnp.square(differences), axes) - jnp.square(correction), 0.0)
    rest = jnp.float32(count - int(np.float32(count)))
    mean, mean_rest = rounding.add((mean, jnp.zeros_like(mean)), unit * correction)
    spread = unit * rounding.root(variance)
    return Moments(samples, mean, spread, rest, mean_rest, jnp.zeros_like(spread))


def _mean(x: jax.Array, axes: int) -> jax.Array:
    """The mean over the first `axes` axes, added up in blocks: a plain sum of a million numbers has few digits."""
    count = math.prod(x.shape[:axes])
    for _ in range(axes):
        while len(x) > _BLOCK:
            x = jnp.pad(x, ((0, -len(x) % _BLOCK), *[(0, 0)] * (x.ndim - 1)))
            # Without the barrier XLA would merge the sums into one.
            x = jax.lax.optimization_barrier(x.reshape(-1, _BLOCK, *x.shape[1:]).sum(axis=1))
        x = x.sum(axis=0)
    return x / count


def deviation(moments: Moments) -> jax.Array:
    """The standard deviation `[*shape]`, or 1 without samples."""
    return jnp.where(moments.samples > 0, moments.spread, 1.0)


def standardize(moments: Moments, x: jax.Array) -> jax.Array:
    """`(x - mean) / deviation`, clipped to [-10, 10]; `x` is `[..., *shape]`.

    A feature that was constant so far is divided by its magnitude or 1, the larger of them.
    """
    difference = (x.astype(jnp.float32) - moments.mean) - moments.mean_rest
    return jnp.clip(difference / _divisor(moments), -_CLIP, _CLIP)


def rescale(moments: Moments, x: jax.Array) -> jax.Array:
    """`x / deviation`, clipped to [-10, 10], without subtracting the mean; `x` is `[..., *shape]`."""
    return jnp.clip(x.astype(jnp.float32) / _divisor(moments), -_CLIP, _CLIP)


def _divisor(moments: Moments) -> jax.Array:
    """The deviation `[*shape]`; the magnitude of the mean, at least 1, if the samples differ only by rounding."""
    size = jnp.abs(moments.mean)
    constant = moments.spread <= 2.0 * jnp.finfo(jnp.float32).eps * size
    return jnp.where(constant, jnp.maximum(size, 1.0), moments.spread)
