r"""Deep Q-learning (Mnih et al. 2015) and what follows from it, each an independent choice that composes.

Each update collects T steps of N environments epsilon-greedily into a replay and then makes `gradient_steps` steps down
the mean over a batch of $w \, L(r + \gamma v', Q(s, a))$, in which with the target network's parameters $\theta^-$

$$ v' = Q_{\theta^-}(s', a^*), \qquad a^* = \arg\max_a Q_{\theta^-}(s', a)
   \quad\text{or, Double (van Hasselt et al. 2016),}\quad \arg\max_a Q_\theta(s', a). $$

`n_step` sums n rewards before $v'$ (Sutton 1988); `prioritized` draws batches by error, with importance weights w
(Schaul et al. 2016); `dueling` and `noisy` are networks (Wang et al. 2016, Fortunato et al. 2018); `head` makes Q and L
those of a distribution, C51 or QR-DQN (see `rljax.distributional`). All of them together are Rainbow (Hessel et al.
2018).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, exploration, networks, off_policy, optimizers, replay, rollout, schedules, value_heads
from rljax.config import config, static, traced
from rljax.envs import Env, count
from rljax.types import Metrics, Policy


def default_network(env: Env, config: "Config") -> networks.Network:
    """Observations to K outputs an action `[..., A, K]`."""
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
    )


@config
class Config:
    """What DQN and its variants are told: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to learn; actions must be discrete."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run, the prefill among them; at most so many, in whole updates."""
    learning_rate: float = traced(default=1e-3, minimum=0)
    """Adam's step size."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    num_envs: int = static(default=4, minimum=1)
    """Environments side by side (N)."""
    num_steps: int = static(default=4, minimum=1)
    """Steps of each environment per update (T)."""
    gradient_steps: int = static(default=4, minimum=1)
    """Gradient steps per update, so that any ratio to environment steps can be had."""
    batch_size: int = static(default=64, minimum=1)
    """Transitions per gradient step."""
    buffer_size: int = static(default=50_000, minimum=1)
    """Transitions that the replay holds."""
    prefill_steps: int = static(default=1_000, minimum=1)
    """Environment steps of uniform actions before the first update."""
    successor_slots: int | None = static(default=None, minimum=1)
    """True successors of truncated transitions that the replay holds; None for one in eight transitions."""
    target_period: int = traced(default=100, minimum=1)
    """Gradient steps between two moves of the target network."""
    target_rate: float = traced(default=1.0, minimum=0, maximum=1)
    """Part of the way that the target network moves: 1 copies; a small one with target_period 1 is Polyak averaging."""
    epsilon: float = traced(default=1.0, minimum=0, maximum=1)
    """Probability of a uniform action at first."""
    epsilon_end: float = traced(default=0.05, minimum=0, maximum=1)
    """Probability of a uniform action once the schedule has ended."""
    epsilon_fraction: float = traced(default=0.2, minimum=0, maximum=1)
    """Part of schedule_steps over which epsilon falls linearly."""
    huber_delta: float | None = traced(default=None, minimum=1e-6)
    """Error from which the loss is linear (kappa of QR-DQN); None for the squared loss (plain quantile regression)."""
    max_grad_norm: float = traced(default=10.0, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number for no clipping."""
    anneal_learning_rate: bool = static(default=False)
    """Let the step size fall linearly to zero."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps after which schedules have ended; None for total_steps."""
    averaging: float = traced(default=0.0, minimum=0, maximum=1)
    """Part of schedule_steps whose parameters `act` averages (after Polyak and Juditsky 1992); 0 for none."""
    double: bool = static(default=False)
    """Choose the successor's action by the online network (Double DQN)."""
    dueling: bool = static(default=False)
    """Network of a value and an advantage stream."""
    noisy: bool = static(default=False)
    """Network with noise on its last weights that is learned with them; lower epsilon to 0 beside it."""
    layer_norm: bool = static(default=False)
    """Network with LayerNorm after every linear layer but the last."""
    n_step: int = static(default=1, minimum=1)
    """Rewards summed before the successor's value."""
    prioritized: bool = static(default=False)
    """Draw batches in proportion to error ** priority_exponent."""
    priority_exponent: float = traced(default=0.6, minimum=0, maximum=1)
    """How much errors count in the draw (alpha): 0 for not at all."""
    importance_exponent: float = traced(default=0.4, minimum=0, maximum=1)
    """How much of the draw's bias the weights undo at first (beta); it rises linearly to 1."""
    head: str = static(default="expected")
    """What is learned of the return: expected, categorical (C51) or quantile (QR-DQN)."""
    num_atoms: int = static(default=51, minimum=2)
    """Atoms or quantiles of a distributional head (K)."""
    value_low: float | None = traced(default=None)
    """Lowest discounted return that the categorical head can tell: it needs one, and so the highest."""
    value_high: float | None = traced(default=None)
    """Highest discounted return that the categorical head can tell."""
    hidden_sizes: tuple[int, ...] = static(default=(128, 128))
    """Widths of the default network's hidden layers."""
    activation: str = static(default="relu")
    """Nonlinearity of the default network: tanh, relu, elu, gelu or silu."""
    mixed_precision: bool = static(default=False)
    """Let linear layers of the default network multiply bfloat16, faster on CPUs with AMX; all else stays float32."""
    network: networks.Network | None = static(default=None)
    """A module whose init and apply take the default network's place: obs to outputs [..., A, K]."""

    def __post_init__(self) -> None:
        networks.check_layers(self.hidden_sizes, self.activation, at_least=1)
        count(self.env.action_space)
        value_heads.check_value_head(self.head, self.value_low, self.value_high)
        off_policy.check_counts(self, self.n_step)

    steps_per_update = property(core.steps_per_update)
    num_updates = property(off_policy.num_updates)
    schedule_updates = property(off_policy.schedule_updates)


class State(NamedTuple):
    """What DQN carries from update to update: the network's parameters, their optimiser, replay, environments."""

    params: Any
    target_params: Any
    averaged_params: Any  # what `act` goes by
    opt_state: optax.OptState
    replay: replay.Replay
    collector: rollout.Collector
    step: jax.Array  # [] int32, updates done


def _network(config: Config) -> networks.Network:
    return default_network(config.env, config) if config.network is None else config.network


def _head(config: Config) -> value_heads.ValueHead:
    return value_heads.value_head(
        config.head, config.num_atoms, config.value_low, config.value_high, config.huber_delta
    )


def _optimizer(config: Config, step: jax.typing.ArrayLike) -> optax.GradientTransformation:
    return optimizers.adam(core.learning_rate(config, step), max_grad_norm=config.max_grad_norm)


def _apply(params: Any, obs: jax.Array, key: jax.Array, config: Config) -> jax.Array:
    """The network's outputs `[..., A, K]`, with noise drawn from `key` where it is noisy."""
    if config.noisy:
        return _network(config).apply(params, obs, rngs={"noise": key})  # type: ignore[call-arg]
    return _network(config).apply(params, obs)


def init(key: jax.Array, config: Config) -> State:
    """Fresh parameters, fresh environments, and a replay filled with `prefill_steps` uniform steps."""
    key_params, key_reset, key_prefill = jax.random.split(key, 3)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    collector, memory = off_policy.prefill(
        key_prefill, collector, config, config.n_step, config.prioritized, config.successor_slots
    )
    outputs = (count(config.env.action_space), _head(config).num_outputs)
    params = networks.init(_network(config), key_params, collector.obs, outputs)
    return State(params, params, params, _optimizer(config, 0).init(params), memory, collector, jnp.int32(0))


def act(state: State, config: Config) -> Policy:
    """The greedy policy, with noisy weights at their means."""

    def policy(key: jax.Array, obs: jax.Array) -> jax.Array:
        outputs = _network(config).apply(state.averaged_params, rollout.observe(state.collector, config.env, obs))
        return jnp.argmax(_head(config).values(outputs), axis=-1).astype(jnp.int32)

    return policy


def loss(
    params: Any, target_params: Any, batch: replay.Sample, key: jax.Array, config: Config
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
    """The loss of the module's docstring over one batch; the errors `[B]` that priorities go by, and metrics."""
    key_online, key_target, key_choice = jax.random.split(key, 3)
    head = _head(config)
    outputs = networks.of_action(_apply(params, batch.obs, key_online, config), batch.action)  # [B, K]
    next_outputs = _apply(target_params, batch.next_obs, key_target, config)
    chooser = _apply(params, batch.next_obs, key_choice, config) if config.double else next_outputs
    best = jnp.argmax(head.values(chooser), axis=-1)
    following = jax.lax.stop_gradient(networks.of_action(next_outputs, best))
    each, errors = head.loss(outputs, following, batch.reward, batch.discount)
    total = jnp.mean(batch.weight * each)
    return total, (errors, {"loss": total, "td_error": errors.mean(), "action_value": head.values(outputs).mean()})


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """Collect T steps and make the gradient steps. Metrics are means over the gradient steps."""
    key_collect, key_batches, key_noise = jax.random.split(key, 3)
    progress = core.progress(config, state.step)
    epsilon = schedules.value("linear", config.epsilon, config.epsilon_end, config.epsilon_fraction, progress)

    def values(key: jax.Array, obs: jax.Array) -> jax.Array:
        return _head(config).values(_apply(state.params, obs, key, config))

    collector, steps, episodes = exploration.epsilon_greedy_rollout(
        key_collect, values, epsilon, state.collector, config.env, config.num_steps, raw=True
    )
    memory = replay.add(state.replay, steps, config.n_step)
    optimizer = _optimizer(config, state.step)
    importance = config.importance_exponent + (1.0 - config.importance_exponent) * progress

    def learn(carry: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, Metrics]:
        params, target_params, opt_state, priorities = carry
        bits, key, number = inputs
        stored = memory._replace(priorities=priorities)
        batch = off_policy.sample(bits, stored, collector, config, config.n_step, importance)
        params, opt_state, (errors, metrics), norm = core.gradient_step(
            loss, params, optimizer, opt_state, target_params, batch, key, config
        )
        known = jnp.where(batch.weight > 0.0, errors, 0.0)  # the error of a lost successor means nothing
        priority = (known + 1e-6) ** config.priority_exponent
        priorities = replay.reprioritize(stored, batch.position, priority).priorities
        target_params = jax.lax.cond(
            number % config.target_period == 0,
            lambda new, old: optax.incremental_update(new, old, config.target_rate),
            lambda _, old: old,
            params,
            target_params,
        )
        metrics = {**metrics, "gradient_norm": norm, "lost_successors": jnp.mean(batch.weight == 0.0)}
        return (params, target_params, opt_state, priorities), metrics

    start = (state.params, state.target_params, state.opt_state, memory.priorities)
    noise = jax.random.split(key_noise, config.gradient_steps)
    end, metrics = off_policy.gradient_steps(key_batches, learn, start, noise, state.step, config)
    params, target_params, opt_state, priorities = end
    step = state.step + 1
    window = jnp.clip(config.averaging * config.schedule_updates, 1.0, step)  # updates; a plain mean until it is full
    averaged_params = optax.incremental_update(params, state.averaged_params, 1.0 / window)
    metrics = {
        "env_steps": off_policy.env_steps(config, step),
        **episodes,
        **{name: rows.mean() for name, rows in metrics.items()},
        "epsilon": epsilon,
    }
    memory = memory._replace(priorities=priorities)
    return State(params, target_params, averaged_params, opt_state, memory, collector, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """A whole run, a pure function: `jit` it, `vmap` it over keys and over any traced field of `config`."""
    return core.train(init, update, key, config)
