r"""Upper confidence bounds: UCB1, UCB-V and KL-UCB. Each arm is played once, then always the highest index.

With t plays so far, of which $N_a$ were of arm a with mean $\bar X_a$ and variance $V_a$, the indices are

$$ \bar X_a + c \sqrt{\frac{\ln t}{N_a}}, \qquad
   \bar X_a + \sqrt{\frac{2 V_a \zeta \ln t}{N_a}} + \frac{3 \zeta \ln t}{N_a}, \qquad
   \max \{ q : N_a d(\bar X_a, q) \le \ln t + c \ln \ln t \} $$

for UCB1 with $c = \sqrt 2$ (Auer et al. 2002, figure 1), UCB-V (Audibert et al. 2009, equation 1, for rewards in
[0, 1]), and KL-UCB with $d(p, q) = p \ln \frac p q + (1 - p) \ln \frac{1 - p}{1 - q}$ (Garivier and Cappé 2011,
algorithm 1, whose experiments have $c = 0$).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.bandits import learner
from rljax.config import config, traced

_BISECTIONS = 22  # to a precision of 2**-22


class Moments(NamedTuple):
    """Numbers of plays `[A]`, means of rewards `[A]`, and sums of squared deviations from them `[A]`."""

    plays: jax.Array
    means: jax.Array
    squares: jax.Array


def init(config: Any) -> Moments:
    """No plays yet."""
    zeros = jnp.zeros(learner.arms(config))
    return Moments(zeros, zeros, zeros)


def learn(moments: Moments, obs: Any, arm: jax.Array, reward: jax.Array, time: jax.Array, config: Any) -> Moments:
    """Add a reward, with Welford's (1962) recursion."""
    plays = moments.plays[arm] + 1.0
    error = reward - moments.means[arm]
    mean = moments.means[arm] + error / plays
    return Moments(
        moments.plays.at[arm].set(plays),
        moments.means.at[arm].set(mean),
        moments.squares.at[arm].add(error * (reward - mean)),
    )


def means(moments: Moments, obs: Any, config: Any) -> jax.Array:
    """The means `[A]`."""
    return moments.means


def _by_index(index: Callable[..., jax.Array]) -> learner.Agent:
    """The agent that plays the highest index `[A]`, of `(moments, ln t, config)`."""

    def choose(moments: Moments, uniform: jax.Array, obs: Any, time: jax.Array, config: Any) -> jax.Array:
        log_time = jnp.log(jnp.maximum(time, 1).astype(jnp.float32))
        known = moments._replace(plays=jnp.maximum(moments.plays, 1.0))
        indices = jnp.where(moments.plays == 0, jnp.inf, index(known, log_time, config))
        return learner.argmax(indices, uniform[0])

    return learner.Agent(init, learner.uniforms, choose, learn, means)


@config
class UCB1Config(learner.Config):
    """Hyperparameters of UCB1."""

    confidence: float = traced(default=math.sqrt(2.0), minimum=0)
    """Width c of the bound; sqrt(2) is UCB1's, 2 that of Sutton and Barto's figure 2.4."""


def ucb1_index(moments: Moments, log_time: jax.Array, config: UCB1Config) -> jax.Array:
    """UCB1's indices `[A]`."""
    return moments.means + config.confidence * jnp.sqrt(log_time / moments.plays)


@config
class UCBVConfig(learner.Config):
    """Hyperparameters of UCB-V."""

    exploration: float = traced(default=1.2, minimum=0)
    """The factor zeta of ln t; the theorem needs more than 1."""


def ucb_v_index(moments: Moments, log_time: jax.Array, config: UCBVConfig) -> jax.Array:
    """UCB-V's indices `[A]`."""
    bonus = config.exploration * log_time / moments.plays
    return moments.means + jnp.sqrt(2.0 * moments.squares / moments.plays * bonus) + 3.0 * bonus


@config
class KLUCBConfig(learner.Config):
    """Hyperparameters of KL-UCB."""

    log_log: float = traced(default=0.0, minimum=0)
    """The factor c of ln ln t; the theorem needs 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        learner.require_bounded(self, "KL-UCB", "ucb1")


def bernoulli_kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """The Kullback-Leibler divergence d(p, q) between Bernoulli distributions, `[...]`, with 0 ln 0 = 0."""
    return jax.scipy.special.xlogy(p, p / q) + jax.scipy.special.xlogy(1.0 - p, (1.0 - p) / (1.0 - q))


def kl_ucb_index(moments: Moments, log_time: jax.Array, config: KLUCBConfig) -> jax.Array:
    """KL-UCB's indices `[A]`, by bisection."""
    log_log = jnp.log(jnp.maximum(log_time, 1.0))
    level = (log_time + config.log_log * log_log) / moments.plays
    mean = jnp.clip(moments.means, 0.0, 1.0)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2.0
        below = bernoulli_kl(mean, jnp.clip(middle, 1e-7, 1.0 - 1e-7)) <= level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    return jax.lax.fori_loop(0, _BISECTIONS, halve, (mean, jnp.ones_like(mean)))[0]


ucb1 = learner.algorithm(
    "ucb1",
    "UCB1: the arm with the highest mean plus confidence width (Auer, Cesa-Bianchi and Fischer 2002).",
    UCB1Config,
    _by_index(ucb1_index),
)
ucb_v = learner.algorithm(
    "ucb_v",
    "UCB-V: bounds that use each arm's variance (Audibert, Munos and Szepesvári 2009).",
    UCBVConfig,
    _by_index(ucb_v_index),
)
kl_ucb = learner.algorithm(
    "kl_ucb",
    "KL-UCB: the asymptotically optimal bounds for Bernoulli rewards (Garivier and Cappé 2011).",
    KLUCBConfig,
    _by_index(kl_ucb_index),
)
