r"""Contextual agents for rewards that are linear in features $x_a$ of the arms: LinUCB and linear Thompson sampling.

Both keep the ridge regression of rewards on features of the arms that were played,

$$ A = \lambda I + \sum_s x_s x_s^T, \qquad b = \sum_s r_s x_s, \qquad \hat\theta = A^{-1} b, $$

with $A^{-1}$ updated by the formula of Sherman and Morrison (1950). LinUCB plays the highest
$\hat\theta^T x_a + \alpha \sqrt{x_a^T A^{-1} x_a}$ (Li et al. 2010; with one $\theta$ for all arms, Chu et al. 2011,
algorithm 1); Thompson sampling draws $\tilde\theta \sim N(\hat\theta, v^2 A^{-1})$ and plays the highest
$\tilde\theta^T x_a$ (Agrawal and Goyal 2013, algorithm 1).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.bandits import learner
from rljax.config import config, traced


class Regression(NamedTuple):
    """The inverse $A^{-1}$ `[d, d]` and b `[d]`."""

    inverse: jax.Array
    b: jax.Array


def _init(config: Any) -> Regression:
    d = learner.features(config)
    return Regression(jnp.eye(d) / config.ridge, jnp.zeros(d))


def _learn(
    regression: Regression, obs: jax.Array, arm: jax.Array, reward: jax.Array, time: jax.Array, config: Any
) -> Regression:
    x = obs[arm]
    direction = regression.inverse @ x
    inverse = regression.inverse - jnp.outer(direction, direction) / (1.0 + x @ direction)
    return Regression(inverse, regression.b + reward * x)


def _values(regression: Regression, obs: jax.Array, config: Any) -> jax.Array:
    return obs @ (regression.inverse @ regression.b)


@config
class LinUCBConfig(learner.Config):
    """Hyperparameters of LinUCB."""

    confidence: float = traced(default=1.0, minimum=0)
    """Width alpha of the bound."""
    ridge: float = traced(default=1.0, minimum=1e-6)
    """Regularisation lambda."""

    def __post_init__(self) -> None:
        super().__post_init__()
        learner.features(self)


def _choose_bound(
    regression: Regression, uniform: jax.Array, obs: jax.Array, time: jax.Array, config: LinUCBConfig
) -> jax.Array:
    squares = jnp.einsum("ad,de,ae->a", obs, regression.inverse, obs)
    widths = jnp.sqrt(jnp.maximum(squares, 0.0))
    return learner.argmax(_values(regression, obs, config) + config.confidence * widths, uniform[0])


@config
class LinearThompsonConfig(learner.Config):
    """Hyperparameters of linear Thompson sampling."""

    scale: float = traced(default=0.3, minimum=0)
    """Factor v of the posterior's standard deviations; with the noise's one it is that of normal rewards."""
    ridge: float = traced(default=1.0, minimum=1e-6)
    """Regularisation lambda."""

    def __post_init__(self) -> None:
        super().__post_init__()
        learner.features(self)


def _normals(key: jax.Array, n: int, config: Any) -> jax.Array:
    return jax.random.normal(key, (n, learner.features(config)))


def _choose_draw(
    regression: Regression, normal: jax.Array, obs: jax.Array, time: jax.Array, config: LinearThompsonConfig
) -> jax.Array:
    root = jnp.linalg.cholesky(regression.inverse)
    theta = regression.inverse @ regression.b + config.scale * (root @ normal)
    return jnp.argmax(obs @ theta).astype(jnp.int32)


lin_ucb = learner.algorithm(
    "lin_ucb",
    "LinUCB: upper confidence bounds of a linear regression on features (Li et al. 2010; Chu et al. 2011).",
    LinUCBConfig,
    learner.Agent(_init, learner.uniforms, _choose_bound, _learn, _values),
)
linear_thompson = learner.algorithm(
    "linear_thompson",
    "Thompson sampling of a linear regression on features (Agrawal and Goyal 2013).",
    LinearThompsonConfig,
    learner.Agent(_init, _normals, _choose_draw, _learn, _values),
)
