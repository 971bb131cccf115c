"""The loops, each once: reset, rollout, minibatches, gradient step, train, evaluate.

Shapes: T is time, N environments in parallel, so a rollout's arrays are `[T, N, ...]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from rljax import draws, normalization
from rljax.checks import number
from rljax.envs import Env, begin_next_episode, make
from rljax.errors import UsageError

Metrics = dict[str, jax.Array]
Policy = Callable[[Any, jax.Array], Any]


class RecurrentPolicy(NamedTuple):
    """A policy with a memory, carried from step to step: what `act` may give in place of a `Policy`."""

    initial_memory: Callable[[int], Any]  # of that many environments: a pytree [N, ...]
    step: Callable[[Any, jax.Array, Any], tuple[Any, Any]]  # (key, obs [N, ...], memory) -> (action [N, ...], memory)


_STOCK = 8  # episodes drawn at a time for each environment
MOST_STEPS = 100_000  # of an evaluated episode

Init = Callable[[jax.Array, Any], Any]
Update = Callable[[jax.Array, Any, Any], tuple[Any, Metrics]]


class Collector(NamedTuple):
    """Where N environments stand between two rollouts, and what was measured of them."""

    env_state: Any
    obs: jax.Array  # [N, ...] raw observations to act on next
    episode_return: jax.Array  # [N] raw rewards of the running episode so far
    episode_length: jax.Array  # [N] int32
    discounted_reward: jax.Array  # [N] discounted sum of rewards, for their normalisation
    obs_moments: normalization.Moments
    reward_moments: normalization.Moments


class Trajectory(NamedTuple):
    """A rollout `[T, N, ...]`, observations and rewards normalised where the environment asks for it."""

    obs: jax.Array
    action: Any  # whatever the policy gave as its second result, the environment's action left out
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    next_obs: jax.Array  # the true successor, also where the episode ended


def steps_per_update(config: Any) -> int:
    """Environment steps of one update: N environments, T steps each."""
    return config.num_envs * config.num_steps


def num_updates(config: Any) -> int:
    """Updates of a whole run of rollouts: as many as fit into `total_steps`."""
    return config.total_steps // steps_per_update(config)


def schedule_updates(config: Any) -> int:
    """Updates over which schedules move: those of `schedule_steps`, so that a longer run need not change them."""
    return max((config.schedule_steps or config.total_steps) // steps_per_update(config), 1)


def progress(config: Any, step: jax.typing.ArrayLike) -> jax.Array:
    """The part of the schedules that is over after `step` updates, `[]` in [0, 1]."""
    return jnp.minimum(step / config.schedule_updates, 1.0)


def learning_rate(config: Any, step: jax.typing.ArrayLike) -> Any:
    """The optimiser's step size after `step` updates: falling to zero where the config anneals it."""
    return config.learning_rate * (1.0 - progress(config, step) if config.anneal_learning_rate else 1.0)


def check_counts(total_steps: int, steps_per_update: int, num_minibatches: int = 1, prefill_steps: int = 0) -> None:
    """Refuse, when a config is made, what would give no update or a ragged minibatch."""
    if total_steps >= 2**31:
        raise UsageError(f"total_steps={total_steps} cannot be counted in 32 bits: choose less than 2**31.")
    if prefill_steps and total_steps < prefill_steps + steps_per_update:
        raise UsageError(
            f"total_steps={total_steps} is less than the prefill and one update, {prefill_steps} and "
            f"{steps_per_update} environment steps: raise it, or lower prefill_steps."
        )
    if total_steps < steps_per_update:
        raise UsageError(
            f"total_steps={total_steps} is less than one update of {steps_per_update} environment steps: "
            "raise it, or lower num_envs or num_steps."
        )
    if steps_per_update % num_minibatches:
        raise UsageError(
            f"A batch of {steps_per_update} environment steps does not divide into {num_minibatches} minibatches: "
            "change num_envs, num_steps or num_minibatches."
        )


def reset(key: jax.Array, env: Env, num_envs: int) -> Collector:
    """N freshly reset environments."""
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), env.params)
    return Collector(
        env_state=env_state,
        obs=obs,
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        discounted_reward=jnp.zeros(num_envs),
        obs_moments=normalization.init_moments(obs.shape[1:] if env.normalize_observations else ()),
        reward_moments=normalization.init_moments(),
    )


def observe(collector: Collector, env: Env, obs: jax.Array) -> jax.Array:
    """An observation as the learner sees it: normalised by the statistics so far, where `env` asks for it."""
    return normalization.whiten(collector.obs_moments, obs) if env.normalize_observations else obs


def scale(collector: Collector, env: Env, reward: jax.Array) -> jax.Array:
    """A reward as the learner sees it: divided by the deviation of returns so far, where `env` asks for it."""
    return reward if env.normalize_rewards is None else normalization.rescale(collector.reward_moments, reward)


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
    size = min(_STOCK, num_steps) if on_cpu and not _environments_are_spread() else num_steps

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
        moments = normalization.update_moments(collector.reward_moments, discounted_rewards)
        collector = collector._replace(reward_moments=moments)
    if env.normalize_observations:
        collector = collector._replace(obs_moments=normalization.update_moments(collector.obs_moments, raw_obs))
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


def minibatches(key: jax.Array, batch_size: int, num_minibatches: int, num_epochs: int) -> jax.Array:
    """Indices `[num_epochs * num_minibatches, batch_size // num_minibatches]`: each epoch visits every sample once."""
    keys = jax.random.split(key, num_epochs)
    order = jax.vmap(lambda key: draws.permutation(key, batch_size))(keys)
    return spread(order.reshape(num_epochs * num_minibatches, batch_size // num_minibatches), axis=1)


def spread(batch: Any, axis: int = 0) -> Any:
    """A batch, a pytree of arrays with B at `axis`, as it is, but each device is to hold only a part of B.

    Where one run's environments are sharded, a loss over the batch is then sharded too, and its gradient becomes a sum
    over devices. The compiler would else have every device compute the whole of it. Nothing happens elsewhere.
    """
    return _laid_out(batch, P(*[None] * axis, "envs"))


def whole(tree: Any) -> Any:
    """The same arrays, but each device is to hold all of them: the counterpart of `spread`."""
    return _laid_out(tree, P())


def _laid_out(tree: Any, spec: P) -> Any:
    if not _environments_are_spread():
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def _environments_are_spread() -> bool:
    return "envs" in jax.sharding.get_abstract_mesh().axis_names


def gradient_step(
    loss: Callable[..., tuple[jax.Array, Any]],
    params: Any,
    optimizer: optax.GradientTransformation,
    opt_state: optax.OptState,
    *arguments: Any,
) -> tuple[Any, optax.OptState, Any, jax.Array]:
    """One step of `optimizer` down `loss(params, *arguments) -> (scalar, auxiliary)`.

    Returns:
        the new parameters and optimiser state, the loss's auxiliary result, and the gradient's global norm `[]`
        before any clipping.
    """
    gradient, auxiliary = jax.grad(loss, has_aux=True)(params, *arguments)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, auxiliary, optax.tree.norm(gradient)


def training_keys(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three keys of a run: for `init`, for the updates (each folds its number in), for evaluations in between."""
    key_init, key_updates, key_evaluation = jax.random.split(key, 3)
    return key_init, key_updates, key_evaluation


def train(init: Init, update: Update, key: jax.Array, config: Any) -> tuple[Any, Metrics]:
    """A whole run: `init` once, then `update` as often as `config.num_updates` says.

    Args:
        init: `(key, config) -> state`.
        update: `(key, state, config) -> (state, metrics)`.
        key: the run's only source of randomness.
        config: has a static `num_updates`.

    Returns:
        the final state, and the metrics of every update, each `[num_updates, ...]`.
    """
    key_init, key_updates, _ = training_keys(key)
    state = init(key_init, config)
    return advance(update, key_updates, state, config, 0, config.num_updates, config.num_updates)


def advance(
    update: Update,
    key_updates: jax.Array,
    state: Any,
    config: Any,
    first: jax.typing.ArrayLike,
    count: jax.typing.ArrayLike,
    capacity: int,
) -> tuple[Any, Metrics]:
    """Updates `first .. first + count - 1` of a run. `train` is one call of it; a driver makes many.

    An update's key depends on its number alone, so that runs cut anywhere give the same bits. `count` may be traced:
    one compiled program then serves chunks of any length up to `capacity`.

    Returns:
        the state, and the metrics `[capacity, ...]` of which the first `count` are filled.
    """
    update = jax.jit(update, inline=True)  # traced once for its shapes and for the loop
    _, shapes = jax.eval_shape(update, key_updates, state, config)
    empty = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def body(i: jax.Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        state, history = carry
        state, metrics = update(jax.random.fold_in(key_updates, first + i), state, config)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), history, metrics)

    return jax.lax.fori_loop(0, count, body, (state, empty))


def evaluate(
    key: jax.Array,
    env: Env | str,
    policy: Policy | RecurrentPolicy,
    num_episodes: int = 100,
    max_steps: int = MOST_STEPS,
) -> jax.Array:
    """Undiscounted returns `[num_episodes]` of whole episodes, in the environment's raw reward.

    Args:
        key: draws the first states, the steps and the policy's randomness.
        env: the environment, or its id; running statistics are the policy's affair and do not move.
        policy: `(key, obs [num_episodes, ...]) -> action [num_episodes, ...]`, for instance `ppo.act(state, config)`;
            or one with a memory, which begins anew with each episode.
        num_episodes: how many, side by side.
        max_steps: an episode that has not ended by then gives NaN; `play` has its return so far.
    """
    returns, ended = play(key, env, policy, num_episodes, max_steps)
    return jnp.where(ended, returns, jnp.nan)


def play(
    key: jax.Array,
    env: Env | str,
    policy: Policy | RecurrentPolicy,
    num_episodes: int,
    max_steps: int = MOST_STEPS,
) -> tuple[jax.Array, jax.Array]:
    """Undiscounted returns `[num_episodes]`, of whole episodes or of `max_steps` steps, and which episodes ended.

    Its arguments are those of `evaluate`.
    """
    env, num_episodes = make(env), number("num_episodes", num_episodes, whole=True, minimum=1)
    key_reset, key_steps = jax.random.split(key)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_reset, num_episodes), env.params)
    step_env = jax.vmap(env.step, (0, 0, 0, None))
    if not isinstance(policy, RecurrentPolicy):
        memoryless = policy
        policy = RecurrentPolicy(lambda _: (), lambda key, obs, _: (memoryless(key, obs), ()))

    def unfinished(carry: Any) -> jax.Array:
        time, _, _, _, _, ended = carry
        return (time < max_steps) & ~jnp.all(ended)

    def step(carry: Any) -> Any:
        time, obs, env_state, memory, returns, ended = carry
        key_policy, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        action, memory = policy.step(key_policy, obs, memory)
        result, env_state = step_env(jax.random.split(key_env, num_episodes), env_state, action, env.params)
        returns = returns + jnp.where(ended, 0.0, result.reward)
        return time + 1, result.next_obs, env_state, memory, returns, ended | result.terminated | result.truncated

    memory = policy.initial_memory(num_episodes)
    start = (jnp.int32(0), obs, env_state, memory, jnp.zeros(num_episodes), jnp.zeros(num_episodes, bool))
    _, _, _, _, returns, ended = jax.lax.while_loop(unfinished, step, start)
    return returns, ended
