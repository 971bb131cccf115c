r"""Proximal policy optimisation (Schulman et al. 2017, equations 7 and 9), for discrete and continuous actions.

Each update collects a rollout `[T, N]` with the current policy $\pi_{old}$, estimates advantages $A_t$ by GAE
(Schulman et al. 2016), and then takes several epochs of minibatch steps down

$$ L = E_t[-\min(\rho_t A_t, \mathrm{clip}(\rho_t, 1-\epsilon, 1+\epsilon) A_t)
       + c_v \tfrac{1}{2} (v(s_t) - G_t)^2 - c_e H(\pi(\cdot | s_t))],
   \qquad \rho_t = \frac{\pi(a_t | s_t)}{\pi_{old}(a_t | s_t)}, \quad G_t = A_t + v_{old}(s_t). $$

With `recurrent` the network has a hidden state. A sample is then the sequence of one environment: its hidden states
are recomputed from the one stored before the first step, and reset where an episode begins.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, losses, networks, on_policy, optimizers, rollout, schedules
from rljax.backend import sharding
from rljax.config import config, static, traced
from rljax.distributions import policy_head
from rljax.envs import Env
from rljax.errors import UsageError
from rljax.schedules import Scheduled
from rljax.types import Loss, Metrics, Policy, RecurrentPolicy


def default_network(env: Env, config: "Config") -> networks.Network:
    """An actor and a critic of `config.hidden_sizes`; they can share a torso."""
    return networks.actor_critic(
        env,
        config.hidden_sizes,
        config.activation,
        config.shared_torso,
        recurrent=config.recurrent,
        mixed_precision=config.mixed_precision,
        encoder=config.encoder,
    )


@config
class Config:
    """Hyperparameters of PPO: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run, rounded down to whole updates of num_envs * num_steps."""
    optimizer: str | optimizers.Optimizer | None = static(default=None)
    """Optimiser: None for Adam; a name, such as adamw, sgd, lion or muon, for Optax's after clipping; or a
    function from the learning rate to an optax.GradientTransformation, used without clipping."""
    learning_rate: Scheduled = traced(default=schedules.linear(2.5e-4, 0), minimum=0)
    """The optimiser's step size, a number or a schedule."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    gae_lambda: float = traced(default=0.95, minimum=0, maximum=1)
    """Decay of GAE's trace (lambda)."""
    clip: Scheduled = traced(default=0.2, minimum=0)
    """Largest distance of the probability ratio from 1 before its gradient is clipped to zero (epsilon), a number or a
    schedule."""
    value_clip: float | None = traced(default=None, minimum=0)
    """Largest distance of a value from its old value before its gradient is clipped to zero; None for no limit."""
    target_kl: float | None = traced(default=None, minimum=0)
    """Approximate KL divergence from the old policy above which an update stops early; None for never."""
    entropy_coefficient: Scheduled = traced(default=0.0, minimum=0)
    """Weight of the entropy bonus (c_e), a number or a schedule."""
    value_coefficient: float = traced(default=0.5, minimum=0)
    """Weight of the value loss (c_v)."""
    max_grad_norm: float = traced(default=0.5, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number disables clipping."""
    num_envs: int = static(default=4, minimum=1)
    """Parallel environments (N)."""
    num_steps: int = static(default=128, minimum=1)
    """Steps per environment in each update (T)."""
    num_epochs: int = static(default=4, minimum=1)
    """Epochs over each rollout."""
    num_minibatches: int = static(default=4, minimum=1)
    """Minibatches per epoch; must divide num_envs * num_steps, or num_envs with a recurrent network."""
    normalize_advantages: bool = static(default=True)
    """Standardize the advantages of each minibatch."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps over which schedules run; None for total_steps."""
    recurrent: str | None = static(default=None, choices=networks.CORES)
    """Recurrent core of the default network; None for a feedforward network."""
    hidden_sizes: tuple[int, ...] = static(default=(64, 64))
    """Widths of the default network's hidden layers."""
    activation: str = static(default="tanh", choices=networks.ACTIVATIONS)
    """Nonlinearity of the default network."""
    shared_torso: bool | None = static(default=None)
    """Share the torso of actor and critic in the default network; None for only where observations are images."""
    squash_actions: bool = static(default=False)
    """Squash continuous actions into their bounds by tanh, with exact log-probabilities, instead of clipping them."""
    encoder: str | networks.EncoderOf = static(default=networks.DEFAULT, choices=networks.ENCODERS)
    """Encoder of observations in the default network, by the name of its image encoder; or a function from the space
    to a linen module from observations to features, as networks.encoder(embedding=16) is."""
    mixed_precision: bool = static(default=False)
    """Multiply in bfloat16 in the default network's linear layers, faster on CPUs with AMX; the rest stays float32."""
    network: networks.Network | None = static(default=None)
    """Custom linen module, or a function of rngs that makes an nnx module, from obs to (policy outputs, values);
    None for the default."""

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.num_envs * self.num_steps, self.num_minibatches, self.num_epochs)
        policy_head(self.env.action_space, self.squash_actions)
        networks.check_core(self)
        if hasattr(_network(self), "initial_hidden_state") and self.num_envs % self.num_minibatches:
            raise UsageError(
                f"The sequences of {self.num_envs} environments do not divide into {self.num_minibatches} minibatches: "
                "change num_envs or num_minibatches."
            )

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class State(NamedTuple):
    """Training state of PPO: network parameters, optimiser state, environments and hidden state."""

    params: Any
    opt_state: optax.OptState
    collector: rollout.Collector
    hidden_state: tuple[Any, ...]  # (hidden state [N, ...],) of a recurrent network, else ()
    step: jax.Array  # [] int32, completed updates


def _network(config: Config) -> networks.Network:
    network = default_network(config.env, config) if config.network is None else config.network
    return networks.masked_policy(network, config.env)


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.build(config.optimizer or "adam", config.learning_rate, 1e-5, config.max_grad_norm)


def init(key: jax.Array, config: Config) -> State:
    """Initialise the parameters and reset the environments."""
    config, _ = core.scheduled(config)
    key_params, key_reset = jax.random.split(key)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    params, hidden_state = on_policy.init(key_params, _network(config), collector.obs, config.env)
    return State(params, _optimizer(config).init(params), collector, hidden_state, jnp.int32(0))


def act(state: State, config: Config, greedy: bool = True) -> Policy | RecurrentPolicy:
    """Return the greedy policy, the mode of the action distribution; or the stochastic one, which samples from it."""
    return on_policy.act(_network(config), state, config, greedy)


def loss(params: Any, batch: on_policy.Samples, config: Config) -> tuple[jax.Array, Metrics]:
    """Return the loss `L` of the module docstring over one minibatch, and its terms as metrics."""
    outputs, values, *_ = _network(config).apply(params, *batch.inputs)
    distribution = policy_head(config.env.action_space, config.squash_actions).distribution(outputs)
    advantages = on_policy.standardize(batch.advantage) if config.normalize_advantages else batch.advantage
    log_prob = distribution.log_prob(batch.action)
    log_ratio = log_prob - batch.log_prob
    policy_loss = losses.clipped_surrogate(log_ratio, advantages, config.clip).mean()
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
        "log_prob": log_prob.mean(),
        "approximate_kl": losses.approximate_kl(log_ratio).mean(),
        "clip_fraction": (jnp.abs(jnp.expm1(log_ratio)) > config.clip).mean(),
    }


def update(key: jax.Array, state: State, config: Config, loss: Loss = loss) -> tuple[State, Metrics]:
    """Collect one rollout and learn from it.

    Metrics are means over the minibatches evaluated, including the one at which target_kl stopped the update.
    """
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    key_noise, key_rollout, key_shuffle = jax.random.split(key, 3)
    collector, hidden_state, samples, collected = on_policy.collect(
        key_noise, key_rollout, _network(config), state, config
    )
    optimizer = _optimizer(config)

    def learn(carry: Any, indices: jax.Array) -> tuple[Any, tuple[Metrics, jax.Array]]:
        params, opt_state, stopped = carry
        minibatch = jax.tree.map(lambda x: x[indices], samples)
        new_params, new_opt_state, metrics, norm = core.gradient_step(
            loss, params, optimizer, opt_state, minibatch, config
        )
        if config.target_kl is not None:
            stopped = stopped | (metrics["approximate_kl"] > config.target_kl)
            new_params, new_opt_state = jax.tree.map(
                lambda old, new: jnp.where(stopped, old, new), (params, opt_state), (new_params, new_opt_state)
            )
        return (new_params, new_opt_state, stopped), ({**metrics, "gradient_norm": norm}, ~stopped)

    samples = sharding.replicate(samples)  # replicated once instead of per minibatch
    indices = core.minibatches(key_shuffle, len(samples.advantage), config.num_minibatches, config.num_epochs)
    start = (state.params, state.opt_state, jnp.bool_(False))
    (params, opt_state, _), (metrics, used) = jax.lax.scan(learn, start, indices)
    # The metrics include the minibatch that stopped the update: it shows why.
    measured = jnp.roll(used, 1).at[0].set(True)
    metrics = {name: jnp.sum(jnp.where(measured, rows, 0.0)) / measured.sum() for name, rows in metrics.items()}

    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **scheduled,
        **collected,
        **metrics,
    }
    return State(params, opt_state, collector, hidden_state, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
