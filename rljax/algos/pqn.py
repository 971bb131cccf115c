r"""Parallelised Q-network (Gallici et al. 2024): Q-learning on rollouts, without a replay buffer or target network.

Each update collects a rollout `[T, N]` epsilon-greedily, computes Q(lambda) returns backwards through it,

$$ G_t = r_t + \gamma [(1 - \lambda) \max_a Q(s_{t+1}, a) + \lambda G_{t+1}], $$

cut where an episode ends, and takes several epochs of minibatch steps down $\frac{1}{2} (Q(s_t, a_t) - G_t)^2$.
LayerNorm in the network keeps this stable.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, exploration, losses, networks, optimizers, returns, rollout, schedules, value_heads
from rljax.config import config, static, traced
from rljax.envs import Env, count
from rljax.envs.masks import where_legal
from rljax.schedules import Scheduled
from rljax.types import Loss, Metrics, Policy


def default_network(env: Env, config: "Config") -> networks.Network:
    """A Q-network from observations to action values `[..., A, 1]`, with LayerNorm."""
    return networks.QNetwork(
        space=env.observation_space,
        num_actions=count(env.action_space),
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        mixed_precision=config.mixed_precision,
        encoder=config.encoder,
        layer_norm=True,
    )


@config
class Config:
    """Hyperparameters of PQN: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on; actions must be discrete."""
    total_steps: int = static(default=500_000, minimum=1)
    """Environment steps of the whole run, rounded down to whole updates of num_envs * num_steps."""
    optimizer: str | optimizers.Optimizer | None = static(default=None)
    """Optimiser: None for RAdam; a name, such as adamw, sgd, lion or muon, for Optax's after clipping; or a
    function from the learning rate to an optax.GradientTransformation, used without clipping."""
    learning_rate: Scheduled = traced(default=schedules.linear(2.5e-4, 0), minimum=0)
    """The optimiser's step size, a number or a schedule."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    trace_decay: float = traced(default=0.95, minimum=0, maximum=1)
    """Trace decay of the returns (lambda); 0 gives one-step targets."""
    epsilon: Scheduled = traced(default=schedules.linear(1.0, 0.05, fraction=0.2), minimum=0, maximum=1)
    """Probability of a uniform action, a number or a schedule, such as per_episode(1.0, 0.05, 0.995)."""
    max_grad_norm: float = traced(default=10.0, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number disables clipping."""
    num_envs: int = static(default=32, minimum=1)
    """Parallel environments (N)."""
    num_steps: int = static(default=64, minimum=1)
    """Steps per environment in each update (T)."""
    num_epochs: int = static(default=4, minimum=1)
    """Epochs over each rollout."""
    num_minibatches: int = static(default=16, minimum=1)
    """Minibatches per epoch; must divide num_envs * num_steps."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps over which schedules run; None for total_steps."""
    hidden_sizes: tuple[int, ...] = static(default=(128, 128))
    """Widths of the default network's hidden layers after the encoder; may be empty."""
    activation: str = static(default="relu", choices=networks.ACTIVATIONS)
    """Nonlinearity of the default network."""
    encoder: str | networks.EncoderOf = static(default=networks.DEFAULT, choices=networks.ENCODERS)
    """Encoder of observations in the default network, by the name of its image encoder; or a function from the space
    to a linen module from observations to features, as networks.encoder(embedding=16) is."""
    mixed_precision: bool = static(default=False)
    """Multiply in bfloat16 in the default network's linear layers, faster on CPUs with AMX; the rest stays float32."""
    network: networks.Network | None = static(default=None)
    """Custom linen module, or a function of rngs that makes an nnx module, from obs to action values [..., A, 1];
    None for the default."""

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.steps_per_update, self.num_minibatches, self.num_epochs)
        networks.check_layers(self)
        count(self.env.action_space)

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class State(NamedTuple):
    """Training state of PQN: network parameters, optimiser state and environments."""

    params: Any
    opt_state: optax.OptState
    collector: rollout.Collector
    step: jax.Array  # [] int32, completed updates


def _network(config: Config) -> networks.Network:
    network = default_network(config.env, config) if config.network is None else config.network
    return networks.unmasked(network, config.env)


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.build(config.optimizer or "radam", config.learning_rate, max_grad_norm=config.max_grad_norm)


def init(key: jax.Array, config: Config) -> State:
    """Initialise the parameters and reset the environments."""
    config, _ = core.scheduled(config)
    key_params, key_reset = jax.random.split(key)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    params = networks.init(_network(config), key_params, collector.obs, (count(config.env.action_space), 1))
    return State(params, _optimizer(config).init(params), collector, jnp.int32(0))


def _values(params: Any, obs: Any, config: Config) -> jax.Array:
    """Action values `[..., A]`."""
    return _network(config).apply(params, obs)[..., 0]


def act(state: State, config: Config, greedy: bool = True) -> Policy:
    """Return the greedy policy; or the stochastic one, which explores with the current epsilon."""

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        values = _values(state.params, rollout.observe(state.collector, config.env, obs), config)
        if greedy:
            return exploration.greedy(values, obs, config.env)
        return exploration.sample_epsilon_greedy(key, values, core.current(state, config).epsilon, obs, config.env)

    return policy


class QSamples(NamedTuple):
    """Training samples of Q: the steps of a rollout with their lambda returns, `[B, ...]`."""

    obs: Any
    action: jax.Array
    target: jax.Array


def loss(params: Any, batch: QSamples, config: Config) -> tuple[jax.Array, Metrics]:
    """Return the loss of the module docstring over one minibatch, with metrics."""
    values = networks.of_action(_values(params, batch.obs, config), batch.action)
    total = losses.squared(values, batch.target).mean()
    error = jnp.abs(values - batch.target).mean()
    return total, {"loss": total, "td_error": error, **value_heads.value_metrics(values)}


def update(key: jax.Array, state: State, config: Config, loss: Loss = loss) -> tuple[State, Metrics]:
    """Collect one rollout and learn from it. Metrics are means over the minibatches, or extremes."""
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    key_rollout, key_shuffle = jax.random.split(key)
    collector, trajectory, episodes = exploration.epsilon_greedy_rollout(
        key_rollout,
        lambda _, obs: _values(state.params, obs, config),
        config.epsilon,
        state.collector,
        config.env,
        config.num_steps,
    )
    next_action_values = _values(state.params, trajectory.next_obs, config)
    next_values = jnp.max(where_legal(next_action_values, trajectory.next_obs), axis=-1)
    ends = (trajectory.terminated, trajectory.truncated)
    targets = returns.lambda_returns(trajectory.reward, next_values, *ends, config.discount, config.trace_decay)
    samples = QSamples(trajectory.obs, trajectory.action, targets)
    samples = jax.tree.map(lambda x: x.reshape(config.steps_per_update, *x.shape[2:]), samples)
    optimizer = _optimizer(config)

    def learn(carry: Any, indices: jax.Array) -> tuple[Any, Metrics]:
        minibatch = jax.tree.map(lambda x: x[indices], samples)
        *carry, metrics, norm = core.gradient_step(loss, carry[0], optimizer, carry[1], minibatch, config)
        return tuple(carry), {**metrics, "gradient_norm": norm}

    indices = core.minibatches(key_shuffle, config.steps_per_update, config.num_minibatches, config.num_epochs)
    (params, opt_state), metrics = jax.lax.scan(learn, (state.params, state.opt_state), indices)
    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **scheduled,
        **episodes,
        **core.over_steps(metrics),
    }
    return State(params, opt_state, collector, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
