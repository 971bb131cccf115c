r"""Returns and advantages of rollouts: functions of arrays `[T, ...]` over time T that return `[T, ...]`.

Two rules hold at the end of every episode:

- *terminated* cuts the bootstrap: there is no reward after it, so the successor's value is zero;
- *truncated* cuts only the trace: the sum stops there and bootstraps from the value of the true successor.

A step that is both counts as terminated. The last step of the rollout also bootstraps from its successor.
`next_values[t]` is always the value of the true successor of step t (`next_obs`), never of the observation
after an automatic reset.

Notation: reward $r_t$, discount $\gamma$, value $v$, successor's value $v'_t$ (zero where terminated).
"""

import chex
import jax
import jax.numpy as jnp

from rljax.backend.unrolling import unrolled
from rljax.types import Scalar


def one_step(rewards: jax.Array, discounts: jax.Array, next_values: jax.Array) -> jax.Array:
    r"""One-step targets $r + \gamma v'$ `[...]` with a discount for each step, zero where the step terminated.

    There the successor's value is not read and may be NaN.
    """
    return rewards + jnp.where(discounts == 0.0, 0.0, discounts * next_values)


def discounted(
    rewards: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Scalar,
) -> jax.Array:
    r"""Discounted returns $G_t = r_t + \gamma G_{t+1}$ to the end of the episode or of the rollout.

    Args:
        rewards: `[T, ...]`.
        next_values: `[T, ...]`, used only where the trace is cut without termination.
        terminated, truncated: `[T, ...]` bool.
        discount: scalar.

    Returns:
        `[T, ...]` returns (Sutton and Barto 2018, equation 3.9).
    """
    chex.assert_equal_shape([rewards, next_values, terminated, truncated])
    cut = jnp.asarray(truncated).at[-1].set(True)
    return lambda_returns(rewards, jnp.where(cut, next_values, 0.0), terminated, truncated, discount, 1.0)


def n_step(
    rewards: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Scalar,
    n: int,
) -> jax.Array:
    r"""n-step returns $\sum_{k<n} \gamma^k r_{t+k} + \gamma^n v'_{t+n-1}$, shorter where a trace is cut.

    Args:
        rewards, next_values: `[T, ...]`.
        terminated, truncated: `[T, ...]` bool.
        discount: scalar.
        n: number of rewards, at least 1.

    Returns:
        `[T, ...]` returns (Sutton and Barto 2018, equation 7.1).
    """
    chex.assert_equal_shape([rewards, next_values, terminated, truncated])
    next_values = jnp.where(terminated, 0.0, next_values)
    cut = jnp.asarray(terminated | truncated).at[-1].set(True)

    def extend(_: int, returns: jax.Array) -> jax.Array:
        following = jnp.concatenate([returns[1:], returns[-1:]])
        return rewards + discount * jnp.where(cut, next_values, following)

    return jax.lax.fori_loop(1, n, extend, rewards + discount * next_values)


def lambda_returns(
    rewards: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Scalar,
    trace_decay: Scalar,
) -> jax.Array:
    r"""Lambda-returns $G_t = r_t + \gamma ((1 - \lambda) v'_t + \lambda G_{t+1})$.

    Args:
        rewards, next_values: `[T, ...]`.
        terminated, truncated: `[T, ...]` bool.
        discount: scalar.
        trace_decay: scalar $\lambda$: 0 gives one-step targets, 1 discounted returns.

    Returns:
        `[T, ...]` returns (Sutton and Barto 2018, equation 12.2, in the recursive form of exercise 12.1).
    """
    chex.assert_equal_shape([rewards, next_values, terminated, truncated])
    live = discount * jnp.where(terminated, 0.0, 1.0)
    trace = jnp.where(terminated | truncated, 0.0, trace_decay).at[-1].set(0.0)
    terms = rewards + live * (1.0 - trace) * jnp.where(terminated, 0.0, next_values)
    return _accumulate(terms, discount * trace_decay, terminated | truncated)


def gae(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Scalar,
    trace_decay: Scalar,
) -> jax.Array:
    r"""Generalised advantages $A_t = \delta_t + \gamma \lambda A_{t+1}$ with $\delta_t = r_t + \gamma v'_t - v_t$.

    Args:
        rewards, values, next_values: `[T, ...]`; `values[t]` is the value of the observation at step t.
        terminated, truncated: `[T, ...]` bool.
        discount: scalar.
        trace_decay: scalar $\lambda$.

    Returns:
        `[T, ...]` advantages (Schulman et al. 2016, equation 16).
    """
    chex.assert_equal_shape([rewards, values, next_values, terminated, truncated])
    delta = rewards + discount * jnp.where(terminated, 0.0, next_values) - values
    return _accumulate(delta, discount * trace_decay, terminated | truncated)


def _accumulate(terms: jax.Array, decay: Scalar, cut: jax.Array) -> jax.Array:
    """Solve `x[t] = terms[t] + decay * x[t + 1]` backwards in time, with zero for `x[t + 1]` where `cut` and at T."""

    def step(following: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        term, is_cut = inputs
        # Selected, not multiplied: the next episode may hold a NaN, and zero times NaN is NaN.
        total = term + decay * jnp.where(is_cut, 0.0, following)
        return total, total

    return jax.lax.scan(step, jnp.zeros_like(terms[0]), (terms, cut), reverse=True, unroll=unrolled(8))[1]
