r"""Tabular Q-learning (Watkins 1989), with SARSA, Expected SARSA and Double Q-learning as alternative targets.

Every step of N environments moves the entries $Q(s_t, a_t)$ of one table by a step size $\alpha$ towards
$r_t + \gamma v'_t$. After a termination $v'_t$ is zero; otherwise, with $s' = s_{t+1}$ the true successor, it is

$$ \max_a Q(s', a), \qquad Q(s', a'),\ a' \sim \pi, \qquad \sum_a \pi(a | s') Q(s', a), \qquad
   Q_B(s', \arg\max_a Q_A(s', a)) $$

for Q-learning, SARSA (Rummery and Niranjan 1994), Expected SARSA (van Seijen et al. 2009) and Double Q-learning (van
Hasselt 2010, a fair coin picks which of two tables to update). $\pi$ is epsilon-greedy.

If k environments update the same entry in one step, it moves $1 - (1 - \alpha)^k$ of the way to the mean of their
targets, with the step size from before the step: the average over all orders of k successive updates with that step
size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import core, exploration, planning, rollout, schedules, value_heads
from rljax.backend import random_bits
from rljax.config import config, static, traced
from rljax.envs import Env, count
from rljax.envs.masks import plain, where_legal
from rljax.envs.spaces import discrete
from rljax.errors import UsageError
from rljax.schedules import Scheduled
from rljax.types import Metrics, Policy

TARGETS = ("q_learning", "sarsa", "expected_sarsa", "double_q_learning")


@config
class Config:
    """Hyperparameters of Q-learning and its variants: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on; observations and actions must be discrete."""
    total_steps: int = static(default=500_000, minimum=1)
    """Environment steps of the whole run, rounded down to whole updates of num_envs * num_steps."""
    target: str = static(default="q_learning", choices=TARGETS)
    """Update target: that of the algorithm of this name."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    step_size: Scheduled = traced(default=schedules.visits(1.0, 0.6), minimum=0, maximum=1)
    """Step size (alpha), a number or a schedule; visits(a, k) is a / (1 + past updates of the entry) ** k."""
    epsilon: Scheduled = traced(default=schedules.linear(1.0, 0.05), minimum=0, maximum=1)
    """Probability of a uniform action, a number or a schedule, such as per_episode(1.0, 0.05, 0.995)."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps over which schedules run; None for total_steps."""
    initial_value: float = traced(default=0.0)
    """Initial value of every entry; optimistic (high) values encourage exploration."""
    num_envs: int = static(default=1, minimum=1)
    """Parallel environments that update one table (N); finding colliding updates takes N ** 2 comparisons per step."""
    num_steps: int = static(default=100, minimum=1)
    """Steps per environment in each update (T); metrics are means over them, and schedules advance between updates."""

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.steps_per_update)
        count(self.env.observation_space, "observations")
        count(self.env.action_space)
        if self.env.normalize_rewards is not None:
            raise UsageError("Tabular Q-learning needs raw rewards: remove normalize_rewards from the environment.")

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class Tables(NamedTuple):
    """Learned tables of S states and A actions; K is 2 for Double Q-learning, else 1."""

    action_values: jax.Array  # [K, S, A]
    visits: jax.Array  # [K, S, A] int32, past updates of each entry; float32 would stop at 2**24
    planned: jax.Array  # [N] int32, the next actions that SARSA has chosen, else -1


class State(NamedTuple):
    """Training state of Q-learning: tables and environments."""

    tables: Tables
    collector: rollout.Collector
    step: jax.Array  # [] int32, completed updates


def init(key: jax.Array, config: Config) -> State:
    """Fill the tables with the initial value and reset the environments."""
    tables = 2 if config.target == "double_q_learning" else 1
    shape = (tables, count(config.env.observation_space), count(config.env.action_space))
    values = jnp.full(shape, config.initial_value, jnp.float32)
    planned = jnp.full(config.num_envs, -1, jnp.int32)
    collector = rollout.reset(key, config.env, config.num_envs)
    return State(Tables(values, jnp.zeros(shape, jnp.int32), planned), collector, jnp.int32(0))


def act(state: State, config: Config, greedy: bool = True) -> Policy:
    """Return the greedy policy of the mean over tables, where ties go to the first action; or the stochastic one.

    The stochastic policy explores with the current epsilon.
    """
    means = jnp.mean(state.tables.action_values, axis=0)  # an array of JAX, also of a loaded state

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        values = means[_index(obs, config)]
        if greedy:
            return exploration.greedy(values, obs, config.env)
        return exploration.sample_epsilon_greedy(key, values, core.current(state, config).epsilon, obs, config.env)

    return policy


def _index(obs: Any, config: Config) -> jax.Array:
    """The rows of the tables `[...]` for observations `[...]`."""
    return discrete(config.env.observation_space, "observations").index(plain(obs))


class Noise(NamedTuple):
    """Random draws for one step of N environments, each `[N]`; those that the target does not need are not drawn."""

    uniform: jax.Array  # in [0, 1), to be compared with epsilon
    action: jax.Array  # uniform action
    next_uniform: Any  # both again for SARSA's next action, else None
    next_action: Any
    table: jax.Array  # which of two tables to update; 0 if there is one


def next_values(tables: Tables, noise: Noise, obs: Any, config: Config) -> Any:
    """Return $v'$ of the module docstring at successors `[N]`, and the next actions `[N]` of SARSA, else -1."""
    row = _index(obs, config)
    means = where_legal(tables.action_values.mean(axis=0)[row], obs)  # [N, A]
    if config.target == "sarsa":
        drawn = exploration.among_legal(noise.next_action, obs)
        planned = exploration.epsilon_greedy(means, noise.next_uniform, drawn, config.epsilon)
        return jnp.take_along_axis(means, planned[:, None], axis=-1)[:, 0], planned
    if config.target == "expected_sarsa":
        policy = planning.epsilon_greedy(means, config.epsilon).astype(means.dtype)
        terms = policy * means if config.env.legal_actions is None else jnp.where(policy > 0, policy * means, 0.0)
        return jnp.sum(terms, axis=-1), tables.planned
    if config.target == "double_q_learning":
        best = jnp.argmax(where_legal(tables.action_values[noise.table, row], obs), axis=-1)
        return tables.action_values[1 - noise.table, row, best], tables.planned
    return jnp.max(means, axis=-1), tables.planned


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """Play T steps of N environments and learn after each step."""
    key_noise, key_interact = jax.random.split(key)
    env, shape = config.env, (config.num_steps, config.num_envs)
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    num_tables = len(state.tables.action_values)
    is_sarsa = config.target == "sarsa"
    bits, action_bits = random_bits.pairs(key_noise, (2 if is_sarsa or num_tables > 1 else 1, *shape))
    noise = Noise(
        uniform=random_bits.uniforms(bits[0]),
        action=exploration.uniform_actions(action_bits[0], env),
        next_uniform=random_bits.uniforms(bits[1]) if is_sarsa else None,
        next_action=exploration.uniform_actions(action_bits[1], env) if is_sarsa else None,
        table=random_bits.integers(bits[1], num_tables) if num_tables > 1 else jnp.zeros(shape, jnp.int32),
    )

    def policy(tables: Tables, noise: Noise, obs: Any) -> tuple[jax.Array, jax.Array]:
        values = where_legal(tables.action_values.mean(axis=0)[_index(obs, config)], obs)
        drawn = exploration.among_legal(noise.action, obs)
        action = exploration.epsilon_greedy(values, noise.uniform, drawn, config.epsilon)
        action = jnp.where(tables.planned >= 0, tables.planned, action)
        return discrete(env.action_space).from_index(action), action

    def learn(tables: Tables, noise: Noise, step: rollout.Trajectory) -> tuple[Tables, tuple[jax.Array, jax.Array]]:
        next_value, planned = next_values(tables, noise, step.next_obs, config)
        target = rollout.clip(env, step.reward) + config.discount * jnp.where(step.terminated, 0.0, next_value)
        entry = (noise.table, _index(step.obs, config), step.action)
        same = jnp.ones((config.num_envs, config.num_envs), bool)
        for index in entry:
            same &= index[:, None] == index[None, :]
        updates = same.sum(axis=-1, dtype=jnp.int32)
        values, visits = tables.action_values[entry], tables.visits[entry]
        error = target - values
        weight = 1.0 - (1.0 - schedules.of_visits(config.step_size, visits)) ** updates
        values = values + weight * jnp.where(same, error[None, :], 0.0).sum(axis=-1) / updates
        tables = Tables(
            action_values=tables.action_values.at[entry].set(values),
            visits=tables.visits.at[entry].set(visits + updates),
            planned=jnp.where(step.terminated | step.truncated, -1, planned),
        )
        return tables, (jnp.abs(error).mean(), jnp.mean(weight))

    collector, tables, (errors, weights), episodes = rollout.interact(
        key_interact, policy, learn, state.tables, noise, state.collector, env, config.num_steps
    )
    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **scheduled,
        **episodes,
        "td_error": errors.mean(),
        **value_heads.value_metrics(tables.action_values, None if env.legal_actions is None else tables.visits > 0),
        "value_change": jnp.abs(tables.action_values - state.tables.action_values).max(),
        "step_size": weights.mean(),
    }
    return State(tables, collector, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
