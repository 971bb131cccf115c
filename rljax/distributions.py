"""Action distributions as small pytrees, built from a network's outputs.

Each has `sample(key)`, `log_prob(action)`, `entropy()` and `mode()`, and the pair `noise(key, shape, ...)` and
`transform(noise)`, so that the noise of a whole rollout can be drawn in one call before its loop.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.spaces import Box, Discrete, Leaf, MultiDiscrete, bounded_box

_LOG_2PI = 1.8378770664093453

_LOG_2 = 0.6931471805599453


class Categorical(NamedTuple):
    """A distribution over the integers `0 .. A - 1`, from unnormalised `logits` `[..., A]`."""

    logits: jax.Array

    @classmethod
    def noise(cls, key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """Gumbel noise `[*shape, size]` for `transform`."""
        return jax.random.gumbel(key, (*shape, size))

    def probs(self) -> jax.Array:
        """Probabilities `[..., A]`."""
        return jax.nn.softmax(self.logits)

    def transform(self, noise: jax.Array) -> jax.Array:
        """Turn Gumbel noise `[..., A]` into a sample `[...]` int32 (the Gumbel-max trick)."""
        return jnp.argmax(self.logits + noise, axis=-1).astype(jnp.int32)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[...]` int32."""
        return self.transform(self.noise(key, self.logits.shape[:-1], self.logits.shape[-1]))

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-probability `[...]` of actions `[...]`."""
        log_probs = jax.nn.log_softmax(self.logits)
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=bool)
        # A masked sum is faster than a gather on every backend, and keeps -inf logits out of the sum.
        return jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        """Entropy `[...]` in nats."""
        log_probs = jax.nn.log_softmax(self.logits)
        probs = jnp.exp(log_probs)
        # Masking outside the product would give NaN gradients for actions of probability zero.
        return -jnp.sum(probs * jnp.where(probs > 0, log_probs, 0.0), axis=-1)

    def mode(self) -> jax.Array:
        """The most likely action `[...]` int32."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)


class MultiCategorical(NamedTuple):
    """A product of D independent categoricals, over vectors `[..., D]` of integers."""

    parts: tuple[Categorical, ...]

    def probs(self) -> jax.Array:
        """Probabilities `[..., J]` of all combinations, the last integer counting first; J is the product of sizes."""
        joint = jnp.ones_like(self.parts[0].logits[..., :1])
        for part in self.parts:
            outer = joint[..., :, None] * part.probs()[..., None, :]
            joint = outer.reshape(*outer.shape[:-2], -1)
        return joint

    def transform(self, noise: jax.Array) -> jax.Array:
        """Turn Gumbel noise, one part after the other, into samples `[..., D]` int32."""
        sizes = [part.logits.shape[-1] for part in self.parts]
        noises = jnp.split(noise, np.cumsum(sizes)[:-1].tolist(), axis=-1)
        return jnp.stack([part.transform(x) for part, x in zip(self.parts, noises, strict=True)], axis=-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[..., D]` int32."""
        keys = jax.random.split(key, len(self.parts))
        return jnp.stack([part.sample(key) for part, key in zip(self.parts, keys, strict=True)], axis=-1)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-probability `[...]` of actions `[..., D]`: the sum over parts."""
        return sum((part.log_prob(action[..., i]) for i, part in enumerate(self.parts)), start=jnp.float32(0.0))

    def entropy(self) -> jax.Array:
        """Entropy `[...]` in nats: the sum over parts."""
        return sum((part.entropy() for part in self.parts), start=jnp.float32(0.0))

    def mode(self) -> jax.Array:
        """The most likely action `[..., D]` int32."""
        return jnp.stack([part.mode() for part in self.parts], axis=-1)


class DiagonalGaussian(NamedTuple):
    """Independent normals over vectors, with `mean` and `log_std` `[..., D]`."""

    mean: jax.Array
    log_std: jax.Array

    @classmethod
    def noise(cls, key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """Standard normal noise `[*shape, size]` for `transform`."""
        return jax.random.normal(key, (*shape, size))

    def transform(self, noise: jax.Array) -> jax.Array:
        """Turn standard normal noise `[..., D]` into a sample `[..., D]` (reparametrised)."""
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
    """`tanh` of independent normals, for actions in (-1, 1); `mean` and `log_std` `[..., D]` are the normals'."""

    mean: jax.Array
    log_std: jax.Array

    @classmethod
    def noise(cls, key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """Standard normal noise `[*shape, size]` for `transform`."""
        return jax.random.normal(key, (*shape, size))

    @property
    def base(self) -> DiagonalGaussian:
        """The normals before `tanh`."""
        return DiagonalGaussian(self.mean, self.log_std)

    def transform(self, noise: jax.Array) -> jax.Array:
        """Turn standard normal noise `[..., D]` into a sample `[..., D]` (reparametrised)."""
        return jnp.tanh(self.base.transform(noise))

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions `[..., D]`."""
        return jnp.tanh(self.base.sample(key))

    def transform_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`transform(noise)` and its log-density `[...]`, exact near -1 and 1, where `log_prob` has to clip."""
        raw = self.base.transform(noise)
        return jnp.tanh(raw), self.log_prob_of_raw(raw)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Log-density `[...]` of actions `[..., D]`; -1 and 1 count as the nearest floats inside."""
        action = jnp.asarray(action)
        edge = 1.0 - jnp.finfo(action.dtype).epsneg
        return self.log_prob_of_raw(jnp.arctanh(jnp.clip(action, -edge, edge)))

    def log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        """Log-density `[...]` of `tanh(raw)`, from `raw` `[..., D]`."""
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which stays accurate where tanh(x) rounds to 1.
        log_slope = 2.0 * (_LOG_2 - raw - jax.nn.softplus(-2.0 * raw))
        return self.base.log_prob(raw) - jnp.sum(log_slope, axis=-1)

    def mode(self) -> jax.Array:
        """`tanh` of the mean `[..., D]`: the median of every dimension, and the usual greedy action."""
        return jnp.tanh(self.mean)

    def entropy(self) -> jax.Array:
        r"""Differential entropy `[...]` in nats, $H(base) + E[\log(1 - \tanh^2)]$, the expectation by quadrature."""
        nodes, weights = _standard_normal_nodes()
        raw = self.mean[..., None] + jnp.exp(self.log_std)[..., None] * nodes
        log_slope = 2.0 * (_LOG_2 - raw - jax.nn.softplus(-2.0 * raw))
        return self.base.entropy() + jnp.sum(jnp.sum(weights * log_slope, axis=-1), axis=-1)


class SquashedGaussian(NamedTuple):
    """Like `TanhGaussian`, but actions are represented by the normals before `tanh`: log-densities are always exact."""

    mean: jax.Array
    log_std: jax.Array

    @property
    def squashed(self) -> TanhGaussian:
        """The distribution of `tanh` of the samples."""
        return TanhGaussian(self.mean, self.log_std)

    @classmethod
    def noise(cls, key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """Standard normal noise `[*shape, size]` for `transform`."""
        return jax.random.normal(key, (*shape, size))

    def transform(self, noise: jax.Array) -> jax.Array:
        """Turn standard normal noise `[..., D]` into a sample before `tanh` `[..., D]` (reparametrised)."""
        return self.squashed.base.transform(noise)

    def sample(self, key: jax.Array) -> jax.Array:
        """Actions before `tanh` `[..., D]`."""
        return self.squashed.base.sample(key)

    def log_prob(self, raw: jax.Array) -> jax.Array:
        """Log-density `[...]` of the actions `tanh(raw)`, from `raw` `[..., D]`."""
        return self.squashed.log_prob_of_raw(raw)

    def entropy(self) -> jax.Array:
        """Differential entropy `[...]` of the actions in nats."""
        return self.squashed.entropy()

    def mode(self) -> jax.Array:
        """The mean `[..., D]` before `tanh`."""
        return self.mean


def _standard_normal_nodes() -> tuple[jax.Array, jax.Array]:
    """Quadrature nodes and weights `[64]` for a mean under a standard normal.

    They are evenly spaced: a wide distribution's integrand has a kink that the few central Gauss-Hermite nodes miss.
    """
    nodes = np.linspace(-5.5, 5.5, 64)
    weights = np.exp(-0.5 * nodes**2)
    return jnp.asarray(nodes, jnp.float32), jnp.asarray(weights / weights.sum(), jnp.float32)


class PolicyHead(NamedTuple):
    """Turns a network's outputs `[..., num_outputs]` into a distribution, and samples into actions of the space."""

    num_outputs: int
    noise: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    distribution: Callable[[jax.Array], Any]  # returns one of the distributions above
    to_action: Callable[[jax.Array], jax.Array]


def policy_head(space: Leaf, squash: bool = False) -> PolicyHead:
    """A categorical for a `Discrete`, a product of them for a `MultiDiscrete`, or a diagonal Gaussian for a `Box`.

    Samples of a `Discrete` are counted from 0, and [-1, 1] is mapped to the bounds of a `Box` by `to_action`. For a
    `MultiDiscrete` the outputs are the logits of its parts, one after the other.
    The Gaussian's outputs are the means, then the log standard deviations. Samples are not clipped: only `to_action`
    clips, so the log-probability is that of the sample. With `squash` it is a `SquashedGaussian`: `to_action` applies
    `tanh`, no action is clipped, and the log-probability is that of the action.

    Raises:
        UsageError: with `squash`, the `Box` has a dimension without bounds.
    """
    if isinstance(space, Discrete):
        n = space.n
        return PolicyHead(n, lambda key, shape: Categorical.noise(key, shape, n), Categorical, space.from_index)
    if isinstance(space, MultiDiscrete):
        several, total = space, sum(space.nvec)
        return PolicyHead(
            total,
            lambda key, shape: Categorical.noise(key, shape, total),
            lambda outputs: MultiCategorical(tuple(map(Categorical, several.split(outputs)))),
            lambda action: action,
        )
    size = math.prod(space.shape)
    if squash:
        box = bounded_box(space)
        return PolicyHead(
            2 * size,
            lambda key, shape: SquashedGaussian.noise(key, shape, size),
            lambda outputs: SquashedGaussian(*jnp.split(outputs, 2, axis=-1)),
            lambda raw: box.from_unit_vector(jnp.tanh(raw)),
        )
    return PolicyHead(
        2 * size,
        lambda key, shape: DiagonalGaussian.noise(key, shape, size),
        lambda outputs: DiagonalGaussian(*jnp.split(outputs, 2, axis=-1)),
        space.from_unit_vector,
    )


def squashed_head(space: Leaf) -> PolicyHead:
    r"""The `policy_head` of a discrete space, or a `TanhGaussian` for a `Box` that is bounded in every dimension.

    The outputs are the means $\mu$ before `tanh`, then $x$ with $\log \sigma = -1.5 + 3.5 \tanh x$. This stays in
    [-5, 2] and, unlike clipping, keeps a gradient everywhere. Samples and densities have every dimension in [-1, 1];
    `to_action` maps samples to the bounds.

    Raises:
        UsageError: the `Box` has a dimension without bounds.
    """
    if not isinstance(space, Box):
        return policy_head(space)
    box = bounded_box(space)
    size = math.prod(box.shape)

    def distribution(outputs: jax.Array) -> TanhGaussian:
        mean, squashed = jnp.split(outputs, 2, axis=-1)
        return TanhGaussian(mean, -1.5 + 3.5 * jnp.tanh(squashed))

    return PolicyHead(
        2 * size, lambda key, shape: TanhGaussian.noise(key, shape, size), distribution, box.from_unit_vector
    )
