r"""Agents that learn a distribution over arms: the gradient bandit and EXP3.

The gradient bandit (Sutton and Barto 2018, equation 2.12) draws arms from $\pi$, the softmax of preferences $H_a$, and
climbs the gradient of the expected reward, with the mean $\bar R$ of earlier rewards as its baseline:

$$ H_a \leftarrow H_a + \alpha (R - \bar R) (1[a = A] - \pi_a). $$

EXP3 (Auer et al. 2002, The nonstochastic multiarmed bandit problem, figure 1) needs no distribution of rewards, only
that they are in [0, 1]. It draws arm a with probability $p_a = (1 - \gamma) w_a / \sum_b w_b + \gamma / K$ and updates

$$ w_A \leftarrow w_A \exp \left( \frac \gamma K \frac R {p_A} \right). $$
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.bandits import learner
from rljax.config import config, static, traced
from rljax.schedules import Scheduled


class Preferences(NamedTuple):
    """Preferences `[A]`, the sum of all rewards `[]`."""

    preferences: jax.Array
    rewards: jax.Array


@config
class GradientConfig(learner.Config):
    """Hyperparameters of the gradient bandit."""

    step_size: Scheduled = traced(default=0.1, minimum=0)
    """Step size alpha, a number or a schedule."""
    baseline: bool = static(default=True)
    """Subtract the mean of earlier rewards; the first reward is its own baseline."""


def _init(config: GradientConfig) -> Preferences:
    return Preferences(jnp.zeros(learner.arms(config)), jnp.zeros(()))


def _draw(statistics: Preferences, uniform: jax.Array, obs: Any, time: jax.Array, config: Any) -> jax.Array:
    return learner.sample(jax.nn.softmax(statistics.preferences), uniform[0])


def _climb(
    statistics: Preferences, obs: Any, arm: jax.Array, reward: jax.Array, time: jax.Array, config: GradientConfig
) -> Preferences:
    policy = jax.nn.softmax(statistics.preferences)
    mean = jnp.where(time == 0, reward, statistics.rewards / jnp.maximum(time, 1))
    advantage = reward - (mean if config.baseline else 0.0)
    chosen = jax.nn.one_hot(arm, policy.size)
    preferences = statistics.preferences + config.step_size * advantage * (chosen - policy)
    return Preferences(preferences, statistics.rewards + reward)


def _preferences(statistics: Preferences, obs: Any, config: Any) -> jax.Array:
    return statistics.preferences


gradient_bandit = learner.algorithm(
    "gradient_bandit",
    "Gradient bandit: softmax preferences that climb the expected reward (Sutton and Barto 2018, section 2.8).",
    GradientConfig,
    learner.Agent(_init, learner.uniforms, _draw, _climb, _preferences),
)


@config
class Exp3Config(learner.Config):
    """Hyperparameters of EXP3."""

    gamma: float | None = traced(default=None, minimum=0, maximum=1)
    """Probability of a uniform arm, which is also the learning rate; None for the best of the bound for total_steps,
    min(1, sqrt(K ln K / ((e - 1) T)))."""

    def __post_init__(self) -> None:
        super().__post_init__()
        learner.require_bounded(self, "EXP3", "gradient_bandit")


def _gamma(config: Exp3Config) -> Any:
    arms = learner.arms(config)
    tuned = min(1.0, math.sqrt(arms * math.log(arms) / ((math.e - 1.0) * config.total_steps)))
    return tuned if config.gamma is None else config.gamma


def exp3_probabilities(log_weights: jax.Array, config: Exp3Config) -> jax.Array:
    """The probabilities `[A]` of the arms."""
    gamma = _gamma(config)
    return (1.0 - gamma) * jax.nn.softmax(log_weights) + gamma / log_weights.size


def _init_exp3(config: Exp3Config) -> jax.Array:
    return jnp.zeros(learner.arms(config))


def _draw_exp3(log_weights: jax.Array, uniform: jax.Array, obs: Any, time: jax.Array, config: Exp3Config) -> jax.Array:
    return learner.sample(exp3_probabilities(log_weights, config), uniform[0])


def _weigh(
    log_weights: jax.Array, obs: Any, arm: jax.Array, reward: jax.Array, time: jax.Array, config: Exp3Config
) -> jax.Array:
    estimate = reward / exp3_probabilities(log_weights, config)[arm]
    log_weights = log_weights.at[arm].add(_gamma(config) / log_weights.size * estimate)
    return log_weights - log_weights.max()  # only differences matter, and large numbers would be rounded


def _log_weights(log_weights: jax.Array, obs: Any, config: Exp3Config) -> jax.Array:
    return log_weights


exp3 = learner.algorithm(
    "exp3",
    "EXP3: exponential weights against an adversary, for rewards in [0, 1] (Auer et al. 2002).",
    Exp3Config,
    learner.Agent(_init_exp3, learner.uniforms, _draw_exp3, _weigh, _log_weights),
)
