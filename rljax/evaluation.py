"""Evaluate a policy by whole episodes: their undiscounted returns, their lengths and other measures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs import Env, make, measures
from rljax.envs.masks import masked
from rljax.errors import number
from rljax.types import Policy, RecurrentPolicy

MAX_STEPS = 100_000  # limit on an evaluation episode


class Episodes(NamedTuple):
    """Episodes that were played to their ends, or to a limit of steps."""

    returns: jax.Array
    """Undiscounted returns `[num_episodes]`, in raw rewards."""
    measures: dict[str, jax.Array]
    """`[num_episodes]` each: `length` in steps, and what the environment's `info` declares."""
    ended: jax.Array
    """`[num_episodes]` bool; the others had not ended at the limit, and are measured so far."""


def evaluate(
    key: jax.Array,
    env: Env | str,
    policy: Policy | RecurrentPolicy,
    num_episodes: int = 100,
    max_steps: int = MAX_STEPS,
) -> jax.Array:
    """Evaluate a policy: the undiscounted returns `[num_episodes]` of whole episodes, in raw rewards.

    `play` takes the same arguments and also returns other measures of the episodes, such as their length.

    Args:
        key: randomness of the resets, the steps and the policy.
        env: the environment, or its id; running statistics belong to the policy and are not updated.
        policy: `(key, obs [num_episodes, ...]) -> action [num_episodes, ...]`, for example `ppo.act(state, config)`,
            or `ppo.act(state, config, greedy=False)`; or a `RecurrentPolicy`, whose hidden state is reset at the start
            of each episode.
        num_episodes: number of parallel episodes.
        max_steps: an episode that has not ended by then gives NaN; `play` returns its return so far.

    Raises:
        UsageError: `num_episodes` is not an integer of at least 1, or `env` is unknown.
    """
    episodes = play(key, env, policy, num_episodes, max_steps)
    return jnp.where(episodes.ended, episodes.returns, jnp.nan)


def play(
    key: jax.Array,
    env: Env | str,
    policy: Policy | RecurrentPolicy,
    num_episodes: int = 100,
    max_steps: int = MAX_STEPS,
) -> Episodes:
    """Play whole episodes, or at most `max_steps` steps of each: their returns, measures, and which ones ended.

    The arguments are those of `evaluate`.
    """
    env, num_episodes = masked(make(env)), number("num_episodes", num_episodes, integer=True, minimum=1)
    key_reset, key_steps = jax.random.split(key)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, num_episodes), env.params)
    step_env = jax.vmap(env.step, (0, 0, 0, None))
    if not isinstance(policy, RecurrentPolicy):
        feedforward = policy
        policy = RecurrentPolicy(lambda _: (), lambda key, obs, _: (feedforward(key, obs), ()))

    def unfinished(carry: Any) -> jax.Array:
        time, *_, ended = carry
        return (time < max_steps) & ~jnp.all(ended)

    def step(carry: Any) -> Any:
        time, obs, env_state, hidden_state, returns, lengths, sums, last, ended = carry
        key_policy, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        action, hidden_state = policy.step(key_policy, obs, hidden_state)
        result, env_state = step_env(jax.random.split(key_env, num_episodes), env_state, action, env.params)
        returns = returns + jnp.where(ended, 0.0, result.reward)
        lengths = lengths + jnp.where(ended, 0, 1)
        # What follows the end of an episode does not count.
        counted = (measures.add(env.info, sums, result.info), result.info)
        sums, last = jax.tree.map(lambda old, new: jnp.where(ended, old, new), (sums, last), counted)
        ended = ended | result.terminated | result.truncated
        return time + 1, result.next_obs, env_state, hidden_state, returns, lengths, sums, last, ended

    zeros = jnp.zeros(num_episodes)
    start = (
        jnp.int32(0),
        obs,
        env_state,
        policy.initial_hidden_state(num_episodes),
        zeros,
        jnp.zeros(num_episodes, jnp.int32),
        measures.zeros(env.info, num_episodes),
        {name: jnp.zeros(num_episodes, jnp.float32) for name, _ in env.info},
        jnp.zeros(num_episodes, bool),
    )
    _, _, _, _, returns, lengths, sums, last, ended = jax.lax.while_loop(unfinished, step, start)
    return Episodes(returns, {"length": lengths, **measures.of_episodes(env.info, sums, lengths, last)}, ended)
