r"""Deep Q-learning (Mnih et al. 2015, algorithm 1) and its extensions, which can be combined freely.

Each update collects T steps of N environments epsilon-greedily into a replay buffer and then takes `gradient_steps`
steps down the batch mean of $w \, L(r + \gamma v', Q(s, a))$, where, with the target network's parameters $\theta^-$,

$$ v' = Q_{\theta^-}(s', a^*), \qquad a^* = \arg\max_a Q_{\theta^-}(s', a)
   \quad\text{or, Double (van Hasselt et al. 2016),}\quad \arg\max_a Q_\theta(s', a). $$

`n_step` sums n rewards before $v'$ (Sutton 1988); `prioritized` samples by error, with importance weights w (Schaul et
al. 2016); `dueling` and `noisy` change the network (Wang et al. 2016, Fortunato et al. 2018); `head` learns a return
distribution, C51 or QR-DQN (see `rljax.value_heads`). Rainbow combines all of them (Hessel et al. 2018).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, exploration, networks, off_policy, optimizers, replay, rollout, schedules, value_heads
from rljax.config import config, static, traced
from rljax.envs import Env, count
from rljax.envs.masks import where_legal
from rljax.schedules import Scheduled
from rljax.types import Loss, Metrics, Policy


def default_network(env: Env, config: "Config") -> networks.Network:
    """A Q-network from observations to K outputs per action, `[..., A, K]`."""
    return networks.QNetwork(
        space=env.observation_space,
        num_actions=count(env.action_space),
        num_outputs=_head(config).num_outputs,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        dueling=config.dueling,
        noisy=config.noisy,
        layer_norm=config.layer_norm,
        mixed_precision=config.mixed_precision,
        encoder=config.encoder,
    )


@config
class Config:
    """Hyperparameters of DQN and its variants: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on; actions must be discrete."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run, including the prefill, rounded down to whole updates."""
    optimizer: str | optimizers.Optimizer | None = static(default=None)
    """Optimiser: None for Adam; a name, such as adamw, sgd, lion or muon, for Optax's after clipping; or a
    function from the learning rate to an optax.GradientTransformation, used without clipping."""
    learning_rate: Scheduled = traced(default=1e-3, minimum=0)
    """The optimiser's step size, a number or a schedule."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    num_envs: int = static(default=4, minimum=1)
    """Parallel environments (N)."""
    num_steps: int = static(default=4, minimum=1)
    """Steps per environment in each update (T)."""
    gradient_steps: int = static(default=4, minimum=1)
    """Gradient steps per update."""
    batch_size: int = static(default=64, minimum=1)
    """Transitions per gradient step."""
    buffer_size: int = static(default=50_000, minimum=1)
    """Capacity of the replay buffer in transitions."""
    prefill_steps: int = static(default=1_000, minimum=1)
    """Environment steps with uniform actions before the first update."""
    successor_slots: int | None = static(default=None, minimum=1)
    """Capacity for true next observations of truncated transitions; None for an eighth of buffer_size."""
    target_period: int = traced(default=100, minimum=1)
    """Gradient steps between updates of the target network."""
    target_rate: float = traced(default=1.0, minimum=0, maximum=1)
    """Step size of target updates: 1 copies the network; a small one with target_period 1 is Polyak averaging."""
    epsilon: Scheduled = traced(default=schedules.linear(1.0, 0.05, fraction=0.2), minimum=0, maximum=1)
    """Probability of a uniform action, a number or a schedule, such as per_episode(1.0, 0.05, 0.995)."""
    huber_delta: float | None = traced(default=None, minimum=1e-6)
    """Error above which the loss is linear (kappa of QR-DQN); None for a squared loss (plain quantile regression)."""
    max_grad_norm: float = traced(default=10.0, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number disables clipping."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps over which schedules run; None for total_steps."""
    averaging: float = traced(default=0.0, minimum=0, maximum=1)
    """Fraction of schedule_steps over which `act` averages parameters (Polyak and Juditsky 1992); 0 for none."""
    double: bool = static(default=False)
    """Select the next action with the online network (Double DQN)."""
    dueling: bool = static(default=False)
    """Use separate value and advantage streams (dueling network)."""
    noisy: bool = static(default=False)
    """Explore by learned noise on the last layers' weights (NoisyNet); set epsilon to 0."""
    layer_norm: bool = static(default=False)
    """Apply LayerNorm after every linear layer except the last."""
    n_step: int = static(default=1, minimum=1)
    """Rewards summed before bootstrapping (n)."""
    prioritized: bool = static(default=False)
    """Sample transitions in proportion to error ** priority_exponent."""
    priority_exponent: Scheduled = traced(default=0.6, minimum=0, maximum=1)
    """Exponent of the priorities (alpha), a number or a schedule; 0 samples uniformly."""
    importance_exponent: Scheduled = traced(default=schedules.linear(0.4, 1.0), minimum=0, maximum=1)
    """Exponent of the importance weights (beta), a number or a schedule; 1 removes the sampling bias."""
    head: str = static(default="expected", choices=value_heads.HEADS)
    """Value head: expected, categorical (C51) or quantile (QR-DQN)."""
    num_atoms: int = static(default=51, minimum=2)
    """Atoms or quantiles of a distributional head (K)."""
    value_low: float | None = traced(default=None)
    """Lowest discounted return of the categorical head's support; required for that head."""
    value_high: float | None = traced(default=None)
    """Highest discounted return of the categorical head's support; required for that head."""
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
    """Custom linen module, or a function of rngs that makes an nnx module, from obs to outputs [..., A, K];
    None for the default."""

    def __post_init__(self) -> None:
        networks.check_layers(self)
        count(self.env.action_space)
        value_heads.check_value_head(self.head, self.value_low, self.value_high)
        off_policy.check_counts(self, self.n_step)

    steps_per_update = property(core.steps_per_update)
    num_updates = property(off_policy.num_updates)
    schedule_updates = property(off_policy.schedule_updates)


class State(NamedTuple):
    """Training state of DQN: network parameters, optimiser state, replay buffer and environments."""

    params: Any
    target_params: Any
    averaged_params: Any  # used by `act`
    opt_state: optax.OptState
    replay: replay.Replay
    collector: rollout.Collector
    step: jax.Array  # [] int32, completed updates


def _network(config: Config) -> networks.Network:
    network = default_network(config.env, config) if config.network is None else config.network
    return networks.unmasked(network, config.env)


def _head(config: Config) -> value_heads.ValueHead:
    return value_heads.value_head(
        config.head, config.num_atoms, config.value_low, config.value_high, config.huber_delta
    )


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.build(config.optimizer or "adam", config.learning_rate, max_grad_norm=config.max_grad_norm)


def init(key: jax.Array, config: Config) -> State:
    """Initialise the parameters, reset the environments and prefill the replay buffer."""
    config, _ = core.scheduled(config)
    key_params, key_reset, key_prefill = jax.random.split(key, 3)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    collector, buffer = off_policy.prefill(
        key_prefill, collector, config, config.n_step, config.prioritized, config.successor_slots
    )
    output_shape = (count(config.env.action_space), _head(config).num_outputs)
    params = networks.init(_network(config), key_params, collector.obs, output_shape)
    return State(params, params, params, _optimizer(config).init(params), buffer, collector, jnp.int32(0))


def act(state: State, config: Config, greedy: bool = True) -> Policy:
    """Return the greedy policy of the averaged parameters, with noisy weights at their means; or the stochastic one.

    The stochastic policy explores as in training: with the newest parameters, the current epsilon, and noise if noisy.
    """

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        obs = rollout.observe(state.collector, config.env, obs)
        if greedy:
            values = _head(config).values(_network(config).apply(state.averaged_params, obs))
            return exploration.greedy(values, obs, config.env)
        key_noise, key_action = jax.random.split(key)
        values = _head(config).values(_apply(state.params, obs, key_noise, config))
        epsilon = core.current(state, config).epsilon
        return exploration.sample_epsilon_greedy(key_action, values, epsilon, obs, config.env)

    return policy


def _apply(params: Any, obs: Any, key: jax.Array, config: Config) -> jax.Array:
    """The network's outputs `[..., A, K]`; if noisy, the noise is drawn from `key`."""
    if config.noisy:
        return _network(config).apply(params, obs, rngs={"noise": key})  # type: ignore[call-arg]
    return _network(config).apply(params, obs)


def loss(
    params: Any, target_params: Any, batch: replay.Sample, key: jax.Array, config: Config
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
    """Return the loss of the module docstring over one batch, the errors `[B]` for priorities, and metrics."""
    key_online, key_target, key_choice = jax.random.split(key, 3)
    head = _head(config)
    outputs = networks.of_action(_apply(params, batch.obs, key_online, config), batch.action)  # [B, K]
    next_outputs = _apply(target_params, batch.next_obs, key_target, config)
    selection_outputs = _apply(params, batch.next_obs, key_choice, config) if config.double else next_outputs
    best = jnp.argmax(where_legal(head.values(selection_outputs), batch.next_obs), axis=-1)
    best_outputs = jax.lax.stop_gradient(networks.of_action(next_outputs, best))
    sample_losses, errors = head.loss(outputs, best_outputs, batch.reward, batch.discount)
    total = jnp.mean(batch.weight * sample_losses)
    metrics = {"loss": total, "td_error": errors.mean(), **value_heads.value_metrics(head.values(outputs))}
    return total, (errors, metrics)


def update(key: jax.Array, state: State, config: Config, loss: Loss = loss) -> tuple[State, Metrics]:
    """Collect T steps and take the gradient steps. Metrics are means over the gradient steps, or extremes."""
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    key_collect, key_batches, key_noise = jax.random.split(key, 3)

    def values(key: jax.Array, obs: Any) -> jax.Array:
        return _head(config).values(_apply(state.params, obs, key, config))

    collector, steps, episodes = exploration.epsilon_greedy_rollout(
        key_collect, values, config.epsilon, state.collector, config.env, config.num_steps, raw=True
    )
    buffer = replay.add(state.replay, steps, config.n_step, config.env.num_frames)
    optimizer = _optimizer(config)

    def learn(carry: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, Metrics]:
        params, target_params, opt_state, priorities = carry
        bits, key, number = inputs
        prioritized = buffer._replace(priorities=priorities)
        batch = off_policy.sample(bits, prioritized, collector, config, config.n_step, config.importance_exponent)
        params, opt_state, (errors, metrics), norm = core.gradient_step(
            loss, params, optimizer, opt_state, target_params, batch, key, config
        )
        errors = jnp.where(batch.weight > 0.0, errors, 0.0)  # lost successors have no valid error
        priority = (errors + 1e-6) ** config.priority_exponent
        priorities = replay.reprioritize(prioritized, batch.position, priority).priorities
        target_params = jax.lax.cond(
            number % config.target_period == 0,
            lambda new, old: optax.incremental_update(new, old, config.target_rate),
            lambda _, old: old,
            params,
            target_params,
        )
        metrics = {**metrics, "gradient_norm": norm, "lost_successors": jnp.mean(batch.weight == 0.0)}
        return (params, target_params, opt_state, priorities), metrics

    start = (state.params, state.target_params, state.opt_state, buffer.priorities)
    noise = jax.random.split(key_noise, config.gradient_steps)
    end, metrics = off_policy.gradient_steps(key_batches, learn, start, noise, state.step, config)
    params, target_params, opt_state, priorities = end
    step = state.step + 1
    window = jnp.float32(config.averaging * float(config.schedule_updates))
    window = jnp.clip(window, 1.0, step)  # updates; a plain mean until it is full
    averaged_params = optax.incremental_update(params, state.averaged_params, 1.0 / window)
    metrics = {
        "env_steps": off_policy.env_steps(config, step),
        **scheduled,
        **episodes,
        **core.over_steps(metrics),
    }
    buffer = buffer._replace(priorities=priorities)
    return State(params, target_params, averaged_params, opt_state, buffer, collector, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
