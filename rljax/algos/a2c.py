r"""Advantage actor-critic (Mnih et al. 2016, algorithm S3) with batched environments instead of asynchronous workers.

Each update collects a rollout `[T, N]` with the current policy, estimates advantages $A_t$ by GAE (Schulman et al.
2016), and takes one gradient step down

$$ L = E_t[-A_t \log \pi(a_t | s_t) + c_v \tfrac{1}{2} (v(s_t) - G_t)^2 - c_e H(\pi(\cdot | s_t))],
   \qquad G_t = A_t + v_{old}(s_t). $$

With $\lambda = 1$ the advantages are the paper's,
$A_t = \sum_{k=0}^{n-1} \gamma^k r_{t+k} + \gamma^n v(s_{t+n}) - v(s_t)$, where n is the number of steps from t to the
end of the rollout or episode, and $v(s_{t+n})$ is zero after a termination.

With `recurrent` the network has a hidden state, as in the paper; see `rljax.ppo`.
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
    """Hyperparameters of A2C: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on."""
    total_steps: int = static(default=500_000, minimum=1)
    """Environment steps of the whole run, rounded down to whole updates of num_envs * num_steps."""
    optimizer: str | optimizers.Optimizer | None = static(default=None)
    """Optimiser: None for RMSProp; a name, such as adamw, sgd, lion or muon, for Optax's after clipping; or a
    function from the learning rate to an optax.GradientTransformation, used without clipping."""
    learning_rate: Scheduled = traced(default=schedules.linear(7e-4, 0), minimum=0)
    """The optimiser's step size, a number or a schedule."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    gae_lambda: float = traced(default=1.0, minimum=0, maximum=1)
    """Decay of GAE's trace (lambda); 1 gives n-step advantages, with n up to num_steps."""
    entropy_coefficient: Scheduled = traced(default=0.01, minimum=0)
    """Weight of the entropy bonus (c_e), a number or a schedule."""
    value_coefficient: float = traced(default=0.5, minimum=0)
    """Weight of the value loss (c_v)."""
    max_grad_norm: float = traced(default=0.5, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number disables clipping."""
    num_envs: int = static(default=8, minimum=1)
    """Parallel environments (N)."""
    num_steps: int = static(default=5, minimum=1)
    """Steps per environment in each update (T)."""
    normalize_advantages: bool = static(default=False)
    """Standardize the advantages of each rollout."""
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
        core.check_counts(self.total_steps, self.num_envs * self.num_steps)
        policy_head(self.env.action_space, self.squash_actions)
        networks.check_core(self)

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class State(NamedTuple):
    """Training state of A2C: network parameters, optimiser state, environments and hidden state."""

    params: Any
    opt_state: optax.OptState
    collector: rollout.Collector
    hidden_state: tuple[Any, ...]  # (hidden state [N, ...],) of a recurrent network, else ()
    step: jax.Array  # [] int32, completed updates


def _network(config: Config) -> networks.Network:
    network = default_network(config.env, config) if config.network is None else config.network
    return networks.masked_policy(network, config.env)


def _optimizer(config: Config) -> optax.GradientTransformation:
    if config.optimizer is None:
        return optimizers.clipped(config.max_grad_norm, optax.rmsprop(config.learning_rate, decay=0.99, eps=1e-5))
    return optimizers.build(config.optimizer, config.learning_rate, 1e-5, config.max_grad_norm)


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
    """Return the loss `L` of the module docstring over a rollout, and its terms as metrics."""
    outputs, values, *_ = _network(config).apply(params, *batch.inputs)
    distribution = policy_head(config.env.action_space, config.squash_actions).distribution(outputs)
    advantages = on_policy.standardize(batch.advantage) if config.normalize_advantages else batch.advantage
    log_prob = distribution.log_prob(batch.action)
    policy_loss = losses.policy_gradient(log_prob, advantages).mean()
    value_loss = losses.squared(values, batch.target).mean()
    entropy = distribution.entropy().mean()
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "log_prob": log_prob.mean()}
    return total, {"loss": total, **metrics}


def update(key: jax.Array, state: State, config: Config, loss: Loss = loss) -> tuple[State, Metrics]:
    """Collect one rollout and take one gradient step."""
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    key_noise, key_rollout = jax.random.split(key)
    collector, hidden_state, samples, collected = on_policy.collect(
        key_noise, key_rollout, _network(config), state, config
    )
    optimizer = _optimizer(config)
    params, opt_state, metrics, norm = core.gradient_step(
        loss, state.params, optimizer, state.opt_state, sharding.shard_batch(samples), config
    )
    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **scheduled,
        **collected,
        **metrics,
        "gradient_norm": norm,
    }
    return State(params, opt_state, collector, hidden_state, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
