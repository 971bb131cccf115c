r"""Step N environments T times under a policy, the one loop that all algorithms collect with.

Shapes: T is time, N environments in parallel, so that a rollout's arrays are `[T, N, ...]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import running_statistics
from rljax.backend import sharding
from rljax.envs import Env, begin_next_episode
from rljax.types import Metrics, Policy

_STOCK = 8  # episodes drawn at a time for each environment


class Collector(NamedTuple):
    """Where N environments stand between two rollouts, and what was measured of them."""

    env_state: Any
    obs: jax.Array  # [N, ...] raw observations to act on next
    episode_return: jax.Array  # [N] raw rewards of the running episode so far
    episode_length: jax.Array  # [N] int32
    discounted_reward: jax.Array  # [N] discounted sum of rewards, for their normalisation
    obs_moments: running_statistics.Moments
    reward_moments: running_statistics.Moments


class Trajectory(NamedTuple):
    """A rollout `[T, N, ...]`, observations and rewards normalised where the environment asks for it."""

    obs: jax.Array
    action: Any  # whatever the policy gave as its second result, the environment's action left out
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_obs: jax.Array  # the true successor, also where the episode ended


def reset(key: jax.Array, env: Env, num_envs: int) -> Collector:
    """N freshly reset environments."""
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), env.params)
    return Collector(
        env_state=env_state,
        obs=obs,
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        discounted_reward=jnp.zeros(num_envs),
        obs_moments=running_statistics.init_moments(obs.shape[1:] if env.normalize_observations else ()),
        reward_moments=running_statistics.init_moments(),
    )


def observe(collector: Collector, env: Env, obs: jax.Array) -> jax.Array:
    """An observation as the learner sees it: normalised by the statistics so far, where `env` asks for it."""
    return running_statistics.whiten(collector.obs_moments, obs) if env.normalize_observations else obs


def scale(collector: Collector, env: Env, reward: jax.Array) -> jax.Array:
    """A reward as the learner sees it: divided by the deviation of returns so far, where `env` asks for it."""
    return reward if env.normalize_rewards is None else running_statistics.rescale(collector.reward_moments, reward)


def rollout(
    key: jax.Array, policy: Policy, noise: Any, collector: Collector, env: Env, num_steps: int, *, raw: bool = False
) -> tuple[Collector, Trajectory, Metrics]:
    """Step N environments `num_steps` times under a fixed policy, resetting those whose episode ends.

    Args:
        key: for the environments: all steps' keys are drawn in one call before the loop, resets a few at a time.
        policy: `(noise, obs [N, ...]) -> (action [N, ...], extra)`; `extra` is any pytree `[N, ...]` to be kept.
        noise: the policy's randomness, a pytree `[T, N, ...]` (or keys `[T]`), a slice a step.
        collector: where the environments stand.
        env: the environment.
        num_steps: T.
        raw: leave the trajectory's observations and rewards as they came, for a replay that outlives the statistics.

    Returns:
        the collector afterwards, the trajectory `[T, N, ...]` whose `action` is the policy's `extra`, and the
        episode statistics: `episode_return` and `episode_length` (means over the `episodes` that ended, NaN if none).
    """
    after, _, trajectory, episodes = interact(
        key,
        lambda _, noise, obs: policy(noise, obs),
        lambda _, noise, transition: ((), transition),
        (),
        noise,
        collector,
        env,
        num_steps,
    )
    return after, trajectory if raw else seen(trajectory, collector, after, env), episodes


def seen(trajectory: Trajectory, before: Collector, after: Collector, env: Env) -> Trajectory:
    """A raw trajectory as the learner sees it: observations as the policy did, rewards by all that is known now."""
    return trajectory._replace(
        obs=observe(before, env, trajectory.obs),
        reward=scale(after, env, trajectory.reward),
        next_obs=observe(before, env, trajectory.next_obs),
    )


def interact(
    key: jax.Array,
    policy: Callable[[Any, Any, jax.Array], Any],
    learn: Callable[[Any, Any, Trajectory], tuple[Any, Any]],
    learner: Any,
    noise: Any,
    collector: Collector,
    env: Env,
    num_steps: int,
) -> tuple[Collector, Any, Any, Metrics]:
    """Step N environments `num_steps` times, learning at every step: what `rollout` does with nothing to learn.

    Args:
        key, noise, collector, env, num_steps: as in `rollout`.
        policy: `(learner, noise, obs [N, ...]) -> (action [N, ...], extra)`.
        learn: `(learner, noise, transition) -> (learner, kept)`, the transition a `Trajectory` of one step
            `[N, ...]` with raw observations and rewards, before any normalisation.
        learner: any pytree, carried from step to step.

    Returns:
        the collector and the learner afterwards, what was kept `[T, ...]`, and the episode statistics.
    """
    num_envs = collector.obs.shape[0]
    key_steps, key_resets = jax.random.split(key)
    step_keys = jax.random.split(key_steps, (num_steps, num_envs))
    step_env = jax.vmap(env.step, (0, 0, 0, None))
    # Where devices share the environments none of them waits for another, and a GPU takes longer for a branch than for
    # drawing: there all resets are drawn before the loop. Its steps are so short that the loop's own turns count too.
    on_cpu = jax.default_backend() == "cpu"
    size = min(_STOCK, num_steps) if on_cpu and not sharding.environments_are_spread() else num_steps

    def step(carry: Any, inputs: Any) -> Any:
        stock, learner, env_state, obs, episode_return, episode_length, discounted_reward = carry
        noise, step_key = inputs
        action, extra = policy(learner, noise, observe(collector, env, obs))
        result, env_state = step_env(step_key, env_state, action, env.params)
        ended = result.terminated | result.truncated
        if size < num_steps:
            stock = _refill(stock, ended, key_resets, env)
        fresh, stock = _take(stock, ended)
        following, env_state = begin_next_episode(result, env_state, *fresh)
        episode_return = episode_return + result.reward
        episode_length = episode_length + 1
        finished = (jnp.where(ended, episode_return, 0.0), jnp.where(ended, episode_length, 0), ended)
        if env.normalize_rewards is not None:
            discounted_reward = env.normalize_rewards * discounted_reward + result.reward
        transition = Trajectory(obs, extra, result.reward, result.terminated, result.truncated, result.next_obs)
        learner, kept = learn(learner, noise, transition)
        carry = (
            stock,
            learner,
            env_state,
            following.obs,
            jnp.where(ended, 0.0, episode_return),
            jnp.where(ended, 0, episode_length),
            jnp.where(ended, 0.0, discounted_reward),
        )
        measured = (
            obs if env.normalize_observations else (),
            discounted_reward if env.normalize_rewards is not None else (),
        )
        return carry, (kept, finished, measured)

    nothing = jnp.zeros(num_envs, jnp.int32)
    start = (_draw(key_resets, nothing, size, env), learner, *collector[:5])
    end, (kept, finished, measured) = jax.lax.scan(step, start, (noise, step_keys), unroll=2 if on_cpu else 8)
    _, learner, env_state, obs, episode_return, episode_length, discounted_reward = end
    raw_obs, discounted_rewards = measured
    collector = collector._replace(
        env_state=env_state,
        obs=obs,
        episode_return=episode_return,
        episode_length=episode_length,
        discounted_reward=discounted_reward,
    )
    if env.normalize_rewards is not None:
        moments = running_statistics.update_moments(collector.reward_moments, discounted_rewards)
        collector = collector._replace(reward_moments=moments)
    if env.normalize_observations:
        collector = collector._replace(obs_moments=running_statistics.update_moments(collector.obs_moments, raw_obs))
    return collector, learner, kept, _episode_metrics(*finished)


class _Stock(NamedTuple):
    """The first states of N environments' next K episodes, drawn before they are needed. They do not depend on K.

    To draw a reset at every step costs more than most physics, and episodes are longer than a step.
    """

    episodes: Any  # (observations, states) [K, N, ...]
    first: jax.Array  # [N] int32, the number in this rollout of the first of the K
    taken: jax.Array  # [N] int32, how many have begun


def _draw(key: jax.Array, taken: jax.Array, size: int, env: Env) -> _Stock:
    """The resets number `taken` `[N]` and those after it; each has a key of its own."""
    numbers = (taken + jnp.arange(size)[:, None]) * len(taken) + jnp.arange(len(taken))  # one hash for both
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))(key, numbers)
    return _Stock(jax.vmap(jax.vmap(env.reset, (0, None)), (0, None))(keys, env.params), taken, taken)


def _refill(stock: _Stock, ended: jax.Array, key: jax.Array, env: Env) -> _Stock:
    """The stock, drawn anew if an episode that ended `[N]` finds none in it to go on with."""
    size = jax.tree.leaves(stock.episodes)[0].shape[0]
    missing = ended & (stock.taken - stock.first == size)
    return jax.lax.cond(_in_any_run(missing), lambda: _draw(key, stock.taken, size, env), lambda: stock)


def _take(stock: _Stock, ended: jax.Array) -> tuple[Any, _Stock]:
    """The observations and states `[N, ...]` that follow the episodes that ended `[N]`, and what is left."""
    place = stock.taken - stock.first
    fresh = jax.tree.map(lambda x: jax.vmap(lambda of_one, i: of_one[i], (1, 0))(x, place), stock.episodes)
    return fresh, stock._replace(taken=stock.taken + ended)


def where_any(mask: jax.Array, compute: Callable[[], jax.Array], otherwise: jax.Array) -> jax.Array:
    """`compute()` `[...]` where `mask` `[...]` is true and `otherwise` elsewhere; it is not computed for nothing."""
    return jax.lax.cond(_in_any_run(mask), lambda: jnp.where(mask, compute(), otherwise), lambda: otherwise)


@jax.custom_batching.custom_vmap
def _in_any_run(x: jax.Array) -> jax.Array:
    """Whether any of `x` is true in any of the runs that are mapped together: a branch on it stays a branch."""
    return jnp.any(x)


@_in_any_run.def_vmap
def _(_: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    return _in_any_run(x), False


def _episode_metrics(returns: jax.Array, lengths: jax.Array, ended: jax.Array) -> Metrics:
    episodes = ended.sum()
    # 0 / 0 is NaN on purpose: no episode ended, so there is no mean.
    return {
        "episode_return": returns.sum() / episodes,
        "episode_length": lengths.sum() / episodes,
        "episodes": episodes,
    }
