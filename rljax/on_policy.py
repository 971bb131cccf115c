"""What the on-policy actor-critics share: a rollout under the current policy as a batch with advantages to learn from.

All of it holds for networks with and without a memory. A network's memory is kept as a tuple, `(memory,)`, and is `()`
where there is none, so that `network.apply(params, obs, *memory)` is right for both.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import networks, returns, rollout
from rljax.distributions import policy_head
from rljax.envs import Env
from rljax.types import Metrics, Policy, RecurrentPolicy


class Batch(NamedTuple):
    """Samples of a rollout: its steps, each `[B, ...]` with B = T * N.

    With a memory a sample is the whole sequence of one environment, each `[N, T, ...]`.
    """

    inputs: tuple[Any, ...]  # of the network: obs; with a memory also that before the sequence [N, ...], and began
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    target: jax.Array


class Acted(NamedTuple):
    """What is kept of the policy at every step of a rollout, each `[T, N, ...]`."""

    action: jax.Array
    outputs: jax.Array  # of the network, that the action was drawn by
    memory: tuple[Any, ...]  # before the step
    next_memory: tuple[Any, ...]  # after the step, also where the episode ended


def initial_memory(network: networks.Network, num_envs: int) -> tuple[Any, ...]:
    """What a network remembers at the beginning of an episode: `(memory [N, ...],)`, or `()` where it has none."""
    return (network.initial_hidden_state(num_envs),) if hasattr(network, "initial_hidden_state") else ()


def init(key: jax.Array, network: networks.Network, obs: jax.Array, env: Env) -> tuple[Any, tuple[Any, ...]]:
    """Fresh parameters and what the network remembers at first, for observations `[N, ...]`."""
    memory = initial_memory(network, obs.shape[0])
    num_outputs = policy_head(env.action_space).num_outputs
    return networks.init(network, key, obs, (num_outputs,), (), hidden_state=memory), memory


def greedy(network: networks.Network, params: Any, collector: rollout.Collector, env: Env) -> Policy | RecurrentPolicy:
    """The greedy policy: the distribution's mode."""
    head = policy_head(env.action_space)

    def step(key: jax.Array, obs: jax.Array, memory: tuple[Any, ...]) -> tuple[jax.Array, tuple[Any, ...]]:
        outputs, _, *memory_after = network.apply(params, rollout.observe(collector, env, obs), *memory)
        return head.to_action(head.distribution(outputs).mode()), tuple(memory_after)

    if initial_memory(network, 1):
        return RecurrentPolicy(lambda num_envs: initial_memory(network, num_envs), step)
    return lambda key, obs: step(key, obs, ())[0]


def collect(
    key_noise: jax.Array, key_rollout: jax.Array, network: networks.Network, state: Any, config: Any
) -> tuple[rollout.Collector, tuple[Any, ...], Batch, Metrics]:
    """T steps of N environments under the current policy, with advantages by GAE.

    Args:
        key_noise: for the actions.
        key_rollout: for the environments.
        network: obs to policy outputs and values.
        state: has `params`, `collector` and `memory`.
        config: has `env`, `num_envs`, `num_steps`, `discount` and `gae_lambda`.

    Returns:
        the collector and the memory afterwards, the batch, and metrics: the episode statistics and how much of the
        targets' variance the values knew, 1 for all of it and 0 for none.
    """
    env, params = config.env, state.params
    head = policy_head(env.action_space)

    def policy(memory: tuple[Any, ...], noise: jax.Array, obs: jax.Array) -> tuple[jax.Array, Acted]:
        outputs, _, *next_memory = network.apply(params, obs, *memory)
        action = head.distribution(outputs).transform(noise)
        return head.to_action(action), Acted(action, outputs, memory, tuple(next_memory))

    def remember(_: Any, noise: jax.Array, step: rollout.Trajectory) -> tuple[tuple[Any, ...], rollout.Trajectory]:
        return networks.reset_hidden_state(step.action.next_memory, step.terminated | step.truncated), step

    noise = head.noise(key_noise, (config.num_steps, config.num_envs))
    collector, memory, trajectory, episodes = rollout.interact(
        key_rollout, policy, remember, state.memory, noise, state.collector, env, config.num_steps
    )
    trajectory = rollout.seen(trajectory, state.collector, collector, env)
    acted = trajectory.action

    # Values outside the loop, in one product. A step's successor is what the next one acts on, and its value is there
    # already, but for the last step and where an episode was cut off: those are read at the true next observation, and
    # with a memory that goes on from the step's.
    def read(step: rollout.Trajectory, memory: tuple[Any, ...]) -> jax.Array:
        return network.apply(params, step.next_obs, *memory)[1]

    values = network.apply(params, trajectory.obs, *acted.memory)[1]
    last = read(*jax.tree.map(lambda x: x[-1:], (trajectory, acted.next_memory)))
    next_values = rollout.where_any(
        trajectory.truncated,
        lambda: read(trajectory, acted.next_memory),
        jnp.concatenate([values[1:], last]),
    )
    ends = (trajectory.terminated, trajectory.truncated)
    advantages = returns.gae(trajectory.reward, values, next_values, *ends, config.discount, config.gae_lambda)
    targets = advantages + values
    log_prob = head.distribution(acted.outputs).log_prob(acted.action)
    metrics = {**episodes, "explained_variance": 1.0 - jnp.var(targets - values) / jnp.var(targets)}
    batch = Batch((trajectory.obs,), acted.action, log_prob, values, advantages, targets)
    if not memory:
        return collector, memory, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch), metrics
    ended = trajectory.terminated | trajectory.truncated
    began = jnp.roll(ended, 1, axis=0).at[0].set(False)  # the memory before the first step is as it should be
    batch, began = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (batch, began))
    return collector, memory, batch._replace(inputs=(*batch.inputs, *state.memory, began)), metrics


def standardize(advantages: jax.Array) -> jax.Array:
    """Advantages of mean 0 and deviation 1; a single one as it is."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8) if advantages.size > 1 else advantages
