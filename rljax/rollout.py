r"""Step N environments for T steps under a policy: the loop with which all algorithms collect data.

Shapes: T is time, N the number of parallel environments; a rollout's arrays are `[T, N, ...]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import running_statistics
from rljax.backend import sharding
from rljax.backend.rounding import narrow
from rljax.backend.unrolling import unrolled
from rljax.envs import Env, begin_next_episode, host, measures, require
from rljax.envs.masks import map_plain, masked, plain
from rljax.envs.spaces import alike, by_path, leaves_of, map_paths
from rljax.types import Metrics, Policy

RESETS_PER_DRAW = 8  # for each environment
EXPENSIVE_RESETS_PER_DRAW = 1  # if `env.expensive`


class Collector(NamedTuple):
    """The state of N environments between two rollouts, and their running statistics."""

    env_state: Any
    obs: Any  # a pytree [N, ...], current raw observations; `Masked` if the environment has `legal_actions`
    episode_return: jax.Array  # [N] sum of raw rewards in the current episode
    episode_length: jax.Array  # [N] int32, steps in the current episode
    discounted_reward: jax.Array  # [N] discounted sum of rewards, for reward normalisation
    obs_moments: Any  # `Moments`, or those of the normalised leaves by path if observations are nested
    reward_moments: running_statistics.Moments
    episodes: jax.Array  # [] int32, episodes of all environments that have ended
    info_sums: dict[str, jax.Array]  # [N] each, sums of `TimeStep.info` in the current episode


class Trajectory(NamedTuple):
    """A rollout `[T, N, ...]`, with rewards clipped, and observations and rewards normalised, if `env` is set to."""

    obs: Any
    action: Any  # the policy's second output, `extra`
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_obs: Any  # the true successor, also at the end of an episode
    info: dict[str, jax.Array] = {}  # noqa: RUF012 - never changed; `TimeStep.info`, only for the `learn` of `interact`


def reset(key: jax.Array, env: Env, num_envs: int) -> Collector:
    """Reset N environments.

    Raises:
        UsageError: observations do not have the structure of their space.
    """
    obs, env_state = jax.vmap(masked(env).reset, (0, None))(jax.random.split(key, num_envs), env.params)
    if not alike(plain(obs), leaves_of(env.observation_space)):
        require(env)  # says what is wrong with it
    obs = narrow(obs)
    return Collector(
        env_state=env_state,
        obs=obs,
        episode_return=jnp.zeros(num_envs, jnp.float32),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        discounted_reward=jnp.zeros(num_envs, jnp.float32),
        obs_moments=_init_moments(env, plain(obs)),
        reward_moments=running_statistics.init_moments(),
        episodes=jnp.int32(0),
        info_sums=measures.zeros(env.info, num_envs),
    )


def _init_moments(env: Env, obs: Any) -> Any:
    if not isinstance(env.normalize_observations, tuple):
        return running_statistics.init_moments(obs.shape[1:] if env.normalize_observations else ())
    return {path: running_statistics.init_moments(x.shape[1:]) for path, x in _normalized(env, obs).items()}


def _normalized(env: Env, obs: Any) -> Any:
    """The part of observations whose statistics are kept, with the structure of `Collector.obs_moments`."""
    if not isinstance(env.normalize_observations, tuple):
        return plain(obs) if env.normalize_observations else ()
    return {path: x for path, x in by_path(plain(obs)).items() if path in env.normalize_observations}


def observe(collector: Collector, env: Env, obs: Any) -> Any:
    """The learner's observation: standardized by the statistics so far if `env.normalize_observations`."""
    if not env.normalize_observations:
        return narrow(obs)
    moments = collector.obs_moments
    if not isinstance(moments, dict):
        return map_plain(lambda obs: running_statistics.standardize(moments, obs), obs)

    def standardized(path: str, x: jax.Array) -> jax.Array:
        return running_statistics.standardize(moments[path], x) if path in moments else narrow(x)

    return map_plain(lambda obs: map_paths(standardized, obs), obs)


def clip(env: Env, reward: jax.Array) -> jax.Array:
    """The reward within the bounds of `env.clip_reward`, if they are set."""
    return reward if env.clip_reward is None else jnp.clip(reward, *env.clip_reward)


def scale(collector: Collector, env: Env, reward: jax.Array) -> jax.Array:
    """The learner's reward: clipped, and divided by the standard deviation of returns so far, if `env` is set to."""
    reward = clip(env, reward)
    return reward if env.normalize_rewards is None else running_statistics.rescale(collector.reward_moments, reward)


def rollout(
    key: jax.Array, policy: Policy, noise: Any, collector: Collector, env: Env, num_steps: int, *, raw: bool = False
) -> tuple[Collector, Trajectory, Metrics]:
    """Step N environments `num_steps` times under a fixed policy, and reset them when their episodes end.

    Args:
        key: for the environments. All steps' keys are drawn in one call before the loop; resets are too, except on a
            CPU, where a few are drawn at a time, and those of an `expensive` environment, which are drawn one at a time
            and only once an episode has ended.
        policy: `(noise, obs [N, ...]) -> (action [N, ...], extra)`; `extra` is any pytree `[N, ...]` to record.
        noise: the policy's randomness, a pytree `[T, N, ...]` (or keys `[T]`), one slice per step.
        collector: the state of the environments.
        env: the environment.
        num_steps: T.
        raw: keep raw observations and rewards; for a replay buffer, whose samples are normalised when they are drawn.

    Returns:
        the next collector; the trajectory `[T, N, ...]`, with `extra` as its `action`; and statistics: the mean raw
        `reward` of a step, and `episode_return`, `episode_length` and `episode_NAME` of every measure in `env.info`
        (means over the `episodes` that ended, NaN if none).
    """
    next_collector, _, trajectory, episodes = interact(
        key,
        lambda _, noise, obs: policy(noise, obs),
        lambda _, noise, transition: ((), transition._replace(info={})),
        (),
        noise,
        collector,
        env,
        num_steps,
    )
    if not raw:
        trajectory = normalize_trajectory(trajectory, collector, next_collector, env)
    return next_collector, trajectory, episodes


def normalize_trajectory(trajectory: Trajectory, before: Collector, after: Collector, env: Env) -> Trajectory:
    """Normalise a raw trajectory: observations by earlier statistics, as for the policy, and rewards by the newest.

    Rewards are clipped first, if `env` is set to.
    """
    return trajectory._replace(
        obs=observe(before, env, trajectory.obs),
        reward=scale(after, env, trajectory.reward),
        next_obs=observe(before, env, trajectory.next_obs),
    )


def interact(
    key: jax.Array,
    policy: Callable[[Any, Any, Any], Any],
    learn: Callable[[Any, Any, Trajectory], tuple[Any, Any]],
    learner: Any,
    noise: Any,
    collector: Collector,
    env: Env,
    num_steps: int,
) -> tuple[Collector, Any, Any, Metrics]:
    """Step N environments `num_steps` times and learn at every step. `rollout` is the case without learning.

    Args:
        key, noise, collector, env, num_steps: as in `rollout`.
        policy: `(learner, noise, obs [N, ...]) -> (action [N, ...], extra)`.
        learn: `(learner, noise, transition) -> (learner, recorded)`. The transition is a `Trajectory` of one step
            `[N, ...]` with raw observations and rewards.
        learner: any pytree, carried from step to step.

    Returns:
        the next collector and learner, `recorded` stacked to `[T, ...]`, and the episode statistics.
    """
    env, num_envs = masked(env), collector.episode_length.shape[0]
    key_steps, key_resets = jax.random.split(key)
    step_keys = jax.random.split(key_steps, (num_steps, num_envs))
    step_env = jax.vmap(env.step, (0, 0, 0, None))
    resets, take = _stock(key_resets, collector, env, num_steps)

    def step(carry: Any, inputs: Any) -> Any:
        resets, learner, env_state, obs, episode_return, episode_length, discounted_reward, info_sums = carry
        noise, step_key = narrow(inputs)
        action, extra = policy(learner, noise, observe(collector, env, obs))
        result, env_state = step_env(step_key, env_state, action, env.params)
        result = narrow(result)
        ended = result.terminated | result.truncated
        fresh, resets = take(resets, ended, env_state)
        following, env_state = begin_next_episode(result, env_state, *fresh)
        episode_return = episode_return + result.reward
        episode_length = episode_length + 1
        info_sums = measures.add(env.info, info_sums, result.info)
        of_episodes = measures.of_episodes(env.info, info_sums, episode_length, result.info)
        finished = (
            result.reward,
            jnp.where(ended, episode_return, 0.0),
            jnp.where(ended, episode_length, 0),
            ended,
            {name: jnp.where(ended, values, 0.0) for name, values in of_episodes.items()},
        )
        if env.normalize_rewards is not None:
            discounted_reward = env.normalize_rewards * discounted_reward + clip(env, result.reward)
        transition = Trajectory(
            obs, extra, result.reward, result.terminated, result.truncated, result.next_obs, result.info
        )
        learner, recorded = learn(learner, noise, transition)
        carry = (
            resets,
            learner,
            env_state,
            following.obs,
            jnp.where(ended, 0.0, episode_return),
            jnp.where(ended, 0, episode_length),
            jnp.where(ended, 0.0, discounted_reward),
            {name: jnp.where(ended, 0.0, total) for name, total in info_sums.items()},
        )
        measured = (
            _normalized(env, obs),
            discounted_reward if env.normalize_rewards is not None else (),
        )
        return carry, (recorded, finished, measured)

    start = (resets, learner, *collector[:5], collector.info_sums)
    # Steps on a GPU are so short that the loop's overhead matters; expensive ones would only compile for longer.
    unroll = unrolled(1 if env.expensive else 2 if jax.default_backend() == "cpu" else 8)
    end, (recorded, finished, measured) = jax.lax.scan(step, start, (noise, step_keys), unroll=unroll)
    _, learner, env_state, obs, episode_return, episode_length, discounted_reward, info_sums = end
    raw_obs, discounted_rewards = measured
    episodes = _episode_metrics(*finished)
    collector = collector._replace(
        env_state=env_state,
        obs=obs,
        episode_return=episode_return,
        episode_length=episode_length,
        discounted_reward=discounted_reward,
        episodes=collector.episodes + episodes["episodes"],
        info_sums=info_sums,
    )
    if env.normalize_rewards is not None:
        moments = running_statistics.update_moments(collector.reward_moments, discounted_rewards)
        collector = collector._replace(reward_moments=moments)
    if env.normalize_observations:
        update = running_statistics.update_moments
        moments = jax.tree.map(update, collector.obs_moments, raw_obs, is_leaf=running_statistics.is_moments)
        collector = collector._replace(obs_moments=moments)
    return collector, learner, recorded, episodes


class _Resets(NamedTuple):
    """The first states of N environments' next K episodes, drawn before they are needed; they do not depend on K.

    A reset at every step would cost more than most steps, and episodes are longer than a step. `expensive` resets are
    not drawn before the first is needed, since a rollout is often shorter than an episode.
    """

    episodes: Any  # (observations, states) [K, N, ...]
    first: jax.Array  # [N] int32, the number of the first of the K episodes in this rollout
    used: jax.Array  # [N] int32, the number of episodes used so far in this rollout


def _stock(key: jax.Array, collector: Collector, env: Env, num_steps: int) -> tuple[Any, Callable[..., Any]]:
    """The resets at the start of a rollout, and `(resets, ended [N], env_state) -> (fresh, resets)`.

    Resets are drawn a few at a time, in a branch that runs when an environment has none left. If devices share the
    environments it would make them wait for each other, and on a GPU a branch is slower than a draw. In both cases all
    resets are drawn before the loop. Expensive ones cost more than a branch on any device.
    """
    if env.resets_itself:
        return (), lambda resets, ended, env_state: (host.begun(env, key, env_state), resets)
    is_sharded = sharding.environments_are_sharded()
    is_lazy = env.expensive and not is_sharded
    in_branch = is_lazy or (jax.default_backend() == "cpu" and not is_sharded)
    per_draw = EXPENSIVE_RESETS_PER_DRAW if is_lazy else RESETS_PER_DRAW
    size = min(per_draw, num_steps) if in_branch else num_steps

    def take(resets: _Resets, ended: jax.Array, _: Any) -> tuple[Any, _Resets]:
        if is_lazy or size < num_steps:
            resets = _refill(resets, ended, key, env)
        return _take(resets, ended)

    if is_lazy:
        return _no_resets(collector, size), take
    return _draw_resets(key, jnp.zeros(len(collector.episode_length), jnp.int32), size, env), take


def _draw_resets(key: jax.Array, used: jax.Array, size: int, env: Env) -> _Resets:
    """Draw the next K = `size` resets after the `used` `[N]` ones, each with its own key."""
    envs = jnp.arange(len(used), dtype=jnp.int32)
    numbers = (used + jnp.arange(size, dtype=jnp.int32)[:, None]) * len(used) + envs  # unique per reset
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))(key, numbers)
    obs, states = jax.vmap(jax.vmap(env.reset, (0, None)), (0, None))(keys, env.params)
    return _Resets((narrow(obs), states), used, used)


def _no_resets(collector: Collector, size: int) -> _Resets:
    """A stock of K = `size` resets that are all used up; what it holds is never taken."""
    held = (collector.obs, collector.env_state)
    none_used = jnp.zeros_like(collector.episode_length)
    return _Resets(jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), held), none_used - size, none_used)


def _refill(resets: _Resets, ended: jax.Array, key: jax.Array, env: Env) -> _Resets:
    """Draw new resets if any environment whose episode `ended` `[N]` has none left."""
    size = jax.tree.leaves(resets.episodes)[0].shape[0]
    missing = ended & (resets.used - resets.first == size)
    return jax.lax.cond(any_in_any_run(missing), lambda: _draw_resets(key, resets.used, size, env), lambda: resets)


def _take(resets: _Resets, ended: jax.Array) -> tuple[Any, _Resets]:
    """The next observations and states `[N, ...]`, counted as used where an episode `ended` `[N]`."""
    index = resets.used - resets.first
    fresh = jax.tree.map(lambda x: jax.vmap(lambda episodes, i: episodes[i], (1, 0))(x, index), resets.episodes)
    return fresh, resets._replace(used=resets.used + ended)


def where_any(mask: jax.Array, compute: Callable[[], jax.Array], otherwise: jax.Array) -> jax.Array:
    """`jnp.where(mask, compute(), otherwise)` `[...]`, which calls `compute` only if any of the mask is true."""
    return jax.lax.cond(any_in_any_run(mask), lambda: jnp.where(mask, compute(), otherwise), lambda: otherwise)


@jax.custom_batching.custom_vmap
def any_in_any_run(x: jax.Array) -> jax.Array:
    """True if any of `x` is true in any of the vmapped runs, so that a branch on it stays a branch."""
    return jnp.any(x)


@any_in_any_run.def_vmap
def _(_: int, in_batched: list[bool], x: jax.Array) -> tuple[jax.Array, bool]:
    return any_in_any_run(x), False


def _episode_metrics(
    rewards: jax.Array, returns: jax.Array, lengths: jax.Array, ended: jax.Array, info: dict[str, jax.Array]
) -> Metrics:
    episodes = ended.sum(dtype=jnp.int32)
    # If no episode ended, 0 / 0 gives NaN on purpose.
    return {
        "reward": rewards.mean(),
        "episode_return": returns.sum() / episodes,
        "episode_length": lengths.sum(dtype=jnp.int32).astype(jnp.float32) / episodes,
        "episodes": episodes,
        **{f"episode_{name}": values.sum() / episodes for name, values in info.items()},
    }
