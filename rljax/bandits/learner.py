r"""What all bandit agents share: the loop that plays, learns at every step and counts regret.

An agent is a record of pure functions, `Agent`; `algorithm` makes an algorithm's module of it, so that it trains,
sweeps and resumes as any other. Regret after n steps, with $\mu^*_t$ the oracle's and $\mu_{A_t}$ the played arm's
expected reward and $X_t$ the reward (Lattimore and Szepesvári 2020, section 4.8):

$$ \text{regret} = \sum_{t=1}^n \mu^*_t - \mu_{A_t}, \qquad
   \text{realized regret} = \sum_{t=1}^n \mu^*_t - X_t $$
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax import core, rollout
from rljax.backend import random_bits
from rljax.config import config, static, traced
from rljax.envs import Env, count
from rljax.envs.spaces import Box, discrete
from rljax.envs.suites.bandits import INFO
from rljax.errors import UsageError
from rljax.evaluation import Episodes
from rljax.types import Metrics, Policy


@config
class Config:
    """Fields of all bandit agents."""

    env: Env = traced()
    """Bandit to play, such as bandits/bernoulli-10."""
    total_steps: int = static(default=10_000, minimum=1)
    """Steps of the whole run, rounded down to whole updates of num_steps."""
    num_steps: int = static(default=100, minimum=1)
    """Steps in each update; metrics are measured, and schedules advance, between updates. The agent learns in each."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Steps over which schedules run; None for total_steps."""

    num_envs = 1

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.num_steps)
        if self.total_steps >= 2**24:
            raise UsageError(f"total_steps={self.total_steps} cannot be counted in float32: use less than 2**24.")
        count(self.env.action_space)
        if not set(INFO) <= {name for name, _ in self.env.info}:
            raise UsageError(
                f"{self.env.name} does not report {', '.join(INFO)} in its info, from which regret is measured: "
                "choose one such as bandits/bernoulli-10."
            )

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class Agent(NamedTuple):
    """An agent of A arms as pure functions. Its statistics are any pytree; time counts steps from 0."""

    init: Callable[[Any], Any]
    """`(config) -> statistics`."""
    noise: Callable[[jax.Array, int, Any], Any]
    """`(key, n, config) -> noise`, a pytree `[n, ...]`, one slice a step."""
    choose: Callable[..., jax.Array]
    """`(statistics, noise, obs, time, config) -> arm []`."""
    learn: Callable[..., Any]
    """`(statistics, obs, arm, reward, time, config) -> statistics`."""
    values: Callable[..., jax.Array]
    """`(statistics, obs, config) -> [A]`, of which the greedy policy plays the highest."""


class Totals(NamedTuple):
    """Sums over the steps so far, each `[]`."""

    regret: jax.Array
    realized_regret: jax.Array
    oracle: jax.Array  # the oracle's expected rewards


class State(NamedTuple):
    """Training state of a bandit agent."""

    statistics: Any
    totals: Totals
    collector: rollout.Collector
    step: jax.Array  # [] int32, completed updates


def uniforms(key: jax.Array, n: int, config: Any, draws: int = 1) -> jax.Array:
    """Floats in [0, 1), `[n, draws]`."""
    return random_bits.uniforms(jax.random.bits(key, (n, draws), jnp.uint32))


def argmax(values: jax.Array, uniform: jax.Array) -> jax.Array:
    """The place `[]` of the highest of `[A]`; of several, each is equally likely."""
    return sample(jnp.where(values == values.max(), 1.0, 0.0), uniform)


def sample(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Draw a place `[]` in proportion to weights `[A]`, by inversion of one uniform in [0, 1)."""
    sums = jnp.cumsum(weights)
    return jnp.argmax(sums > uniform * sums[-1]).astype(jnp.int32)


def arms(config: Any) -> int:
    """A, the number of arms."""
    return count(config.env.action_space)


def features(config: Any) -> int:
    """The number d of features of each arm; raise `UsageError` if the environment observes none."""
    space = config.env.observation_space
    if not isinstance(space, Box) or len(space.shape) != 2 or space.shape[0] != arms(config):
        raise UsageError(f"{config.env.name} has no features [A, d] of its arms: choose one such as bandits/linear-10.")
    return int(space.shape[1])


def require_bounded(config: Any, name: str, instead: str) -> None:
    """Raise `UsageError` if the bandit is known to have normal rewards, for an agent of rewards in [0, 1]."""
    if hasattr(config.env.params, "noise"):
        raise UsageError(f"{name} needs rewards in [0, 1], and those of {config.env.name} are normal: use {instead}.")


def algorithm(name: str, doc: str, Config: type, agent: Agent) -> Any:
    """Make an algorithm's module: `Config`, `State`, `init`, `update`, `act`, `judged` and `train`.

    Args:
        name: of the algorithm.
        doc: its docstring.
        Config: a subclass of `learner.Config` with the agent's own fields.
        agent: its functions.
    """

    def init(key: jax.Array, config: Any) -> State:
        """Reset the bandit and forget what was learned."""
        zero = jnp.zeros(())
        return State(agent.init(config), Totals(zero, zero, zero), rollout.reset(key, config.env, 1), jnp.int32(0))

    def act(state: State, config: Any, greedy: bool = True) -> Policy:
        """Return the policy that plays the arm with the highest estimate, or the one that explores."""
        current = core.current(state, config)
        time = state.step * config.num_steps

        def policy(key: jax.Array, obs: Any) -> jax.Array:
            if greedy:
                values = jax.vmap(lambda obs: agent.values(state.statistics, obs, current))(obs)
                arm = jnp.argmax(values, axis=-1).astype(jnp.int32)
            else:
                noise = agent.noise(key, len(obs), current)
                arm = jax.vmap(lambda noise, obs: agent.choose(state.statistics, noise, obs, time, current))(noise, obs)
            return discrete(config.env.action_space).from_index(arm)

        return policy

    def update(key: jax.Array, state: State, config: Any) -> tuple[State, Metrics]:
        """Play T steps and learn after each."""
        key_noise, key_interact = jax.random.split(key)
        config, scheduled = core.scheduled(config, state.step)
        env, start = config.env, state.step * config.num_steps

        def policy(learner: Any, noise: Any, obs: Any) -> tuple[jax.Array, jax.Array]:
            statistics, time = learner
            arm = agent.choose(statistics, noise, obs[0], time, config)[None]
            return discrete(env.action_space).from_index(arm), arm

        def learn(learner: Any, noise: Any, step: rollout.Trajectory) -> Any:
            statistics, time = learner
            statistics = agent.learn(statistics, step.obs[0], step.action[0], step.reward[0], time, config)
            measured = {name: step.info[name][0] for name in INFO}
            return (statistics, time + 1), {**measured, "reward": step.reward[0]}

        noise = agent.noise(key_noise, config.num_steps, config)
        collector, (statistics, _), steps, _ = rollout.interact(
            key_interact, policy, learn, (state.statistics, start), noise, state.collector, env, config.num_steps
        )
        # Regret is summed before the two totals grow large, so that small differences are not rounded off.
        totals = Totals(
            realized_regret=state.totals.realized_regret + jnp.sum(steps["oracle_reward"] - steps["reward"]),
            regret=state.totals.regret + jnp.sum(steps["oracle_reward"] - steps["expected_reward"]),
            oracle=state.totals.oracle + jnp.sum(steps["oracle_reward"]),
        )
        step = state.step + 1
        metrics = {
            "env_steps": step * config.steps_per_update,
            **scheduled,
            "reward": steps["reward"].mean(),
            "oracle_reward": steps["oracle_reward"].mean(),
            "optimal_action": steps["optimal"].mean(),
            "regret": totals.regret,
            "realized_regret": totals.realized_regret,
        }
        return State(statistics, totals, collector, step), metrics

    def judged(state: State, config: Any) -> Episodes:
        """The whole of training so far as one episode: its rewards, regret, and the oracle's expected rewards."""
        totals = state.totals
        measures = {
            "length": state.step * config.num_steps,
            "regret": totals.regret,
            "realized_regret": totals.realized_regret,
            "oracle_return": totals.oracle,
        }
        rows = {name: jnp.asarray(value)[None] for name, value in measures.items()}
        return Episodes((totals.oracle - totals.realized_regret)[None], rows, jnp.ones(1, bool))

    def train(key: jax.Array, config: Any) -> tuple[State, Metrics]:
        """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and traced fields of `config`."""
        return core.train(init, update, key, config)

    parts = {"Config": Config, "State": State, "init": init, "act": act, "judged": judged, "update": update}
    return SimpleNamespace(__name__=f"rljax.bandits.{name}", __doc__=doc, agent=agent, train=train, **parts)
