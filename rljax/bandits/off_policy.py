r"""Estimate a policy's mean reward from the log of another one, with intervals.

With rewards $r_i$ of actions $a_i$ in contexts $x_i$, weights $w_i = \pi(a_i | x_i) / p_i$ where $p_i$ is the logged
propensity, a model $\hat q(x, a)$ of the reward, and $\hat v(x) = \sum_a \pi(a | x) \hat q(x, a)$, the estimates are

| name | mean over i of | |
|---|---|---|
| `ips` | $w_i r_i$ | inverse propensity scores (Horvitz and Thompson 1952; Precup et al. 2000) |
| `snips` | $w_i r_i / \bar w$ | self-normalised IPS (Swaminathan and Joachims 2015) |
| `direct_method` | $\hat v(x_i)$ | Beygelzimer and Langford 2009 |
| `doubly_robust` | $\hat v(x_i) + w_i (r_i - \hat q(x_i, a_i))$ | Dudík et al. 2011 |
| `switch_dr` | the same, with $w_i$ only if $w_i \le \tau$, else 0 | Wang et al. 2017 |
"""

from typing import NamedTuple

import numpy as np

from rljax.bandits.logs import Log
from rljax.errors import UsageError, number

_RESAMPLES = 2000


class Estimate(NamedTuple):
    """An estimated mean reward and its interval."""

    value: float
    low: float
    high: float


def uniform_policy(log: Log) -> np.ndarray:
    """The policy `[P, A]` that shows every item equally often, in each of P positions."""
    return np.full((int(log.position.max()) + 1, log.num_actions), 1.0 / log.num_actions)


def mean_rewards(log: Log, strength: float = 10.0) -> np.ndarray:
    """A model of the reward `[P, A]`: the mean in each position and of each item, drawn towards the log's mean.

    Args:
        log: the log.
        strength: of the log's mean, in impressions.
    """
    shape = (int(log.position.max()) + 1, log.num_actions)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (log.position, log.action), log.reward)
    np.add.at(counts, (log.position, log.action), 1.0)
    return (sums + strength * log.reward.mean()) / (counts + strength)


def estimate(
    log: Log, policy: np.ndarray, model: np.ndarray, tau: float = 10.0, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the mean reward of a policy in all five ways, with percentile bootstrap intervals over impressions.

    The intervals hold the model fixed, so the direct method's has no part from the error of its model.

    Args:
        log: of the other policy.
        policy: probabilities `[P, A]` of the items in each position.
        model: expected rewards `[P, A]`, such as `mean_rewards(log)`.
        tau: the largest weight that `switch_dr` corrects the model with.
        confidence: coverage of the intervals, in (0, 1).
        seed: of the bootstrap.

    Raises:
        UsageError: a table has another shape than the log needs, or the policy's rows are no probabilities.
    """
    from scipy import stats

    shape = (int(log.position.max()) + 1, log.num_actions)
    policy, model = np.asarray(policy, np.float64), np.asarray(model, np.float64)
    for name, table in (("policy", policy), ("model", model)):
        if table.shape != shape or not np.isfinite(table).all():
            raise UsageError(f"The {name} must be a table of finite numbers {shape}, got shape {table.shape}.")
    if (policy < 0).any() or not np.allclose(policy.sum(axis=1), 1.0, rtol=0, atol=1e-6):
        raise UsageError("The policy must be probabilities: not negative, and each row must sum to one.")
    number("tau", tau, minimum=0)
    if not 0 < number("confidence", confidence) < 1:
        raise UsageError(f"confidence must be between 0 and 1, got {confidence}.")
    shown = (log.position, log.action)
    weights = policy[shown] / log.propensity
    values = (policy * model).sum(axis=1)[log.position]
    errors = weights * (log.reward - model[shown])
    terms = {
        "ips": weights * log.reward,
        "snips": weights * log.reward,
        "direct_method": values,
        "doubly_robust": values + errors,
        "switch_dr": values + np.where(weights <= tau, errors, 0.0),
    }

    def mean(term: np.ndarray, divisor: np.ndarray, axis: int = -1) -> np.ndarray:
        return term.mean(axis=axis) / divisor.mean(axis=axis)

    found = {}
    for name, term in terms.items():
        divisor = weights if name == "snips" else np.ones_like(weights)
        drawn = stats.bootstrap(
            (term, divisor),
            mean,
            paired=True,
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=100,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        found[name] = Estimate(float(mean(term, divisor)), float(drawn.low), float(drawn.high))
    return found
