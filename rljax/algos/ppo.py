r"""Proximal policy optimisation (Schulman et al. 2017), for discrete and continuous actions.

Each update collects a rollout `[T, N]` with the current policy $\pi_{old}$, estimates advantages $A_t$ by GAE
(Schulman et al. 2016), and then makes several epochs of minibatch steps down

$$ L = E_t[-\min(\rho_t A_t, \mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon) A_t)
       + c_v \tfrac{1}{2} (v(s_t) - G_t)^2 - c_e H(\pi(\cdot | s_t))],
   \qquad \rho_t = \frac{\pi(a_t | s_t)}{\pi_{old}(a_t | s_t)}, \quad G_t = A_t + v_{old}(s_t). $$

With `recurrent` the network has a memory. A sample is then the whole sequence of one environment: its memory is
computed again from what was stored before its first step, and forgotten where an episode begins.
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
    """What PPO is told: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to learn."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run; at most so many, in whole updates of num_envs * num_steps."""
    learning_rate: float = traced(default=2.5e-4, minimum=0)
    """Adam's step size."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    gae_lambda: float = traced(default=0.95, minimum=0, maximum=1)
    """Decay of GAE's trace (lambda)."""
    clip: float = traced(default=0.2, minimum=0)
    """How far the probability ratio may leave 1 before its gradient is cut (epsilon)."""
    value_clip: float | None = traced(default=None, minimum=0)
    """How far a value may leave its old one before its gradient is cut; None for no such limit."""
    target_kl: float | None = traced(default=None, minimum=0)
    """Approximate KL divergence from the old policy at which an update stops learning; None for never."""
    entropy_coefficient: float = traced(default=0.0, minimum=0)
    """Weight of the entropy bonus (c_e)."""
    value_coefficient: float = traced(default=0.5, minimum=0)
    """Weight of the value loss (c_v)."""
    max_grad_norm: float = traced(default=0.5, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number for no clipping."""
    num_envs: int = static(default=4, minimum=1)
    """Environments side by side (N)."""
    num_steps: int = static(default=128, minimum=1)
    """Steps of each environment per update (T)."""
    num_epochs: int = static(default=4, minimum=1)
    """Passes over each rollout."""
    num_minibatches: int = static(default=4, minimum=1)
    """Gradient steps per pass; must divide num_envs * num_steps, with a memory num_envs."""
    normalize_advantages: bool = static(default=True)
    """Give each minibatch's advantages mean 0 and deviation 1."""
    anneal_learning_rate: bool = static(default=True)
    """Let the learning rate fall linearly to zero."""
    anneal_clip: bool = static(default=False)
    """Let clip fall linearly to zero."""
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
        core.check_counts(self.total_steps, self.num_envs * self.num_steps, self.num_minibatches)
        networks.check_core(self.recurrent, self.hidden_sizes, self.activation)
        if hasattr(_network(self), "initial_hidden_state") and self.num_envs % self.num_minibatches:
            raise UsageError(
                f"The sequences of {self.num_envs} environments do not divide into {self.num_minibatches} minibatches: "
                "change num_envs or num_minibatches."
            )

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class State(NamedTuple):
    """What PPO carries from update to update: the network's parameters, their optimiser, environments, memories."""

    params: Any
    opt_state: optax.OptState
    collector: rollout.Collector
    memory: tuple[Any, ...]  # of a recurrent network, (memory [N, ...],); else ()
    step: jax.Array  # [] int32, updates done


def _network(config: Config) -> networks.Network:
    return default_network(config.env, config) if config.network is None else config.network


def _optimizer(config: Config, step: jax.typing.ArrayLike) -> optax.GradientTransformation:
    rate = core.learning_rate(config, step)
    return optimizers.adam(rate, eps=1e-5, max_grad_norm=config.max_grad_norm)


def init(key: jax.Array, config: Config) -> State:
    """Fresh parameters, fresh environments."""
    key_params, key_reset = jax.random.split(key)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    params, memory = on_policy.init(key_params, _network(config), collector.obs, config.env)
    return State(params, _optimizer(config, 0).init(params), collector, memory, jnp.int32(0))


def act(state: State, config: Config) -> Policy | RecurrentPolicy:
    """The greedy policy: the distribution's mode."""
    return on_policy.greedy(_network(config), state.params, state.collector, config.env)


def loss(params: Any, batch: on_policy.Batch, clip: jax.Array, config: Config) -> tuple[jax.Array, Metrics]:
    """The loss `L` of the module's docstring over one minibatch, and what it is made of."""
    outputs, values, *_ = _network(config).apply(params, *batch.inputs)
    distribution = policy_head(config.env.action_space).distribution(outputs)
    advantages = on_policy.standardize(batch.advantage) if config.normalize_advantages else batch.advantage
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    policy_loss = losses.clipped_surrogate(log_ratio, advantages, clip).mean()
    if config.value_clip is None:
        value_loss = losses.squared(values, batch.target).mean()
    else:
        value_loss = losses.clipped_squared(values, batch.value, batch.target, config.value_clip).mean()
    entropy = distribution.entropy().mean()
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approximate_kl": losses.approximate_kl(log_ratio).mean(),
        "clip_fraction": (jnp.abs(jnp.expm1(log_ratio)) > clip).mean(),
    }


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """Collect one rollout and learn from it. Metrics are means over the minibatches that were used."""
    key_noise, key_rollout, key_shuffle = jax.random.split(key, 3)
    collector, memory, batch, collected = on_policy.collect(key_noise, key_rollout, _network(config), state, config)
    optimizer = _optimizer(config, state.step)
    clip = config.clip * (1.0 - core.progress(config, state.step) if config.anneal_clip else 1.0)

    def learn(carry: Any, indices: jax.Array) -> tuple[Any, tuple[Metrics, jax.Array]]:
        params, opt_state, stopped = carry
        minibatch = jax.tree.map(lambda x: x[indices], batch)
        new_params, new_opt_state, metrics, norm = core.gradient_step(
            loss, params, optimizer, opt_state, minibatch, clip, config
        )
        if config.target_kl is not None:
            stopped = stopped | (metrics["approximate_kl"] > config.target_kl)
            new_params, new_opt_state = jax.tree.map(
                lambda old, new: jnp.where(stopped, old, new), (params, opt_state), (new_params, new_opt_state)
            )
        return (new_params, new_opt_state, stopped), ({**metrics, "gradient_norm": norm}, ~stopped)

    batch = sharding.replicate(batch)  # sent once, and not a minibatch at a time
    indices = core.minibatches(key_shuffle, len(batch.advantage), config.num_minibatches, config.num_epochs)
    start = (state.params, state.opt_state, jnp.bool_(False))
    (params, opt_state, _), (metrics, used) = jax.lax.scan(learn, start, indices)
    # The minibatch that stopped an update is measured too: it is why the update stopped.
    measured = jnp.roll(used, 1).at[0].set(True)
    metrics = {name: jnp.sum(jnp.where(measured, rows, 0.0)) / measured.sum() for name, rows in metrics.items()}

    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **collected,
        **metrics,
    }
    return State(params, opt_state, collector, memory, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """A whole run, a pure function: `jit` it, `vmap` it over keys and over any traced field of `config`."""
    return core.train(init, update, key, config)
