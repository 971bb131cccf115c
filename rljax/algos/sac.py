r"""Soft actor-critic (Haarnoja et al. 2018), for continuous and discrete (Christodoulou 2019) actions.

Each update collects T steps of N environments with the current policy into a replay buffer and then takes
`gradient_steps` steps down the batch mean of $L_Q + L_\pi + L_\alpha$. Each loss trains only one set of parameters: the
critics $Q_i$, the policy $\pi$ or the temperature $\alpha$. With $\bar{V}$ the V of slowly updated target critics,

$$ V(s) = E_{a \sim \pi}[\min_i Q_i(s, a) - \alpha \log \pi(a | s)], \qquad L_\pi = -V(s), \\
   L_Q = \sum_i \tfrac{1}{2} (Q_i(s, a) - r - \gamma \bar{V}(s'))^2, \qquad
   L_\alpha = \alpha (H(\pi(\cdot | s)) - \bar{H}) $$

("Soft actor-critic algorithms and applications", equations 3, 5, 7 and 18). For discrete actions the expectation in V
and the entropy H are exact. For continuous actions they are estimated from one sample, the tanh of a Gaussian, through
which the gradient flows; log-densities, H and its target $\bar{H}$ are those of actions rescaled to [-1, 1] in every
dimension.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, networks, off_policy, optimizers, replay, returns, rollout
from rljax.config import config, static, traced
from rljax.distributions import squashed_head
from rljax.envs import Box, Env, Masked, MultiDiscrete, num_joint_actions
from rljax.schedules import Scheduled
from rljax.types import Loss, Metrics, Policy


def default_network(env: Env, config: "Config") -> networks.ActorAndCritics:
    """An actor, and critics of the given action, `[..., C]`, or of all discrete actions, `[..., A, C]`.

    Several discrete actions are valued jointly: A is the number of their combinations.
    """
    num_outputs = squashed_head(env.action_space).num_outputs
    return networks.actor_and_critics(
        env,
        num_outputs,
        config.num_critics,
        config.hidden_sizes,
        config.activation,
        config.mixed_precision,
        config.encoder,
    )


@config
class Config:
    """Hyperparameters of SAC: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on; actions must be discrete, or bounded in every dimension."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run, including the prefill, rounded down to whole updates."""
    optimizer: str | optimizers.Optimizer | None = static(default=None)
    """Optimiser: None for Adam; a name, such as adamw, sgd, lion or muon, for Optax's; or a
    function from the learning rate to an optax.GradientTransformation, used as it is."""
    learning_rate: Scheduled = traced(default=1e-3, minimum=0)
    """The optimiser's step size for all parameters, a number or a schedule."""
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
    """Step size of target updates, at every gradient step (tau)."""
    temperature: float = traced(default=1.0, minimum=1e-6)
    """Weight of the entropy (alpha); the initial one if it is tuned."""
    tune_temperature: bool = static(default=True)
    """Tune the temperature so that the policy's entropy approaches target_entropy."""
    target_entropy: float | None = traced(default=None)
    """Target entropy in nats; None for -1 per dimension, or target_entropy_fraction * log A for A legal actions."""
    target_entropy_fraction: float = traced(default=0.5, minimum=0, maximum=1)
    """Fraction of the maximum entropy of discrete actions that target_entropy defaults to."""
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
        squashed_head(self.env.action_space)
        off_policy.check_counts(self)

    steps_per_update = property(core.steps_per_update)
    num_updates = property(off_policy.num_updates)
    schedule_updates = property(off_policy.schedule_updates)


class Params(NamedTuple):
    """Learned parameters of SAC."""

    actor: Any
    critics: Any
    log_temperature: jax.Array  # []


class State(NamedTuple):
    """Training state of SAC: parameters, optimiser state, replay buffer and environments."""

    params: Params
    target_params: Any  # of the critics
    opt_state: optax.OptState
    replay: replay.Replay
    collector: rollout.Collector
    step: jax.Array  # [] int32, completed updates


def _network(config: Config) -> networks.ActorAndCritics:
    network = default_network(config.env, config) if config.network is None else config.network
    if config.env.legal_actions is None:
        return network
    actor = networks.masked_policy(network.actor, config.env)
    return networks.ActorAndCritics(actor, networks.unmasked(network.critics, config.env))


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
    space, head = config.env.action_space, squashed_head(config.env.action_space)
    per_action, action_input = ((), (action,)) if isinstance(space, Box) else ((num_joint_actions(space),), ())
    params = Params(
        actor=networks.init(actor, key_actor, obs, (head.num_outputs,)),
        critics=networks.init(critics, key_critics, obs, (*per_action, config.num_critics), extra_inputs=action_input),
        log_temperature=jnp.log(jnp.float32(config.temperature)),
    )
    return State(params, params.critics, _optimizer(config).init(params), buffer, collector, jnp.int32(0))


def _policy(actor: Any, obs: Any, config: Config) -> Any:
    """The distribution of actions; those of a box are in [-1, 1]."""
    return squashed_head(config.env.action_space).distribution(_network(config).actor.apply(actor, obs))


def act(state: State, config: Config, greedy: bool = True) -> Policy:
    """Return the greedy policy, the most likely discrete action or tanh of the Gaussian's mean; or a stochastic one.

    The stochastic policy samples from the distribution, as in training.
    """

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        distribution = _policy(state.params.actor, rollout.observe(state.collector, config.env, obs), config)
        action = distribution.mode() if greedy else distribution.sample(key)
        return squashed_head(config.env.action_space).to_action(action)

    return policy


def _soft_value(noise: jax.Array, params: Params, obs: Any, config: Config) -> tuple[jax.Array, jax.Array]:
    """V and the policy's entropy `[B]`, exact for discrete actions and from one sample otherwise."""
    distribution, critics = _policy(params.actor, obs, config), _network(config).critics
    if isinstance(config.env.action_space, Box):
        action, log_prob = distribution.transform_and_log_prob(noise)
        expected, entropy = critics.apply(params.critics, obs, action).min(axis=-1), -log_prob
    else:
        action_values = critics.apply(params.critics, obs).min(axis=-1)
        expected, entropy = jnp.sum(distribution.probs() * action_values, axis=-1), distribution.entropy()
    return expected + jnp.exp(params.log_temperature) * entropy, entropy


def _action_values(critics: Any, batch: replay.Sample, config: Config) -> jax.Array:
    """The critics' values of the actions taken, `[B, C]`."""
    space = config.env.action_space
    if isinstance(space, Box):
        return _network(config).critics.apply(critics, batch.obs, batch.action)
    values = _network(config).critics.apply(critics, batch.obs)
    return networks.of_action(values, space.joint(batch.action) if isinstance(space, MultiDiscrete) else batch.action)


def _target_entropy(obs: Any, config: Config) -> jax.typing.ArrayLike:
    """The target entropy; of masked actions, the mean over observations `[B, ...]` of that of the legal ones."""
    space = config.env.action_space
    if config.target_entropy is not None:
        return config.target_entropy
    if isinstance(space, Box):
        return -math.prod(space.shape)
    if not isinstance(obs, Masked):
        return config.target_entropy_fraction * math.log(num_joint_actions(space))
    parts = space.split(obs.legal) if isinstance(space, MultiDiscrete) else [obs.legal]
    maximum = sum(jnp.log(part.sum(axis=-1).astype(jnp.float32)) for part in parts)
    return config.target_entropy_fraction * jnp.mean(maximum)


def loss(
    params: Params, target_params: Any, batch: replay.Sample, noise: jax.Array, config: Config
) -> tuple[jax.Array, Metrics]:
    """Return the sum of the three losses over one batch, with action noise `[2, B, D]`, and its terms as metrics."""
    fixed = jax.lax.stop_gradient(params)
    next_value, _ = _soft_value(noise[1], fixed._replace(critics=target_params), batch.next_obs, config)
    targets = returns.one_step(batch.reward, batch.discount, next_value)
    action_values = _action_values(params.critics, batch, config)
    critic_loss, critic_metrics = off_policy.critic_loss(action_values, targets, batch.weight)

    value, entropy = _soft_value(noise[0], fixed._replace(actor=params.actor), batch.obs, config)
    policy_loss, entropy = -value.mean(), entropy.mean()
    temperature = jnp.exp(params.log_temperature)
    excess = jax.lax.stop_gradient(entropy) - _target_entropy(batch.obs, config)
    total = critic_loss + policy_loss + (temperature * excess if config.tune_temperature else 0.0)
    return total, {
        "loss": total,
        **critic_metrics,
        "policy_loss": policy_loss,
        "entropy": entropy,
        "log_prob": -entropy,
        "temperature": temperature,
    }


def update(key: jax.Array, state: State, config: Config, loss: Loss = loss) -> tuple[State, Metrics]:
    """Collect T steps and take the gradient steps. Metrics are means over the gradient steps, or extremes."""
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    key_noise, key_rollout, key_batches, key_loss = jax.random.split(key, 4)
    head, optimizer = squashed_head(config.env.action_space), _optimizer(config)

    def policy(noise: jax.Array, obs: Any) -> tuple[jax.Array, jax.Array]:
        action = _policy(state.params.actor, obs, config).transform(noise)
        return head.to_action(action), action

    noise = head.noise(key_noise, (config.num_steps, config.num_envs))
    collector, steps, episodes = rollout.rollout(
        key_rollout, policy, noise, state.collector, config.env, config.num_steps, raw=True
    )
    buffer = replay.add(state.replay, steps, num_frames=config.env.num_frames)

    def learn(carry: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, Metrics]:
        params, target_params, opt_state = carry
        bits, noise, _ = inputs
        batch = off_policy.sample(bits, buffer, collector, config)
        params, opt_state, metrics, norm = core.gradient_step(
            loss, params, optimizer, opt_state, target_params, batch, noise, config
        )
        target_params = optax.incremental_update(params.critics, target_params, config.target_rate)
        metrics = {**metrics, "gradient_norm": norm, "lost_successors": jnp.mean(batch.weight == 0.0)}
        return (params, target_params, opt_state), metrics

    start = (state.params, state.target_params, state.opt_state)
    loss_noise = head.noise(key_loss, (config.gradient_steps, 2, config.batch_size))
    end, metrics = off_policy.gradient_steps(key_batches, learn, start, loss_noise, state.step, config)
    params, target_params, opt_state = end

    step = state.step + 1
    metrics = {
        "env_steps": off_policy.env_steps(config, step),
        **scheduled,
        **episodes,
        **core.over_steps(metrics),
    }
    return State(params, target_params, opt_state, buffer, collector, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
