r"""Value heads of Q-networks: expected values, categorical distributions (C51) or quantiles (QR-DQN).

A Q-network has K outputs per action, `[..., A, K]`. A `ValueHead` turns them into action values and defines their loss.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import losses, returns
from rljax.errors import UsageError, suggest
from rljax.types import Metrics, Scalar

HEADS = ("expected", "categorical", "quantile")


def value_metrics(values: jax.Array, where: jax.Array | None = None) -> Metrics:
    """The mean and the extremes of action values `[...]`, each `[]`, as metrics; only those `where` true, if given."""
    return {
        "action_value": values.mean(where=where),
        "action_value_min": values.min(where=where, initial=None if where is None else jnp.inf),
        "action_value_max": values.max(where=where, initial=None if where is None else -jnp.inf),
    }


class ValueHead(NamedTuple):
    """The action values and the loss of K outputs per action."""

    num_outputs: int  # K
    values: Callable[[jax.Array], jax.Array]  # outputs [..., K] to expected returns [...]
    loss: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    """`(outputs [B, K], next_outputs [B, K], reward [B], discount [B]) -> (losses [B], errors [B])` of chosen actions;
    the errors are priorities for prioritised replay."""


def check_value_head(kind: str, low: Scalar | None, high: Scalar | None) -> None:
    """Raise a `UsageError` for an unknown head, or for a support that is missing or empty."""
    if kind not in HEADS:
        raise UsageError(f"There is no head {kind!r}: {suggest(kind, HEADS)}")
    if kind == "categorical" and (low is None or high is None):
        raise UsageError(
            "The categorical head needs value_low and value_high: set them to the lowest and the highest "
            "discounted return that is possible in the environment."
        )
    if isinstance(low, int | float) and isinstance(high, int | float) and not np.float32(low) < np.float32(high):
        raise UsageError(f"value_low must be below value_high in 32 bits, got {low} and {high}.")


def value_head(
    kind: str, num_outputs: int, low: Scalar | None, high: Scalar | None, huber_delta: Scalar | None
) -> ValueHead:
    """The head with a name from `HEADS`, with arguments that passed `check_value_head`."""
    if kind == "quantile":
        return quantile(num_outputs, huber_delta)
    if kind == "categorical":
        assert low is not None
        assert high is not None
        return categorical(num_outputs, low, high)
    return expected(huber_delta)


def expected(huber_delta: Scalar | None) -> ValueHead:
    r"""The expected return: squared or Huber loss of $u = r + \gamma v' - q$, with error $|u|$."""

    def loss(
        outputs: jax.Array, next_outputs: jax.Array, reward: jax.Array, discount: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        target = returns.one_step(reward, discount, next_outputs[:, 0])
        return losses.regression(outputs[:, 0], target, huber_delta), jnp.abs(target - outputs[:, 0])

    return ValueHead(1, lambda outputs: outputs[..., 0], loss)


def categorical(num_atoms: int, low: Scalar, high: Scalar) -> ValueHead:
    r"""Logits of K returns $z_i$, evenly spaced from `low` to `high` (Bellemare et al. 2017).

    The loss is the cross entropy with the projected target distribution. The error is the Kullback-Leibler divergence
    from it (Hessel et al. 2018).
    """
    support = jnp.linspace(low, high, num_atoms, dtype=jnp.float32)

    def loss(
        outputs: jax.Array, next_outputs: jax.Array, reward: jax.Array, discount: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        shifted = reward[:, None] + discount[:, None] * support
        # A terminal state's distribution is not read: all its returns are zero.
        next_outputs = jnp.where(discount[:, None] == 0.0, 0.0, next_outputs)
        target = project(support, shifted, jax.nn.softmax(next_outputs))
        cross_entropy = -jnp.sum(target * jax.nn.log_softmax(outputs), axis=-1)
        # The ends of the support would hide an infinite reward.
        cross_entropy = jnp.where(jnp.isfinite(reward), cross_entropy, jnp.nan)
        entropy = -jnp.sum(jax.scipy.special.xlogy(target, target), axis=-1)
        return cross_entropy, jnp.maximum(cross_entropy - entropy, 0.0)

    def values(outputs: jax.Array) -> jax.Array:
        # By default some accelerators round factors to 10 bits, a larger error than the differences between actions.
        return jnp.matmul(jax.nn.softmax(outputs), support, precision=jax.lax.Precision.HIGHEST)

    return ValueHead(num_atoms, values, loss)


def project(support: jax.Array, shifted: jax.Array, probabilities: jax.Array) -> jax.Array:
    """Project a distribution on returns `shifted` `[B, K]` onto the evenly spaced `support` `[K]`: `[B, K]`.

    Each probability is split linearly between the two nearest atoms; returns beyond the ends count as the ends
    (Bellemare et al. 2017, algorithm 1). If all atoms are equal, the first one has all probability.
    """
    width = support[-1] - support[0]
    # Positions are counted in atoms, so that the two shares add up to 1 wherever the support lies.
    position = (jnp.clip(shifted, support[0], support[-1]) - support[0]) / jnp.where(width > 0.0, width, 1.0)
    distance = jnp.abs(position[:, None, :] * (len(support) - 1) - jnp.arange(len(support))[:, None])
    return jnp.sum(jnp.clip(1.0 - distance, 0.0, 1.0) * probabilities[:, None, :], axis=-1)


def quantile(num_quantiles: int, huber_delta: Scalar | None) -> ValueHead:
    r"""K quantiles of the return at the midpoints $\tau_i = (i + 1/2) / K$ (Dabney et al. 2018).

    The quantile regression loss is the sum over i of the mean over j of
    $|\tau_i - 1\{u_{ij} < 0\}| L_\kappa(u_{ij}) / \kappa$, $u_{ij} = r + \gamma \theta'_j - \theta_i$ (equation 10),
    with $|u|$ for $L_\kappa / \kappa$ if `huber_delta` is None. The error is the absolute difference of the means.
    """
    midpoints = (jnp.arange(num_quantiles, dtype=jnp.float32) + 0.5) / num_quantiles

    def loss(
        outputs: jax.Array, next_outputs: jax.Array, reward: jax.Array, discount: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        target = returns.one_step(reward[:, None], discount[:, None], next_outputs)
        difference = target[:, None, :] - outputs[:, :, None]  # [B, i, j]
        kappa = huber_delta
        size = jnp.abs(difference) if kappa is None else losses.huber(difference, 0.0, kappa) / kappa
        weighted = jnp.abs(midpoints[:, None] - (difference < 0.0)) * size
        return weighted.mean(axis=-1).sum(axis=-1), jnp.abs(target.mean(axis=-1) - outputs.mean(axis=-1))

    return ValueHead(num_quantiles, lambda outputs: outputs.mean(axis=-1), loss)
