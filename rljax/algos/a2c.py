r"""Advantage actor-critic (Mnih et al. 2016): A3C with many environments in one batch in place of asynchronous workers.

Each update collects a rollout `[T, N]` with the current policy, estimates advantages $A_t$ by GAE (Schulman et al.
2016), and makes one gradient step down

$$ L = E_t[-A_t \log \pi(a_t | s_t) + c_v \tfrac{1}{2} (v(s_t) - G_t)^2 - c_e H(\pi(\cdot | s_t))],
   \qquad G_t = A_t + v_{old}(s_t). $$

With $\lambda = 1$ they are the paper's, $A_t = \sum_{k=0}^{n-1} \gamma^k r_{t+k} + \gamma^n v(s_{t+n}) - v(s_t)$, n
being the steps from t to the end of the rollout or of the episode, where $v(s_{t+n})$ is zero if it terminated.

With `recurrent` the network has a memory, as in the paper; see `rljax.ppo`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, losses, networks, on_policy, optimizers, rollout
from rljax.backend import sharding
from rljax.config import config, static, traced
from rljax.distributions import policy_head
from rljax.envs import Env
from rljax.errors import UsageError
from rljax.types import Metrics, Policy, RecurrentPolicy


def default_network(env: Env, config: "Config") -> networks.Network:
    """An actor and a critic of `config.hidden_sizes`; on images, without a core, they share a torso."""
    return networks.actor_critic(
        env,
        config.hidden_sizes,
        config.activation,
        recurrent=config.recurrent,
        mixed_precision=config.mixed_precision,
    )


@config
class Config:
    """What A2C is told: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to learn."""
    total_steps: int = static(default=500_000, minimum=1)
    """Environment steps of the whole run; at most so many, in whole updates of num_envs * num_steps."""
    optimizer: str = static(default="rmsprop")
    """How the gradient is followed: rmsprop, as in the paper, or adam."""
    learning_rate: float = traced(default=7e-4, minimum=0)
    """The optimiser's step size."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    gae_lambda: float = traced(default=1.0, minimum=0, maximum=1)
    """Decay of GAE's trace (lambda); 1 for n-step advantages, with n up to num_steps."""
    entropy_coefficient: float = traced(default=0.01, minimum=0)
    """Weight of the entropy bonus (c_e)."""
    value_coefficient: float = traced(default=0.5, minimum=0)
    """Weight of the value loss (c_v)."""
    max_grad_norm: float = traced(default=0.5, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number for no clipping."""
    num_envs: int = static(default=8, minimum=1)
    """Environments side by side (N)."""
    num_steps: int = static(default=5, minimum=1)
    """Steps of each environment per update (T)."""
    normalize_advantages: bool = static(default=False)
    """Give each rollout's advantages mean 0 and deviation 1."""
    anneal_learning_rate: bool = static(default=True)
    """Let the learning rate fall linearly to zero."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps after which annealed values are zero; None for total_steps."""
    recurrent: str | None = static(default=None)
    """Core that gives the default network a memory: gru or lstm; None for no memory."""
    hidden_sizes: tuple[int, ...] = static(default=(64, 64))
    """Widths of the default network's hidden layers."""
    activation: str = static(default="tanh")
    """Nonlinearity of the default network: tanh, relu, elu, gelu or silu."""
    mixed_precision: bool = static(default=False)
    """Let linear layers of the default network multiply bfloat16, faster on CPUs with AMX; all else stays float32."""
    network: networks.Network | None = static(default=None)
    """A module whose init and apply take the default network's place: obs to (policy outputs, values)."""

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.num_envs * self.num_steps)
        networks.check_core(self.recurrent, self.hidden_sizes, self.activation)
        if self.optimizer not in ("rmsprop", "adam"):
            raise UsageError(f"There is no optimizer {self.optimizer!r}: known are rmsprop and adam.")

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class State(NamedTuple):
    """What A2C carries from update to update: the network's parameters, their optimiser, environments, memories."""

    params: Any
    opt_state: optax.OptState
    collector: rollout.Collector
    memory: tuple[Any, ...]  # of a recurrent network, (memory [N, ...],); else ()
    step: jax.Array  # [] int32, updates done


def _network(config: Config) -> networks.Network:
    return default_network(config.env, config) if config.network is None else config.network


def _optimizer(config: Config, step: jax.typing.ArrayLike) -> optax.GradientTransformation:
    rate = core.learning_rate(config, step)
    if config.optimizer == "adam":
        return optimizers.adam(rate, eps=1e-5, max_grad_norm=config.max_grad_norm)
    follow = optax.rmsprop(rate, decay=0.99, eps=1e-5)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), follow)


def init(key: jax.Array, config: Config) -> State:
    """Fresh parameters, fresh environments."""
    key_params, key_reset = jax.random.split(key)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    params, memory = on_policy.init(key_params, _network(config), collector.obs, config.env)
    return State(params, _optimizer(config, 0).init(params), collector, memory, jnp.int32(0))


def act(state: State, config: Config) -> Policy | RecurrentPolicy:
    """The greedy policy: the distribution's mode."""
    return on_policy.greedy(_network(config), state.params, state.collector, config.env)


def loss(params: Any, batch: on_policy.Batch, config: Config) -> tuple[jax.Array, Metrics]:
    """The loss `L` of the module's docstring over a rollout, and what it is made of."""
    outputs, values, *_ = _network(config).apply(params, *batch.inputs)
    distribution = policy_head(config.env.action_space).distribution(outputs)
    advantages = on_policy.standardize(batch.advantage) if config.normalize_advantages else batch.advantage
    policy_loss = losses.policy_gradient(distribution.log_prob(batch.action), advantages).mean()
    value_loss = losses.squared(values, batch.target).mean()
    entropy = distribution.entropy().mean()
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return total, {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """Collect one rollout and make one gradient step."""
    key_noise, key_rollout = jax.random.split(key)
    collector, memory, batch, collected = on_policy.collect(key_noise, key_rollout, _network(config), state, config)
    optimizer = _optimizer(config, state.step)
    params, opt_state, metrics, norm = core.gradient_step(
        loss, state.params, optimizer, state.opt_state, sharding.shard_batch(batch), config
    )
    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **collected,
        **metrics,
        "gradient_norm": norm,
    }
    return State(params, opt_state, collector, memory, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """A whole run, a pure function: `jit` it, `vmap` it over keys and over any traced field of `config`."""
    return core.train(init, update, key, config)
