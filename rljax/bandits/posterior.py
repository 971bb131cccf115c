r"""Thompson sampling: draw a value of each arm from its posterior, and play the arm with the highest.

For rewards in [0, 1] the posteriors are Beta distributions, $\text{Beta}(a + S, b + N - S)$ after N plays whose rewards
sum to S (Thompson 1933; Agrawal and Goyal 2012). For normal rewards with a known standard deviation $\sigma$ and a
normal prior with mean $m_0$ and standard deviation $s_0$, they are normal with

$$ \text{precision } \rho = \frac 1 {s_0^2} + \frac N {\sigma^2}, \qquad
   \text{mean } \frac 1 \rho \left( \frac{m_0}{s_0^2} + \frac S {\sigma^2} \right). $$
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.bandits import learner
from rljax.config import config, traced


class Sums(NamedTuple):
    """Numbers of plays `[A]` and sums of rewards `[A]`."""

    plays: jax.Array
    rewards: jax.Array


def init(config: Any) -> Sums:
    """No plays yet."""
    return Sums(jnp.zeros(learner.arms(config)), jnp.zeros(learner.arms(config)))


def learn(sums: Sums, obs: Any, arm: jax.Array, reward: jax.Array, time: jax.Array, config: Any) -> Sums:
    """Add a reward."""
    return Sums(sums.plays.at[arm].add(1.0), sums.rewards.at[arm].add(reward))


@config
class BetaConfig(learner.Config):
    """Hyperparameters of Thompson sampling with Beta posteriors."""

    prior_successes: float = traced(default=1.0, minimum=1e-3)
    """The first parameter a of the prior; 1 and 1 are uniform."""
    prior_failures: float = traced(default=1.0, minimum=1e-3)
    """The second parameter b of the prior."""

    def __post_init__(self) -> None:
        super().__post_init__()
        learner.require_bounded(self, "Thompson sampling with Beta posteriors", "gaussian_thompson")


def beta_parameters(sums: Sums, config: BetaConfig) -> tuple[jax.Array, jax.Array]:
    """Both parameters `[A]` of the posteriors."""
    return config.prior_successes + sums.rewards, config.prior_failures + sums.plays - sums.rewards


def keys(key: jax.Array, n: int, config: Any) -> jax.Array:
    """A key for each step, `[n]`."""
    return jax.random.split(key, n)


def choose_beta(sums: Sums, key: jax.Array, obs: Any, time: jax.Array, config: BetaConfig) -> jax.Array:
    """The arm whose draw is highest."""
    return jnp.argmax(jax.random.beta(key, *beta_parameters(sums, config))).astype(jnp.int32)


def beta_means(sums: Sums, obs: Any, config: BetaConfig) -> jax.Array:
    """The posteriors' means `[A]`."""
    successes, failures = beta_parameters(sums, config)
    return successes / (successes + failures)


@config
class GaussianConfig(learner.Config):
    """Hyperparameters of Thompson sampling with normal posteriors."""

    prior_mean: float = traced(default=0.0)
    """Mean of the prior."""
    prior_std: float = traced(default=1.0, minimum=1e-6)
    """Standard deviation of the prior."""
    noise: float = traced(default=1.0, minimum=1e-6)
    """Standard deviation of a reward, which is taken as known."""


def gaussian_posterior(sums: Sums, config: GaussianConfig) -> tuple[jax.Array, jax.Array]:
    """Means and standard deviations `[A]` of the posteriors."""
    precision = config.prior_std**-2 + sums.plays * config.noise**-2
    means = (config.prior_mean * config.prior_std**-2 + sums.rewards * config.noise**-2) / precision
    return means, precision**-0.5


def _normals(key: jax.Array, n: int, config: Any) -> jax.Array:
    return jax.random.normal(key, (n, learner.arms(config)))


def _choose_gaussian(sums: Sums, normal: jax.Array, obs: Any, time: jax.Array, config: GaussianConfig) -> jax.Array:
    means, deviations = gaussian_posterior(sums, config)
    return jnp.argmax(means + deviations * normal).astype(jnp.int32)


def _gaussian_means(sums: Sums, obs: Any, config: GaussianConfig) -> jax.Array:
    return gaussian_posterior(sums, config)[0]


thompson = learner.algorithm(
    "thompson",
    "Thompson sampling with Beta posteriors, for rewards in [0, 1] (Thompson 1933; Agrawal and Goyal 2012).",
    BetaConfig,
    learner.Agent(init, keys, choose_beta, learn, beta_means),
)
gaussian_thompson = learner.algorithm(
    "gaussian_thompson",
    "Thompson sampling with normal posteriors, for normal rewards (Thompson 1933).",
    GaussianConfig,
    learner.Agent(init, _normals, _choose_gaussian, learn, _gaussian_means),
)
