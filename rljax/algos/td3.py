r"""Twin delayed DDPG (TD3, Fujimoto et al. 2018, algorithm 1), with DDPG (Lillicrap et al. 2016) as a special case.

Each update collects T steps of N environments with a deterministic policy $\mu$ and exploration noise into a replay
buffer and then takes `gradient_steps` steps of the critics $Q_i$ down the batch mean of

$$ L_Q = \sum_i \tfrac{1}{2} (Q_i(s, a) - r - \gamma \min_j \bar{Q}_j(s', \tilde{a}))^2, \qquad
   \tilde{a} = \mathrm{clip}(\bar{\mu}(s') + \mathrm{clip}(\sigma \epsilon, \pm c), \pm 1), \quad \epsilon \sim N(0, 1).
$$

After every `actor_period`-th of them the policy takes a step down $L_\mu = -Q_1(s, \mu(s))$, and the targets
$\bar{Q}$ and $\bar{\mu}$ move towards Q and $\mu$. DDPG has one critic, no smoothing noise and a period of one. The
policy ends in a tanh; actions and noise are in units in which every dimension spans [-1, 1].
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, exploration, networks, off_policy, optimizers, replay, returns, rollout
from rljax.config import config, static, traced
from rljax.envs import Env, bounded_box
from rljax.schedules import Scheduled
from rljax.types import Loss, Metrics, Policy, RecurrentPolicy


def default_network(env: Env, config: "Config") -> networks.ActorAndCritics:
    """An actor of actions `[..., D]` before the tanh, and critics of observations and actions, `[..., C]`."""
    size = math.prod(env.action_space.shape)
    return networks.actor_and_critics(
        env, size, config.num_critics, config.hidden_sizes, config.activation, config.mixed_precision, config.encoder
    )


@config
class Config:
    """Hyperparameters of TD3 and DDPG: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on; actions must be continuous and bounded in every dimension."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run, including the prefill, rounded down to whole updates."""
    optimizer: str | optimizers.Optimizer | None = static(default=None)
    """Optimiser: None for Adam; a name, such as adamw, sgd, lion or muon, for Optax's; or a
    function from the learning rate to an optax.GradientTransformation, used as it is."""
    learning_rate: Scheduled = traced(default=1e-3, minimum=0)
    """The optimiser's step size for the actor and the critics, a number or a schedule."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    num_envs: int = static(default=1, minimum=1)
    """Parallel environments (N)."""
    num_steps: int = static(default=1, minimum=1)
    """Steps per environment in each update (T)."""
    gradient_steps: int = static(default=1, minimum=1)
    """Gradient steps per update."""
    batch_size: int = static(default=256, minimum=1)
    """Transitions per gradient step."""
    buffer_size: int = static(default=100_000, minimum=1)
    """Capacity of the replay buffer in transitions."""
    prefill_steps: int = static(default=1_000, minimum=1)
    """Environment steps with uniform actions before the first update."""
    successor_slots: int | None = static(default=None, minimum=1)
    """Capacity for true next observations of truncated transitions; None for an eighth of buffer_size."""
    target_rate: float = traced(default=0.005, minimum=0, maximum=1)
    """Step size of target updates, after each actor step (tau)."""
    actor_period: int = traced(default=2, minimum=1)
    """Critic gradient steps per actor gradient step."""
    smoothing_std: float = traced(default=0.2, minimum=0)
    """Standard deviation of the smoothing noise on target actions; 0 for none (sigma)."""
    smoothing_clip: float = traced(default=0.5, minimum=0)
    """Bound on the smoothing noise (c)."""
    noise_std: Scheduled = traced(default=0.1, minimum=0)
    """Stationary standard deviation of the exploration noise, a number or a schedule."""
    noise_reversion: float = traced(default=1.0, minimum=0, maximum=1)
    """Mean reversion of the exploration noise (theta): 1 for Gaussian noise, less for Ornstein-Uhlenbeck noise."""
    num_critics: int = static(default=2, minimum=1)
    """Number of critics (C); their minimum is used."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps over which schedules run; None for total_steps."""
    hidden_sizes: tuple[int, ...] = static(default=(64, 64))
    """Widths of the default networks' hidden layers."""
    activation: str = static(default="relu", choices=networks.ACTIVATIONS)
    """Nonlinearity of the default networks."""
    encoder: str | networks.EncoderOf = static(default=networks.DEFAULT, choices=networks.ENCODERS)
    """Encoder of observations in the default networks, by the name of its image encoder; or a function from the space
    to a linen module from observations to features, as networks.encoder(embedding=16) is."""
    mixed_precision: bool = static(default=False)
    """Multiply in bfloat16 in the default networks' linear layers, faster on CPUs with AMX; the rest stays float32."""
    network: networks.ActorAndCritics | None = static(default=None)
    """Custom networks.ActorAndCritics; None for the default networks."""

    def __post_init__(self) -> None:
        networks.check_layers(self)
        bounded_box(self.env.action_space)
        off_policy.check_counts(self)

    steps_per_update = property(core.steps_per_update)
    num_updates = property(off_policy.num_updates)
    schedule_updates = property(off_policy.schedule_updates)


class Pair(NamedTuple):
    """Parameters, or optimiser states, of the actor and the critics."""

    actor: Any
    critics: Any


class State(NamedTuple):
    """Training state of TD3: parameters, optimiser states, replay buffer, environments and noise."""

    params: Pair
    target_params: Pair
    opt_state: Pair
    replay: replay.Replay
    collector: rollout.Collector
    noise: jax.Array  # [N, D] exploration noise of the last step; zero at the start of an episode
    step: jax.Array  # [] int32, completed updates


def _network(config: Config) -> networks.ActorAndCritics:
    return default_network(config.env, config) if config.network is None else config.network


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.build(config.optimizer or "adam", config.learning_rate)


def init(key: jax.Array, config: Config) -> State:
    """Initialise the parameters, reset the environments and prefill the replay buffer."""
    config, _ = core.scheduled(config)
    key_actor, key_critics, key_reset, key_prefill = jax.random.split(key, 4)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    collector, buffer = off_policy.prefill(key_prefill, collector, config, successor_slots=config.successor_slots)
    actor, critics = _network(config)
    obs, action = collector.obs, buffer.action[0]
    params = Pair(
        networks.init(actor, key_actor, obs, action.shape[1:]),
        networks.init(critics, key_critics, obs, (config.num_critics,), extra_inputs=(action,)),
    )
    optimizer = _optimizer(config)
    opt_state = Pair(optimizer.init(params.actor), optimizer.init(params.critics))
    return State(params, params, opt_state, buffer, collector, jnp.zeros_like(action), jnp.int32(0))


def _actions(actor: Any, obs: jax.Array, config: Config) -> jax.Array:
    """The policy's actions `[..., D]` in [-1, 1]."""
    return jnp.tanh(_network(config).actor.apply(actor, obs))


def act(state: State, config: Config, greedy: bool = True) -> Policy | RecurrentPolicy:
    """Return the policy without exploration noise; or the stochastic one, with the noise of training.

    The stochastic policy's hidden state is the noise of the last step, zero at the start of an episode.
    """
    space = bounded_box(config.env.action_space)

    def actions(obs: jax.Array) -> jax.Array:
        return _actions(state.params.actor, rollout.observe(state.collector, config.env, obs), config)

    def explore(key: jax.Array, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        current = core.current(state, config)
        normal = jax.random.normal(key, noise.shape)
        noise = exploration.correlated_noise(noise, normal, current.noise_std, current.noise_reversion)
        return space.from_unit_vector(jnp.clip(actions(obs) + noise, -1.0, 1.0)), noise

    if greedy:
        return lambda key, obs: space.from_unit_vector(actions(obs))
    return RecurrentPolicy(lambda num_envs: jnp.zeros((num_envs, *state.noise.shape[-1:])), explore)


def loss(
    critics: Any, target_params: Pair, batch: replay.Sample, normal: jax.Array, config: Config
) -> tuple[jax.Array, Metrics]:
    """Return the critic loss `L_Q` of the module docstring over one batch, with `normal` `[B, D]`, and metrics."""
    action = _actions(target_params.actor, batch.next_obs, config)
    smoothing = config.smoothing_std * normal
    action = jnp.clip(action + jnp.clip(smoothing, -config.smoothing_clip, config.smoothing_clip), -1.0, 1.0)
    next_values = _network(config).critics.apply(target_params.critics, batch.next_obs, action).min(axis=-1)
    values = _network(config).critics.apply(critics, batch.obs, batch.action)
    targets = returns.one_step(batch.reward, batch.discount, next_values)
    return off_policy.critic_loss(values, targets, batch.weight)


def actor_loss(actor: Any, critics: Any, obs: jax.Array, config: Config) -> tuple[jax.Array, tuple[()]]:
    r"""Return the policy loss $L_\mu$ of the module docstring over one batch of observations."""
    return -_network(config).critics.apply(critics, obs, _actions(actor, obs, config))[..., 0].mean(), ()


def _collect(
    key: jax.Array, state: State, config: Config
) -> tuple[rollout.Collector, jax.Array, rollout.Trajectory, Metrics]:
    """Play T steps with exploration noise; return raw transitions and the last noise."""
    key_noise, key_rollout = jax.random.split(key)
    space = bounded_box(config.env.action_space)

    def policy(noise: jax.Array, normal: jax.Array, obs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        noise = exploration.correlated_noise(noise, normal, config.noise_std, config.noise_reversion)
        action = jnp.clip(_actions(state.params.actor, obs, config) + noise, -1.0, 1.0)
        return space.from_unit_vector(action), (action, noise)

    def carry_over(_: jax.Array, normal: jax.Array, step: rollout.Trajectory) -> tuple[jax.Array, rollout.Trajectory]:
        action, noise = step.action
        ended = step.terminated | step.truncated
        return jnp.where(ended[:, None], 0.0, noise), step._replace(action=action)

    normal = jax.random.normal(key_noise, (config.num_steps, *state.noise.shape))
    return rollout.interact(
        key_rollout, policy, carry_over, state.noise, normal, state.collector, config.env, config.num_steps
    )


def update(
    key: jax.Array, state: State, config: Config, loss: Loss = loss, actor_loss: Loss = actor_loss
) -> tuple[State, Metrics]:
    """Collect T steps and take the gradient steps. Metrics are means over the gradient steps, or extremes."""
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    key_collect, key_batches, key_smoothing = jax.random.split(key, 3)
    collector, noise, steps, episodes = _collect(key_collect, state, config)
    buffer = replay.add(state.replay, steps, num_frames=config.env.num_frames)
    optimizer = _optimizer(config)

    def learn(carry: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, Metrics]:
        params, target_params, opt_state = carry
        bits, normal, number = inputs
        batch = off_policy.sample(bits, buffer, collector, config)
        critics, critics_opt_state, metrics, norm = core.gradient_step(
            loss, params.critics, optimizer, opt_state.critics, target_params, batch, normal, config
        )

        def actor_step(actor: Any, actor_opt_state: Any, target_params: Pair) -> tuple[Pair, Pair, Any, jax.Array]:
            actor, actor_opt_state, _, norm = core.gradient_step(
                actor_loss, actor, optimizer, actor_opt_state, critics, batch.obs, config
            )
            new_params = Pair(actor, critics)
            target_params = optax.incremental_update(new_params, target_params, config.target_rate)
            return new_params, target_params, actor_opt_state, norm

        params, target_params, actor_opt_state, actor_norm = jax.lax.cond(
            number % config.actor_period == 0,
            actor_step,
            lambda actor, opt_state, target_params: (Pair(actor, critics), target_params, opt_state, jnp.float32(0.0)),
            params.actor,
            opt_state.actor,
            target_params,
        )
        metrics |= {"gradient_norm": norm, "actor_gradient_norm_max": actor_norm}
        metrics |= {"lost_successors": jnp.mean(batch.weight == 0.0)}
        return (params, target_params, Pair(actor_opt_state, critics_opt_state)), metrics

    start = (state.params, state.target_params, state.opt_state)
    normals = jax.random.normal(key_smoothing, (config.gradient_steps, config.batch_size, state.noise.shape[-1]))
    end, metrics = off_policy.gradient_steps(key_batches, learn, start, normals, state.step, config)
    params, target_params, opt_state = end

    step = state.step + 1
    metrics = {
        "env_steps": off_policy.env_steps(config, step),
        **scheduled,
        **episodes,
        **core.over_steps(metrics),
    }
    return State(params, target_params, opt_state, buffer, collector, noise, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
