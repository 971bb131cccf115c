r"""Losses, one equation a function: arrays of samples `[...]` in, `[...]` out; the caller takes the mean."""

import jax
import jax.numpy as jnp

from rljax.types import Scalar


def policy_gradient(log_prob: jax.Array, advantages: jax.Array) -> jax.Array:
    r"""$-A \log \pi(a | s)$, whose gradient is minus the policy gradient's estimate (Williams 1992, equation 6)."""
    return -advantages * log_prob


def clipped_surrogate(log_ratio: jax.Array, advantages: jax.Array, clip: Scalar) -> jax.Array:
    r"""$-\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)$ with $\rho = e^{\mathrm{log\ ratio}}$.

    Schulman et al. 2017, equation 7.
    """
    # An overflow would turn a clipped ratio's gradient of zero into NaN. An unclipped one's, of a negative advantage,
    # ends at e^80 as well.
    ratio = jnp.exp(jnp.minimum(log_ratio, 80.0))
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantages)


def squared(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    r"""$\frac{1}{2} (v - G)^2$."""
    return 0.5 * jnp.square(predictions - targets)


def huber(predictions: jax.Array, targets: jax.Array | float, delta: Scalar) -> jax.Array:
    r"""$\frac{1}{2} u^2$ where $|u| \le \delta$, else $\delta (|u| - \frac{1}{2} \delta)$; $u = v - G$ (Huber 1964)."""
    error = jnp.abs(predictions - targets)
    return jnp.where(error <= delta, 0.5 * jnp.square(error), delta * (error - 0.5 * delta))


def regression(predictions: jax.Array, targets: jax.Array, huber_delta: Scalar | None) -> jax.Array:
    """The Huber loss, or the squared one where there is no delta."""
    return squared(predictions, targets) if huber_delta is None else huber(predictions, targets, huber_delta)


def clipped_squared(predictions: jax.Array, old_predictions: jax.Array, targets: jax.Array, clip: Scalar) -> jax.Array:
    r"""$\frac{1}{2} \max((v - G)^2, (v_{old} + \mathrm{clip}(v - v_{old}, \pm\epsilon) - G)^2)$.

    The pessimistic value loss of PPO's first implementation (Engstrom et al. 2020, section 3): a maximum, so that a
    prediction that has left the trust region towards its target stops moving, and one that has left it away from
    its target does not.
    """
    limited = old_predictions + jnp.clip(predictions - old_predictions, -clip, clip)
    return 0.5 * jnp.maximum(jnp.square(predictions - targets), jnp.square(limited - targets))


def approximate_kl(log_ratio: jax.Array) -> jax.Array:
    r"""$(\rho - 1) - \log \rho$: an unbiased, never negative estimate of $KL(\mathrm{old} \| \mathrm{new})$.

    Schulman 2020, "Approximating KL divergence", estimator k3, on samples of the old policy.
    """
    return jnp.expm1(log_ratio) - log_ratio
