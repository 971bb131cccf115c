"""Exploration: epsilon-greedy actions and rollouts, and correlated noise for continuous actions.

The caller passes the current epsilon: its schedule is the algorithm's, from `schedules.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax import rollout
from rljax.backend import random_bits
from rljax.envs import Env, Masked, count
from rljax.envs.masks import random_legal, where_legal
from rljax.envs.spaces import discrete
from rljax.types import Metrics, Scalar


def epsilon_greedy(
    action_values: jax.Array, uniform: jax.Array, random_action: jax.Array, epsilon: Scalar
) -> jax.Array:
    """Take `random_action` if `uniform` in [0, 1) is below `epsilon`, else the best action: `[..., A]` to `[...]`."""
    return jnp.where(uniform < epsilon, random_action, jnp.argmax(action_values, axis=-1).astype(jnp.int32))


def uniform_actions(bits: jax.Array, env: Env) -> jax.Array:
    """Uniform discrete actions `[...]` from random bits `[...]`; with action masks the bits, for `among_legal`."""
    return bits if env.legal_actions is not None else random_bits.integers(bits, count(env.action_space))


def among_legal(drawn: jax.Array, obs: Any) -> jax.Array:
    """What `uniform_actions` has drawn, for observations `[N, ...]`: with action masks one of the legal actions."""
    return random_legal(drawn, obs.legal) if isinstance(obs, Masked) else drawn


def greedy(action_values: jax.Array, obs: Any, env: Env) -> jax.Array:
    """The environment's best legal actions `[...]` by action values `[..., A]`; ties go to the first."""
    best = jnp.argmax(where_legal(action_values, obs), axis=-1).astype(jnp.int32)
    return discrete(env.action_space).from_index(best)


def sample_epsilon_greedy(key: jax.Array, action_values: jax.Array, epsilon: Scalar, obs: Any, env: Env) -> jax.Array:
    """Draw the environment's legal actions `[...]` epsilon-greedily by action values `[..., A]`."""
    draws = jax.random.bits(key, (2, *action_values.shape[:-1]), jnp.uint32)
    random_action = among_legal(uniform_actions(draws[1], env), obs)
    values = where_legal(action_values, obs)
    action = epsilon_greedy(values, random_bits.uniforms(draws[0]), random_action, epsilon)
    return discrete(env.action_space).from_index(action)


def epsilon_greedy_rollout(
    key: jax.Array,
    action_values: Callable[[jax.Array, Any], jax.Array],
    epsilon: Scalar,
    collector: rollout.Collector,
    env: Env,
    num_steps: int,
    *,
    raw: bool = False,
) -> tuple[rollout.Collector, rollout.Trajectory, Metrics]:
    """Run `rollout.rollout` under the epsilon-greedy policy of `action_values`, `(key, obs [N, ...]) -> [N, A]`.

    Only legal actions are taken; those in the trajectory are counted from 0.
    """
    key_actions, key_values, key_rollout = jax.random.split(key, 3)
    bits = jax.random.bits(key_actions, (2, num_steps, collector.episode_length.shape[0]), jnp.uint32)

    def policy(noise: tuple[jax.Array, jax.Array, jax.Array], obs: Any) -> tuple[jax.Array, jax.Array]:
        uniform, drawn, key = noise
        values = where_legal(action_values(key, obs), obs)
        action = epsilon_greedy(values, uniform, among_legal(drawn, obs), epsilon)
        return discrete(env.action_space).from_index(action), action

    noise = (random_bits.uniforms(bits[0]), uniform_actions(bits[1], env), jax.random.split(key_values, num_steps))
    return rollout.rollout(key_rollout, policy, noise, collector, env, num_steps, raw=raw)


def correlated_noise(previous: jax.Array, normal: jax.Array, deviation: Scalar, reversion: Scalar) -> jax.Array:
    r"""Step an Ornstein-Uhlenbeck process: $x' = (1 - \theta) x + \sigma \epsilon$ (Lillicrap et al. 2016).

    Args:
        previous: x, `[...]`; zero at the start of an episode.
        normal: $\epsilon$, standard normal `[...]`.
        deviation: d, the stationary standard deviation: $\sigma = d \sqrt{1 - (1 - \theta)^2}$.
        reversion: $\theta$ in [0, 1]. Values k steps apart have correlation $(1 - \theta)^k$; 1 gives independent
            Gaussian noise.
    """
    decay = 1.0 - reversion
    return decay * previous + deviation * jnp.sqrt(1.0 - decay**2) * normal
