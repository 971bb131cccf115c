"""Action distributions as small pytrees: built from a network's output, with log-probabilities that are right.

Each has `sample(key)`, `log_prob(action)`, `entropy()` and `mode()`, and a class method `noise(key, shape, ...)` with
`transform(noise)`, so that a whole rollout's randomness can be drawn in one call before its loop.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.spaces import Discrete, Space, bounded_box

_LOG_2PI = 1.8378770664093453

_LOG_2 = 0.6931471805599453


class Categorical(NamedTuple):
    """Over `0 .. A - 1`, from unnormalised `logits` `[..., A]`."""

    logits: jax.Array

    @classmethod
    def noise(cls, key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """Gumbel noise `[*shape, size]` for `transform`."""
        return jax.random.gumbel(key, (*shape, size))

    def probs(self) -> jax.Array:
        """Probabilities `[..., A]`."""
        return jax.nn.softmax(self.logits)

    def transform(self, noise: jax.Array) -> jax.Array:
        """A sample `[...]` int32 out of Gumbel noise `[..., A]` (the Gumbel-max trick)."""
        return jnp.argmax(self.logits + noise, axis=-1).astype(jnp.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[...]` int32."""
        return self.transform(self.noise(key, self.logits.shape[:-1], self.logits.shape[-1]))

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-probability `[...]` of actions `[...]`."""
        log_probs = jax.nn.log_softmax(self.logits)
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=bool)
        # A sum over a mask, not a gather: faster on every backend, and -inf logits stay out of it.
        return jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        """Entropy `[...]` in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        probs = jnp.exp(log_probs)
        # The mask is inside the product: outside it, an action of probability zero would give NaN gradients.
        return -jnp.sum(probs * jnp.where(probs > 0, log_probs, 0.0), axis=-1)

    def mode(self) -> jax.Array:
        """The likeliest action `[...]`."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)


class DiagonalGaussian(NamedTuple):
    """Independent normals over vectors: `mean` and `log_std` `[..., D]`."""

    mean: jax.Array
    log_std: jax.Array

    @classmethod
    def noise(cls, key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """Standard normal noise `[*shape, size]` for `transform`."""
        return jax.random.normal(key, (*shape, size))

    def transform(self, noise: jax.Array) -> jax.Array:
        """A sample `[..., D]` out of standard normal noise `[..., D]` (reparametrised)."""
        return self.mean + jnp.exp(self.log_std) * noise

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[..., D]`."""
        return self.transform(self.noise(key, self.mean.shape[:-1], self.mean.shape[-1]))

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density `[...]` of actions `[..., D]`."""
        standard = (action - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * jnp.square(standard) - self.log_std - 0.5 * _LOG_2PI, axis=-1)

    def entropy(self) -> jax.Array:
        """Differential entropy `[...]` in nats."""
        return jnp.sum(self.log_std + 0.5 * (1.0 + _LOG_2PI), axis=-1)

    def mode(self) -> jax.Array:
        """The mean `[..., D]`."""
        return self.mean


class TanhGaussian(NamedTuple):
    """`tanh` of independent normals: actions in (-1, 1), `mean` and `log_std` `[..., D]` before the squashing."""

    mean: jax.Array
    log_std: jax.Array

    @classmethod
    def noise(cls, key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """Standard normal noise `[*shape, size]` for `transform`."""
        return jax.random.normal(key, (*shape, size))

    @property
    def base(self) -> DiagonalGaussian:
        """The normal before the squashing."""
        return DiagonalGaussian(self.mean, self.log_std)

    def transform(self, noise: jax.Array) -> jax.Array:
        """A sample `[..., D]` out of standard normal noise `[..., D]` (reparametrised)."""
        return jnp.tanh(self.base.transform(noise))

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[..., D]`."""
        return jnp.tanh(self.base.sample(key))

    def transform_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`transform` and the log-densities `[...]`, exact at the edges, where `log_prob` must clip."""
        raw = self.base.transform(noise)
        return jnp.tanh(raw), self._log_prob_of_raw(raw)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density `[...]` of actions `[..., D]`; at an edge, where it has none, that of the next float inside."""
        action = jnp.asarray(action)
        edge = 1.0 - jnp.finfo(action.dtype).epsneg
        return self._log_prob_of_raw(jnp.arctanh(jnp.clip(action, -edge, edge)))

    def _log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which does not cancel where tanh(x) rounds to 1.
        log_slope = 2.0 * (_LOG_2 - raw - jax.nn.softplus(-2.0 * raw))
        return self.base.log_prob(raw) - jnp.sum(log_slope, axis=-1)

    def mode(self) -> jax.Array:
        """`tanh` of the mean `[..., D]`: the median of every dimension, the usual greedy action."""
        return jnp.tanh(self.mean)

    def entropy(self) -> jax.Array:
        r"""Differential entropy `[...]` in nats, $H(base) + E[\log(1 - \tanh^2)]$, the mean by quadrature."""
        nodes, weights = _standard_normal_nodes()
        raw = self.mean[..., None] + jnp.exp(self.log_std)[..., None] * nodes
        log_slope = 2.0 * (_LOG_2 - raw - jax.nn.softplus(-2.0 * raw))
        return self.base.entropy() + jnp.sum(jnp.sum(weights * log_slope, axis=-1), axis=-1)


def _standard_normal_nodes() -> tuple[jax.Array, jax.Array]:
    """Nodes and weights `[64]` of a mean under a standard normal: evenly spaced, since the integrand of a wide
    distribution has a kink that Gauss-Hermite's few central nodes miss.
    """
    nodes = np.linspace(-5.5, 5.5, 64)
    weights = np.exp(-0.5 * nodes**2)
    return jnp.asarray(nodes, jnp.float32), jnp.asarray(weights / weights.sum(), jnp.float32)


class Head(NamedTuple):
    """How a network's output `[..., num_outputs]` becomes a distribution, and its samples the space's actions."""

    num_outputs: int
    noise: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    distribution: Callable[[jax.Array], Any]  # one of the distributions above
    to_action: Callable[[jax.Array], jax.Array]


def policy_head(space: Space) -> Head:
    """A categorical over a `Discrete` space, or a diagonal Gaussian over a `Box` with [-1, 1] mapped onto its bounds.

    The Gaussian's outputs are the means and then the logarithms of the deviations. Its samples are not clipped:
    `to_action` clips what the environment gets, and the log-probability stays that of the sample.
    """
    if isinstance(space, Discrete):
        n = space.n
        return Head(n, lambda key, shape: Categorical.noise(key, shape, n), Categorical, lambda action: action)
    size = math.prod(space.shape)
    return Head(
        2 * size,
        lambda key, shape: DiagonalGaussian.noise(key, shape, size),
        lambda outputs: DiagonalGaussian(*jnp.split(outputs, 2, axis=-1)),
        space.from_unit_vector,
    )


def squashed_head(space: Space) -> Head:
    r"""A categorical over a `Discrete` space, or a `TanhGaussian` over a `Box` that is bounded in every dimension.

    The outputs are the means $\mu$ before the squashing and then $x$ of $\log \sigma = -1.5 + 3.5 \tanh x$, which stays
    in [-5, 2] and never loses its gradient as a clipped one does. Samples and densities are in units in which every
    dimension is [-1, 1]; `to_action` maps them onto the bounds.
    """
    if isinstance(space, Discrete):
        return policy_head(space)
    box = bounded_box(space)
    size = math.prod(box.shape)

    def distribution(outputs: jax.Array) -> TanhGaussian:
        mean, squashed = jnp.split(outputs, 2, axis=-1)
        return TanhGaussian(mean, -1.5 + 3.5 * jnp.tanh(squashed))

    return Head(2 * size, lambda key, shape: TanhGaussian.noise(key, shape, size), distribution, box.from_unit_vector)
