r"""Losses, one function per equation. They map samples `[...]` to losses `[...]`; the caller takes the mean."""

import jax
import jax.numpy as jnp
import optax

from rljax.types import Scalar


def policy_gradient(log_prob: jax.Array, advantages: jax.Array) -> jax.Array:
    r"""$-A \log \pi(a | s)$, with minus the policy gradient estimate as its gradient (Williams 1992, equation 6)."""
    return -advantages * log_prob


def clipped_surrogate(log_ratio: jax.Array, advantages: jax.Array, clip: Scalar) -> jax.Array:
    r"""$-\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)$ with $\rho = e^{\mathrm{log\ ratio}}$.

    Schulman et al. 2017, equation 7.
    """
    # Without this bound, an overflow would turn the zero gradient of a clipped ratio into NaN. The bound also caps
    # ratios with negative advantages, which are not clipped from above, at e^80.
    ratio = jnp.exp(jnp.minimum(log_ratio, 80.0))
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantages)


squared = optax.l2_loss
r"""$\frac{1}{2} (v - G)^2$."""


def huber(predictions: jax.Array, targets: jax.Array | float, delta: Scalar) -> jax.Array:
    r"""$\frac{1}{2} u^2$ where $|u| \le \delta$, else $\delta (|u| - \frac{1}{2} \delta)$; $u = v - G$ (Huber 1964)."""
    # `optax.huber_loss` is equal only to rounding, which would change the results of earlier versions.
    error = jnp.abs(predictions - targets)
    return jnp.where(error <= delta, 0.5 * jnp.square(error), delta * (error - 0.5 * delta))


def regression(predictions: jax.Array, targets: jax.Array, huber_delta: Scalar | None) -> jax.Array:
    """The Huber loss, or the squared loss if `huber_delta` is None."""
    return squared(predictions, targets) if huber_delta is None else huber(predictions, targets, huber_delta)


def clipped_squared(predictions: jax.Array, old_predictions: jax.Array, targets: jax.Array, clip: Scalar) -> jax.Array:
    r"""$\frac{1}{2} \max((v - G)^2, (v_{old} + \mathrm{clip}(v - v_{old}, \pm\epsilon) - G)^2)$.

    The pessimistic value loss of the original PPO implementation (Engstrom et al. 2020, section 3). Because of the
    maximum, a prediction that has moved beyond the clip range towards its target has no gradient; one that has moved
    away from its target still has one.
    """
    clipped = old_predictions + jnp.clip(predictions - old_predictions, -clip, clip)
    return 0.5 * jnp.maximum(jnp.square(predictions - targets), jnp.square(clipped - targets))


def approximate_kl(log_ratio: jax.Array) -> jax.Array:
    r"""$(\rho - 1) - \log \rho$, an unbiased and nonnegative estimate of $KL(\mathrm{old} \| \mathrm{new})$.

    Estimator k3 of Schulman 2020, "Approximating KL divergence", for samples of the old policy.
    """
    return jnp.expm1(log_ratio) - log_ratio
