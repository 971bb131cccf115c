r"""Agents that estimate the value of each arm: epsilon-greedy, with optimistic and decaying forms, and softmax.

After $N_a$ plays of arm a the estimate moves towards the reward (Sutton and Barto 2018, equations 2.3 and 2.5),

$$ Q_a \leftarrow Q_a + \alpha_n (R - Q_a), $$

where $\alpha_n = 1 / N_a$ gives the sample mean and a constant forgets, for bandits that drift. Epsilon-greedy plays
the highest estimate, or with probability $\epsilon$ any arm; optimistic values are a high `initial_value` (section
2.6). Softmax draws arms with probabilities proportional to $\exp(Q_a / \tau)$ (section 2.8; Boltzmann exploration).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import schedules
from rljax.bandits import learner
from rljax.config import config, traced
from rljax.schedules import Scheduled


class Values(NamedTuple):
    """Estimates `[A]` and numbers of plays `[A]`."""

    estimates: jax.Array
    plays: jax.Array


def _init(config: Any) -> Values:
    arms = learner.arms(config)
    return Values(jnp.full(arms, config.initial_value, jnp.float32), jnp.zeros(arms))


def _learn(values: Values, obs: Any, arm: jax.Array, reward: jax.Array, time: jax.Array, config: Any) -> Values:
    step_size = schedules.of_visits(config.step_size, values.plays[arm])
    estimate = values.estimates[arm] + step_size * (reward - values.estimates[arm])
    return Values(values.estimates.at[arm].set(estimate), values.plays.at[arm].add(1.0))


def _estimates(values: Values, obs: Any, config: Any) -> jax.Array:
    return values.estimates


@config
class EpsilonGreedyConfig(learner.Config):
    """Hyperparameters of epsilon-greedy."""

    epsilon: Scheduled = traced(default=0.1, minimum=0, maximum=1)
    """Probability of a uniform arm, a number or a schedule such as exponential(1, 0.001)."""
    step_size: Scheduled = traced(default=schedules.visits(1.0, 1.0), minimum=0, maximum=1)
    """Step size; visits(1, 1) gives sample means, a constant such as 0.1 forgets old rewards."""
    initial_value: float = traced(default=0.0)
    """First estimate of every arm; a high one is optimistic. With visits(1, 1) the first reward replaces it."""


def _epsilon_greedy(
    values: Values, uniform: jax.Array, obs: Any, time: jax.Array, config: EpsilonGreedyConfig
) -> jax.Array:
    best = learner.argmax(values.estimates, uniform[0])
    random_arm = (uniform[2] * values.estimates.size).astype(jnp.int32)
    return jnp.where(uniform[1] < config.epsilon, random_arm, best)


def _three(key: jax.Array, n: int, config: Any) -> jax.Array:
    return learner.uniforms(key, n, config, 3)


epsilon_greedy = learner.algorithm(
    "epsilon_greedy",
    "Epsilon-greedy bandit: the best arm so far, or with probability epsilon any (Sutton and Barto 2018, section 2.4).",
    EpsilonGreedyConfig,
    learner.Agent(_init, _three, _epsilon_greedy, _learn, _estimates),
)


@config
class SoftmaxConfig(learner.Config):
    """Hyperparameters of softmax exploration."""

    temperature: Scheduled = traced(default=0.1, minimum=1e-6)
    """Temperature, a number or a schedule: low ones are greedy, high ones uniform."""
    step_size: Scheduled = traced(default=schedules.visits(1.0, 1.0), minimum=0, maximum=1)
    """Step size, as for epsilon_greedy."""
    initial_value: float = traced(default=0.0)
    """First estimate of every arm."""


def _softmax(values: Values, uniform: jax.Array, obs: Any, time: jax.Array, config: SoftmaxConfig) -> jax.Array:
    return learner.sample(jax.nn.softmax(values.estimates / config.temperature), uniform[0])


softmax = learner.algorithm(
    "softmax",
    "Softmax (Boltzmann) bandit: arms are drawn by their estimates (Sutton and Barto 2018, section 2.8).",
    SoftmaxConfig,
    learner.Agent(_init, learner.uniforms, _softmax, _learn, _estimates),
)
