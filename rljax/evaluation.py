"""Evaluate a policy by whole episodes: their undiscounted returns, their lengths and other measures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs import Env, host, make, measures
from rljax.envs.masks import masked
from rljax.errors import UsageError, number, require_key, shown
from rljax.rollout import any_in_any_run
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
        UsageError: `num_episodes` is not an integer of at least 1, `env` is unknown, `key` is not one key, or `policy`
            is no function or returns something else than one action for each episode.
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
    env = make(env)
    start, step = _episodes(key, env, policy, num_episodes)
    # Runs that are mapped together step an environment on the host until all have finished: JAX has no loop with
    # effects whose length differs.
    all_ended = (lambda ended: ~any_in_any_run(~ended)) if env.resets_itself else jnp.all

    def unfinished(carry: Any) -> jax.Array:
        return (carry.time < max_steps) & ~all_ended(carry.ended)

    return _measured(env, jax.lax.while_loop(unfinished, lambda carry: step(carry)[0], start))


class Recording(NamedTuple):
    """N episodes step by step, of at most T steps. What follows the end of an episode does not belong to it."""

    states: Any
    """The environment's states `[T + 1, N, ...]`, from the reset on, with those of its wrappers."""
    actions: Any
    """`[T, N, ...]`."""
    rewards: jax.Array
    """Raw rewards `[T, N]`."""
    episodes: Episodes
    """Returns, measures and which episodes ended, `[N]` each: `play` returns the same."""


def record(
    key: jax.Array, env: Env | str, policy: Policy | RecurrentPolicy, num_episodes: int = 1, max_steps: int = 1_000
) -> Recording:
    """Play whole episodes, or at most `max_steps` steps of each, and keep every step of them, to be drawn.

    The arguments are those of `evaluate`, and the episodes those of `play`. An episode has
    `episodes.measures["length"]` steps; later ones of the `max_steps` are to be cut off.
    """
    max_steps = number("max_steps", max_steps, integer=True, minimum=1, maximum=MAX_STEPS)
    start, step = _episodes(key, env, policy, num_episodes)
    end, (states, actions, rewards) = jax.lax.scan(lambda carry, _: step(carry), start, None, length=max_steps)
    states = jax.tree.map(lambda first, later: jnp.concatenate([first[None], later]), start.env_state, states)
    return Recording(states, actions, rewards, _measured(env, end))


def as_recurrent(policy: Policy | RecurrentPolicy) -> RecurrentPolicy:
    """A policy as a recurrent one, with an empty hidden state if it has none."""
    if isinstance(policy, RecurrentPolicy):
        return policy
    return RecurrentPolicy(lambda _: (), lambda key, obs, _: (policy(key, obs), ()))


def _check_actions(env: Env, action: Any, num_episodes: int) -> None:
    """Refuse what is not one action for each episode."""
    shape, wanted = getattr(action, "shape", None), (num_episodes, *env.action_space.shape)
    if shape != wanted:
        given = shown(action) if shape is None else f"shape {shape}"
        raise UsageError(f"policy must return actions of shape {wanted}, one for each observation, got {given}.")


class _Playing(NamedTuple):
    """N episodes at some time, and what they have measured so far."""

    time: jax.Array
    obs: Any
    env_state: Any
    hidden_state: Any
    returns: jax.Array
    lengths: jax.Array
    sums: dict[str, jax.Array]
    last: dict[str, jax.Array]
    ended: jax.Array


def _episodes(
    key: jax.Array, env: Env | str, policy: Policy | RecurrentPolicy, num_episodes: int
) -> tuple[_Playing, Callable[[_Playing], tuple[_Playing, tuple[Any, Any, jax.Array]]]]:
    """The start of N episodes, and the step that continues them and returns the new states, actions and rewards."""
    require_key(key)
    env, num_episodes = masked(make(env)), number("num_episodes", num_episodes, integer=True, minimum=1)
    if not (isinstance(policy, RecurrentPolicy) or callable(policy)):
        raise UsageError(f"policy must be a function of a key and observations, got {shown(policy)}.")
    key_reset, key_steps = jax.random.split(key)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, num_episodes), env.params)
    step_env = jax.vmap(env.step, (0, 0, 0, None))
    policy = as_recurrent(policy)

    def step(now: _Playing) -> tuple[_Playing, tuple[Any, Any, jax.Array]]:
        ended = now.ended
        key_policy, key_env = jax.random.split(jax.random.fold_in(key_steps, now.time))
        action, hidden_state = policy.step(key_policy, now.obs, now.hidden_state)
        _check_actions(env, action, num_episodes)
        result, env_state = step_env(jax.random.split(key_env, num_episodes), now.env_state, action, env.params)
        returns = now.returns + jnp.where(ended, 0.0, result.reward)
        lengths = now.lengths + jnp.where(ended, 0, 1)
        # What follows the end of an episode does not count.
        counted = (measures.add(env.info, now.sums, result.info), result.info)
        sums, last = jax.tree.map(lambda old, new: jnp.where(ended, old, new), (now.sums, now.last), counted)
        ended = ended | result.terminated | result.truncated
        after = _Playing(now.time + 1, result.next_obs, env_state, hidden_state, returns, lengths, sums, last, ended)
        return after, (env_state, action, result.reward)

    start = _Playing(
        time=jnp.int32(0),
        obs=obs,
        env_state=env_state,
        hidden_state=policy.initial_hidden_state(num_episodes),
        returns=jnp.zeros(num_episodes),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        sums=measures.zeros(env.info, num_episodes),
        last={name: jnp.zeros(num_episodes, jnp.float32) for name, _ in env.info},
        ended=jnp.zeros(num_episodes, bool),
    )
    return start, step


def _measured(env: Env | str, end: _Playing) -> Episodes:
    env = make(env)
    of_episodes = measures.of_episodes(env.info, end.sums, end.lengths, end.last)
    ended = host.release(end.env_state, end.ended) if env.resets_itself else end.ended
    return Episodes(end.returns, {"length": end.lengths, **of_episodes}, ended)
