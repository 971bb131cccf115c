r"""UCB and Thompson sampling for bandits that drift, by discounting the past or by a sliding window.

Discounted sums multiply all by $\gamma$ before each reward is added; those of a window have the last w plays only,

$$ N_a = \sum_{s \le t} \gamma^{t - s} 1[A_s = a] \quad \text{or} \quad
   N_a = \sum_{t - w < s \le t} 1[A_s = a], \qquad S_a \text{ likewise with rewards.} $$

The indices are $S_a / N_a + c \sqrt{\ln n / N_a}$ with $n = \sum_a N_a$, which for a window is $\min(t, w)$ (Garivier
and Moulines 2011, sections 2.1 and 2.2, who write c as $2 B \sqrt \xi$ for discounts and $B \sqrt \xi$ for windows).
Thompson sampling draws from $\text{Beta}(a + S_a, b + N_a - S_a)$ (discounted: Raj and Kalyani 2017; windows: Trovò et
al. 2020).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.bandits import learner, posterior
from rljax.bandits.posterior import Sums
from rljax.config import config, static, traced


class Window(NamedTuple):
    """The last W plays, in a ring, and their sums."""

    sums: Sums
    arms: jax.Array  # [W] int32
    rewards: jax.Array  # [W]


def _discounted(sums: Sums, obs: Any, arm: jax.Array, reward: jax.Array, time: jax.Array, config: Any) -> Sums:
    return posterior.learn(jax.tree.map(lambda x: config.discount * x, sums), obs, arm, reward, time, config)


def _init_window(config: Any) -> Window:
    return Window(posterior.init(config), jnp.zeros(config.window, jnp.int32), jnp.zeros(config.window))


def _slide(window: Window, obs: Any, arm: jax.Array, reward: jax.Array, time: jax.Array, config: Any) -> Window:
    place = time % config.window
    leaving, is_full = window.arms[place], time >= config.window
    plays = window.sums.plays.at[leaving].add(jnp.where(is_full, -1.0, 0.0))
    rewards = window.sums.rewards.at[leaving].add(jnp.where(is_full, -window.rewards[place], 0.0))
    # An arm that has left the window has no rewards, whatever subtractions have rounded.
    sums = posterior.learn(Sums(plays, jnp.where(plays == 0, 0.0, rewards)), obs, arm, reward, time, config)
    return Window(sums, window.arms.at[place].set(arm), window.rewards.at[place].set(reward))


def _sums(statistics: Sums | Window) -> Sums:
    return statistics.sums if isinstance(statistics, Window) else statistics


def _choose_ucb(statistics: Any, uniform: jax.Array, obs: Any, time: jax.Array, config: Any) -> jax.Array:
    sums = _sums(statistics)
    plays = jnp.maximum(sums.plays, 1e-30)  # an arm with less has no sum left
    log_plays = jnp.log(jnp.maximum(sums.plays.sum(), 1.0))
    indices = sums.rewards / plays + config.confidence * jnp.sqrt(log_plays / plays)
    return learner.argmax(jnp.where(sums.plays > 1e-30, indices, jnp.inf), uniform[0])


def _means(statistics: Any, obs: Any, config: Any) -> jax.Array:
    sums = _sums(statistics)
    return sums.rewards / jnp.maximum(sums.plays, 1e-30)


def _choose_beta(statistics: Any, key: jax.Array, obs: Any, time: jax.Array, config: Any) -> jax.Array:
    return posterior.choose_beta(_sums(statistics), key, obs, time, config)


def _beta_means(statistics: Any, obs: Any, config: Any) -> jax.Array:
    return posterior.beta_means(_sums(statistics), obs, config)


@config
class DiscountedUCBConfig(learner.Config):
    """Hyperparameters of discounted UCB."""

    discount: float = traced(default=0.998, minimum=0, maximum=1)
    """Factor gamma of the past at every step."""
    confidence: float = traced(default=1.0, minimum=0)
    """Width c of the bound."""


@config
class WindowUCBConfig(learner.Config):
    """Hyperparameters of sliding-window UCB."""

    window: int = static(default=500, minimum=1)
    """Number of plays that are remembered."""
    confidence: float = traced(default=1.0, minimum=0)
    """Width c of the bound."""


@config
class DiscountedThompsonConfig(posterior.BetaConfig):
    """Hyperparameters of discounted Thompson sampling."""

    discount: float = traced(default=0.998, minimum=0, maximum=1)
    """Factor gamma of the past at every step."""


@config
class WindowThompsonConfig(posterior.BetaConfig):
    """Hyperparameters of sliding-window Thompson sampling."""

    window: int = static(default=500, minimum=1)
    """Number of plays that are remembered."""


discounted_ucb = learner.algorithm(
    "discounted_ucb",
    "UCB with a discounted past, for bandits that drift (Garivier and Moulines 2011).",
    DiscountedUCBConfig,
    learner.Agent(posterior.init, learner.uniforms, _choose_ucb, _discounted, _means),
)
sliding_window_ucb = learner.algorithm(
    "sliding_window_ucb",
    "UCB of the last plays only, for bandits that drift (Garivier and Moulines 2011).",
    WindowUCBConfig,
    learner.Agent(_init_window, learner.uniforms, _choose_ucb, _slide, _means),
)
discounted_thompson = learner.algorithm(
    "discounted_thompson",
    "Thompson sampling with a discounted past, for bandits that drift (Raj and Kalyani 2017).",
    DiscountedThompsonConfig,
    learner.Agent(posterior.init, posterior.keys, _choose_beta, _discounted, _beta_means),
)
sliding_window_thompson = learner.algorithm(
    "sliding_window_thompson",
    "Thompson sampling of the last plays only, for bandits that drift (Trovò et al. 2020).",
    WindowThompsonConfig,
    learner.Agent(_init_window, posterior.keys, _choose_beta, _slide, _beta_means),
)
