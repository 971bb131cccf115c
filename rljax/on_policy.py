"""Shared by on-policy actor-critics: collect a rollout under the current policy and compute its advantages.

Networks may be feedforward or recurrent. A hidden state is stored as a tuple, `(hidden_state,)` if recurrent and `()`
if not, so that `network.apply(params, obs, *hidden_state)` works for both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import networks, returns, rollout
from rljax.distributions import policy_head
from rljax.envs import Env
from rljax.types import Metrics, Policy, RecurrentPolicy


class Samples(NamedTuple):
    """Training samples of a rollout: one per step, `[B, ...]` with B = T * N.

    With a recurrent network a sample is the sequence of one environment, `[N, T, ...]`.
    """

    inputs: tuple[Any, ...]  # of the network: (obs,), or (obs, hidden state before the sequence [N, ...], began)
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


class PolicyStep(NamedTuple):
    """The policy's part of every step of a rollout, `[T, N, ...]`."""

    action: jax.Array
    outputs: jax.Array  # of the network: parameters of the distribution that the action was drawn from
    hidden_state: tuple[Any, ...]  # before the step
    next_hidden_state: tuple[Any, ...]  # after the step, before any reset at the end of an episode


def initial_hidden_state(network: networks.Network, num_envs: int) -> tuple[Any, ...]:
    """Hidden state at the start of an episode: `(hidden_state [N, ...],)`, or `()` for a feedforward network."""
    return (network.initial_hidden_state(num_envs),) if hasattr(network, "initial_hidden_state") else ()


def init(key: jax.Array, network: networks.Network, obs: Any, env: Env) -> tuple[Any, tuple[Any, ...]]:
    """Initialise the parameters and the hidden state for observations `[N, ...]`."""
    hidden_state = initial_hidden_state(network, jax.tree.leaves(obs)[0].shape[0])
    num_outputs = policy_head(env.action_space).num_outputs
    return networks.init(network, key, obs, (num_outputs,), (), hidden_state=hidden_state), hidden_state


def act(network: networks.Network, state: Any, config: Any, greedy: bool) -> Policy | RecurrentPolicy:
    """Return the greedy policy, the mode of the action distribution; or the stochastic one, which samples from it."""
    env, params, collector = config.env, state.params, state.collector
    head = policy_head(env.action_space, config.squash_actions)

    def step(key: jax.Array, obs: Any, hidden_state: tuple[Any, ...]) -> tuple[jax.Array, tuple[Any, ...]]:
        outputs, _, *next_hidden_state = network.apply(params, rollout.observe(collector, env, obs), *hidden_state)
        distribution = head.distribution(outputs)
        return head.to_action(distribution.mode() if greedy else distribution.sample(key)), tuple(next_hidden_state)

    if initial_hidden_state(network, 1):
        return RecurrentPolicy(lambda num_envs: initial_hidden_state(network, num_envs), step)
    return lambda key, obs: step(key, obs, ())[0]


def collect(
    key_noise: jax.Array, key_rollout: jax.Array, network: networks.Network, state: Any, config: Any
) -> tuple[rollout.Collector, tuple[Any, ...], Samples, Metrics]:
    """Play T steps of N environments under the current policy and compute advantages by GAE (Schulman et al. 2016).

    Args:
        key_noise: randomness of the actions.
        key_rollout: randomness of the environments.
        network: maps obs to policy outputs and values.
        state: has `params`, `collector` and `hidden_state`.
        config: has `env`, `num_envs`, `num_steps`, `discount`, `gae_lambda` and `squash_actions`.

    Returns:
        the collector and the hidden state after the rollout, the samples, and metrics: episode statistics and
        `explained_variance`.
    """
    env, params = config.env, state.params
    head = policy_head(env.action_space, config.squash_actions)

    def policy(hidden_state: tuple[Any, ...], noise: jax.Array, obs: Any) -> tuple[jax.Array, PolicyStep]:
        outputs, _, *next_hidden_state = network.apply(params, obs, *hidden_state)
        action = head.distribution(outputs).transform(noise)
        return head.to_action(action), PolicyStep(action, outputs, hidden_state, tuple(next_hidden_state))

    def carry_over(_: Any, noise: jax.Array, step: rollout.Trajectory) -> tuple[tuple[Any, ...], rollout.Trajectory]:
        return networks.reset_hidden_state(step.action.next_hidden_state, step.terminated | step.truncated), step

    noise = head.noise(key_noise, (config.num_steps, config.num_envs))
    collector, hidden_state, trajectory, episodes = rollout.interact(
        key_rollout, policy, carry_over, state.hidden_state, noise, state.collector, env, config.num_steps
    )
    trajectory = rollout.normalize_trajectory(trajectory, state.collector, collector, env)
    taken = trajectory.action

    # One product outside the loop computes all values. The next value of a step is the value of the row below, except
    # at the last step and at truncations: there the network evaluates the true next observation, continuing from the
    # step's hidden state.
    def value_after(step: rollout.Trajectory, hidden_state: tuple[Any, ...]) -> jax.Array:
        return network.apply(params, step.next_obs, *hidden_state)[1]

    values = network.apply(params, trajectory.obs, *taken.hidden_state)[1]
    last = value_after(*jax.tree.map(lambda x: x[-1:], (trajectory, taken.next_hidden_state)))
    next_values = rollout.where_any(
        trajectory.truncated,
        lambda: value_after(trajectory, taken.next_hidden_state),
        jnp.concatenate([values[1:], last]),
    )
    ends = (trajectory.terminated, trajectory.truncated)
    advantages = returns.gae(trajectory.reward, values, next_values, *ends, config.discount, config.gae_lambda)
    targets = advantages + values
    log_prob = head.distribution(taken.outputs).log_prob(taken.action)
    metrics = {**episodes, "explained_variance": explained_variance(values, targets)}
    samples = Samples((trajectory.obs,), taken.action, log_prob, values, advantages, targets)
    if not hidden_state:
        return collector, hidden_state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), samples), metrics
    ended = trajectory.terminated | trajectory.truncated
    began = jnp.roll(ended, 1, axis=0).at[0].set(False)  # the hidden state before the first step is already reset
    samples, began = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (samples, began))
    return collector, hidden_state, samples._replace(inputs=(*samples.inputs, *state.hidden_state, began)), metrics


def standardize(advantages: jax.Array, used: jax.Array | None = None) -> jax.Array:
    """Scale advantages `[...]` to mean 0 and standard deviation 1.

    Advantages that are equal, or differ only by rounding, become 0. A single advantage stays unchanged.

    Args:
        advantages: `[...]`.
        used: `[...]` bool, the advantages that count; None for all. The others become 0.
    """
    count = jnp.int32(advantages.size) if used is None else used.sum()
    centered, scale = _centered(advantages, used)
    equal = scale == 0.0
    centered = centered / jnp.where(equal, 1.0, scale)  # squares neither overflow nor vanish
    deviation = jnp.sqrt(jnp.where(equal, 1.0, jnp.sum(jnp.square(centered)) / count))
    alone = advantages if used is None else jnp.where(used, advantages, 0.0)
    return jnp.where(count > 1, centered / deviation, alone)


def explained_variance(values: jax.Array, targets: jax.Array) -> jax.Array:
    """The fraction `[]` of the targets' variance that the values explain: 1 is all of it; 0 for equal targets."""
    centered, scale = _centered(targets)
    errors, error_scale = _centered(targets - values)
    equal = scale == 0.0
    scale = jnp.where(equal, 1.0, jnp.maximum(scale, error_scale))
    unexplained = jnp.square(errors / scale).mean() / jnp.where(equal, 1.0, jnp.square(centered / scale).mean())
    return jnp.where(equal, 0.0, 1.0 - unexplained)


def _centered(x: jax.Array, used: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Differences from the mean `[...]`, and the largest of them `[]`. Both are exactly 0 where `x` is constant.

    The rounded mean of equal numbers is another number, so differences are taken from one of the numbers first.
    """
    if used is None:
        origin = x.reshape(-1)[0]
        centered = x - origin
        centered = centered - centered.mean()
    else:
        origin = x.reshape(-1)[jnp.argmax(used)]
        centered = jnp.where(used, x - origin, 0.0)
        centered = jnp.where(used, centered - centered.sum() / jnp.maximum(used.sum(), 1), 0.0)
    scale = jax.lax.stop_gradient(jnp.abs(centered).max())
    constant = scale <= 4.0 * jnp.finfo(x.dtype).eps * jnp.abs(origin)
    return jnp.where(constant, 0.0, centered), jnp.where(constant, 0.0, scale)
