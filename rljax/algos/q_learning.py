r"""Tabular Q-learning (Watkins 1989), with SARSA, Expected SARSA and Double Q-learning as a choice of target.

Every step of N environments moves the entries $Q(s_t, a_t)$ of one table by a step size $\alpha$ towards
$r_t + \gamma v'_t$, where $v'_t$ is zero after a termination and else, with $s' = s_{t+1}$ the true successor,

$$ \max_a Q(s', a), \qquad Q(s', a'),\ a' \sim \pi, \qquad \sum_a \pi(a | s') Q(s', a), \qquad
   Q_B(s', \arg\max_a Q_A(s', a)) $$

for Q-learning, SARSA (Rummery and Niranjan 1994), Expected SARSA (van Seijen et al. 2009) and Double Q-learning (van
Hasselt 2010, one of two tables by a coin's toss). $\pi$ is epsilon-greedy.

Where k environments update the same entry in one step, it moves by $1 - (1 - \alpha)^k$ of the way to the mean of their
targets, with the step size that it had before: the average over all orders in which the k updates could have been made
one after the other with that step size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import core, exploration, planning, rollout, schedules
from rljax.backend import random_bits
from rljax.config import config, static, traced
from rljax.envs import Env, count
from rljax.errors import UsageError, suggest
from rljax.types import Metrics, Policy

TARGETS = ("q_learning", "sarsa", "expected_sarsa", "double_q_learning")


@config
class Config:
    """What Q-learning and its variants are told: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to learn; observations and actions must be discrete."""
    total_steps: int = static(default=500_000, minimum=1)
    """Environment steps of the whole run; at most so many, in whole updates of num_envs * num_steps."""
    target: str = static(default="q_learning")
    """What to learn towards: q_learning, sarsa, expected_sarsa or double_q_learning."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    step_size: float = traced(default=1.0, minimum=0, maximum=1)
    """Part of the way to its target that an entry moves at first (alpha)."""
    step_size_end: float = traced(default=0.01, minimum=0, maximum=1)
    """Step size at the end of a linear or exponential schedule."""
    step_size_schedule: str = static(default="visits")
    """constant, linear, exponential, or visits: step_size / (1 + updates of the entry so far) ** step_size_exponent."""
    step_size_exponent: float = traced(default=0.6, minimum=0, maximum=1)
    """Exponent of the visits schedule; above 0.5 and up to 1 it meets the conditions of Robbins and Monro (1951)."""
    epsilon: float = traced(default=1.0, minimum=0, maximum=1)
    """Probability of a uniform action at first."""
    epsilon_end: float = traced(default=0.05, minimum=0, maximum=1)
    """Probability of a uniform action at the end of its schedule."""
    epsilon_schedule: str = static(default="linear")
    """constant, linear or exponential."""
    schedule_fraction: float = traced(default=1.0, minimum=0, maximum=1)
    """Part of schedule_steps after which linear and exponential schedules reach their ends."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps after which schedules have ended; None for total_steps."""
    initial_value: float = traced(default=0.0)
    """What every entry holds at first; high values make an optimist that explores."""
    num_envs: int = static(default=1, minimum=1)
    """Environments side by side that write one table (N); to find colliding updates takes N ** 2 comparisons a step."""
    num_steps: int = static(default=100, minimum=1)
    """Steps of each environment per update (T): metrics are means over them, and schedules move between updates."""

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.steps_per_update)
        if self.target not in TARGETS:
            raise UsageError(f"There is no target {self.target!r}: {suggest(self.target, TARGETS)}")
        schedules.check(
            "step_size", self.step_size_schedule, self.step_size, self.step_size_end, (*schedules.KINDS, "visits")
        )
        schedules.check("epsilon", self.epsilon_schedule, self.epsilon, self.epsilon_end)
        count(self.env.observation_space, "observations")
        count(self.env.action_space)
        if self.env.normalize_rewards is not None:
            raise UsageError("A table learns raw rewards: take normalize_rewards off the environment.")

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class Tables(NamedTuple):
    """What is learned. K is 2 for Double Q-learning, else 1; S states, A actions."""

    action_values: jax.Array  # [K, S, A]
    visits: jax.Array  # [K, S, A] float32, updates of each entry so far
    planned: jax.Array  # [N] int32, SARSA's next actions; -1 where none is planned


class State(NamedTuple):
    """What Q-learning carries from update to update: tables, environments."""

    tables: Tables
    collector: rollout.Collector
    step: jax.Array  # [] int32, updates done


def init(key: jax.Array, config: Config) -> State:
    """Tables full of the initial value, fresh environments."""
    tables = 2 if config.target == "double_q_learning" else 1
    shape = (tables, count(config.env.observation_space), count(config.env.action_space))
    values = jnp.full(shape, config.initial_value, jnp.float32)
    planned = jnp.full(config.num_envs, -1, jnp.int32)
    collector = rollout.reset(key, config.env, config.num_envs)
    return State(Tables(values, jnp.zeros(shape), planned), collector, jnp.int32(0))


def act(state: State, config: Config) -> Policy:
    """The greedy policy of the table, of the mean of two where there are two; the first of equal actions."""
    best = jnp.argmax(state.tables.action_values.mean(axis=0), axis=-1).astype(jnp.int32)
    return lambda key, obs: best[obs]


class Noise(NamedTuple):
    """Draws for one step of N environments, `[N]` each; what a target has no use for is not drawn."""

    explores: jax.Array  # uniform in [0, 1)
    action: jax.Array  # uniform action
    explores_next: Any  # the same for SARSA's next action, else None
    action_next: Any
    table: jax.Array  # which of two tables to update, 0 where there is one


def next_values(tables: Tables, noise: Noise, obs: jax.Array, epsilon: jax.Array, config: Config) -> Any:
    """The module's $v'$ `[N]` at successors `[N]`, and the actions `[N]` that SARSA will take there, else -1."""
    means = tables.action_values.mean(axis=0)[obs]  # [N, A]
    if config.target == "sarsa":
        planned = exploration.epsilon_greedy(means, noise.explores_next, noise.action_next, epsilon)
        return jnp.take_along_axis(means, planned[:, None], axis=-1)[:, 0], planned
    if config.target == "expected_sarsa":
        return jnp.sum(planning.epsilon_greedy(means, epsilon) * means, axis=-1), tables.planned
    if config.target == "double_q_learning":
        best = jnp.argmax(tables.action_values[noise.table, obs], axis=-1)
        return tables.action_values[1 - noise.table, obs, best], tables.planned
    return jnp.max(means, axis=-1), tables.planned


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """T steps of N environments, each of them learned from at once."""
    key_noise, key_interact = jax.random.split(key)
    env, shape = config.env, (config.num_steps, config.num_envs)
    progress = core.progress(config, state.step)
    epsilon = schedules.value(
        config.epsilon_schedule, config.epsilon, config.epsilon_end, config.schedule_fraction, progress
    )
    num_actions, num_tables = count(env.action_space), len(state.tables.action_values)
    plans = config.target == "sarsa"
    words, others = random_bits.pairs(key_noise, (2 if plans or num_tables > 1 else 1, *shape))
    noise = Noise(
        explores=random_bits.uniforms(words[0]),
        action=random_bits.integers(others[0], num_actions),
        explores_next=random_bits.uniforms(words[1]) if plans else None,
        action_next=random_bits.integers(others[1], num_actions) if plans else None,
        table=random_bits.integers(words[1], num_tables) if num_tables > 1 else jnp.zeros(shape, jnp.int32),
    )

    def policy(tables: Tables, noise: Noise, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        action = exploration.epsilon_greedy(
            tables.action_values.mean(axis=0)[obs], noise.explores, noise.action, epsilon
        )
        action = jnp.where(tables.planned >= 0, tables.planned, action)
        return action, action

    def learn(tables: Tables, noise: Noise, seen: rollout.Trajectory) -> tuple[Tables, tuple[jax.Array, jax.Array]]:
        following, planned = next_values(tables, noise, seen.next_obs, epsilon, config)
        target = seen.reward + config.discount * jnp.where(seen.terminated, 0.0, following)
        entry = (noise.table, seen.obs, seen.action)
        same = jnp.ones((config.num_envs, config.num_envs), bool)
        for index in entry:
            same &= index[:, None] == index[None, :]
        updates = same.sum(axis=-1)
        values, visits = tables.action_values[entry], tables.visits[entry]
        error = target - values
        if config.step_size_schedule == "visits":
            # $(1 + n)^{-k}$; XLA's own power does not use a CPU's vector units.
            step_size = config.step_size * jnp.exp(-config.step_size_exponent * jnp.log(1.0 + visits))
        else:
            kind, last = config.step_size_schedule, config.step_size_end
            step_size = schedules.value(kind, config.step_size, last, config.schedule_fraction, progress)
        weight = 1.0 - (1.0 - step_size) ** updates
        values = values + weight * jnp.where(same, error[None, :], 0.0).sum(axis=-1) / updates
        tables = Tables(
            action_values=tables.action_values.at[entry].set(values),
            visits=tables.visits.at[entry].set(visits + updates),
            planned=jnp.where(seen.terminated | seen.truncated, -1, planned),
        )
        return tables, (jnp.abs(error).mean(), jnp.mean(weight))

    collector, tables, (errors, weights), episodes = rollout.interact(
        key_interact, policy, learn, state.tables, noise, state.collector, env, config.num_steps
    )
    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **episodes,
        "td_error": errors.mean(),
        "epsilon": epsilon,
        "step_size": weights.mean(),
    }
    return State(tables, collector, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """A whole run, a pure function: `jit` it, `vmap` it over keys and over any traced field of `config`."""
    return core.train(init, update, key, config)
