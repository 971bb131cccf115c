r"""Twin delayed DDPG (TD3, Fujimoto et al. 2018); with other values, DDPG itself (Lillicrap et al. 2016).

Each update collects T steps of N environments by a deterministic policy $\mu$ with exploration noise into a replay and
then makes `gradient_steps` steps of the critics $Q_i$ down the mean over a batch of

$$ L_Q = \sum_i \tfrac{1}{2} (Q_i(s, a) - r - \gamma \min_j \bar{Q}_j(s', \tilde{a}))^2, \qquad
   \tilde{a} = \mathrm{clip}(\bar{\mu}(s') + \mathrm{clip}(\sigma \epsilon, \pm c), \pm 1), \quad \epsilon \sim N(0, 1).
$$

Every `actor_period`-th of them is followed by one of the policy down $L_\mu = -Q_1(s, \mu(s))$, and then the targets
$\bar{Q}$ and $\bar{\mu}$ move a part of the way. DDPG has one critic, no smoothing noise and a period of one. The
policy ends in a tanh: actions and all noise are in units in which every dimension is [-1, 1], whatever the bounds.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, exploration, networks, off_policy, optimizers, replay, rollout
from rljax.config import config, static, traced
from rljax.envs import Env, bounded_box
from rljax.types import Metrics, Policy


def default_network(env: Env, config: "Config") -> networks.ActorAndCritics:
    """An actor of actions `[..., D]` before their tanh, and critics of observations and actions `[..., C]`."""
    size = math.prod(env.action_space.shape)
    return networks.actor_and_critics(
        env, size, config.num_critics, config.hidden_sizes, config.activation, config.mixed_precision
    )


@config
class Config:
    """What TD3 and DDPG are told: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to learn; actions must be continuous and bounded on both sides in every dimension."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the whole run, the prefill among them; at most so many, in whole updates."""
    learning_rate: float = traced(default=1e-3, minimum=0)
    """Adam's step size, for the actor and the critics."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    num_envs: int = static(default=1, minimum=1)
    """Environments side by side (N)."""
    num_steps: int = static(default=1, minimum=1)
    """Steps of each environment per update (T)."""
    gradient_steps: int = static(default=1, minimum=1)
    """Gradient steps per update, so that any ratio to environment steps can be had."""
    batch_size: int = static(default=256, minimum=1)
    """Transitions per gradient step."""
    buffer_size: int = static(default=100_000, minimum=1)
    """Transitions that the replay holds."""
    prefill_steps: int = static(default=1_000, minimum=1)
    """Environment steps of uniform actions before the first update."""
    target_rate: float = traced(default=0.005, minimum=0, maximum=1)
    """Part of the way that the targets move after each step of the actor (tau)."""
    actor_period: int = traced(default=2, minimum=1)
    """Gradient steps of the critics between two of the actor."""
    smoothing_std: float = traced(default=0.2, minimum=0)
    """Deviation of the noise on the target's actions; 0 for none."""
    smoothing_clip: float = traced(default=0.5, minimum=0)
    """Most that the noise on the target's actions may be (c)."""
    noise_std: float = traced(default=0.1, minimum=0)
    """Deviation of the exploration noise once it has settled."""
    noise_reversion: float = traced(default=1.0, minimum=0, maximum=1)
    """How much of the exploration noise a step forgets (theta): 1 for Gaussian noise, less for Ornstein-Uhlenbeck."""
    num_critics: int = static(default=2, minimum=1)
    """Critics, the lowest of which counts (C)."""
    anneal_learning_rate: bool = static(default=False)
    """Let the step size fall linearly to zero."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps after which annealed values are zero; None for total_steps."""
    hidden_sizes: tuple[int, ...] = static(default=(64, 64))
    """Widths of the default networks' hidden layers."""
    activation: str = static(default="relu")
    """Nonlinearity of the default networks: tanh, relu, elu, gelu or silu."""
    mixed_precision: bool = static(default=False)
    """Let linear layers of the default networks multiply bfloat16, faster on CPUs with AMX; all else stays float32."""
    network: networks.ActorAndCritics | None = static(default=None)
    """A networks.ActorAndCritics that takes the default networks' place."""

    def __post_init__(self) -> None:
        networks.check_layers(self.hidden_sizes, self.activation)
        bounded_box(self.env.action_space)
        off_policy.check_counts(self)

    steps_per_update = property(core.steps_per_update)
    num_updates = property(off_policy.num_updates)
    schedule_updates = property(off_policy.schedule_updates)


class Pair(NamedTuple):
    """What the actor and the critics each have: parameters, or an optimiser's state."""

    actor: Any
    critics: Any


class State(NamedTuple):
    """What TD3 carries from update to update: parameters, optimisers, replay, environments, noise."""

    params: Pair
    target_params: Pair
    opt_state: Pair
    replay: replay.Replay
    collector: rollout.Collector
    noise: jax.Array  # [N, D] the exploration noise of the last step; zeros where an episode begins
    step: jax.Array  # [] int32, updates done


def _network(config: Config) -> networks.ActorAndCritics:
    return default_network(config.env, config) if config.network is None else config.network


def _optimizer(config: Config, step: jax.typing.ArrayLike) -> optax.GradientTransformation:
    return optimizers.adam(core.learning_rate(config, step))


def _actions(actor: Any, obs: jax.Array, config: Config) -> jax.Array:
    """The policy's actions `[..., D]` in [-1, 1]."""
    return jnp.tanh(_network(config).actor.apply(actor, obs))


def init(key: jax.Array, config: Config) -> State:
    """Fresh parameters, fresh environments, and a replay filled with `prefill_steps` uniform steps."""
    key_actor, key_critics, key_reset, key_prefill = jax.random.split(key, 4)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    collector, memory = off_policy.prefill(key_prefill, collector, config)
    actor, critics = _network(config)
    obs, action = collector.obs, memory.action[0]
    params = Pair(
        networks.init(actor, key_actor, obs, action.shape[1:]),
        networks.init(critics, key_critics, obs, (config.num_critics,), extra_inputs=(action,)),
    )
    optimizer = _optimizer(config, 0)
    opt_state = Pair(optimizer.init(params.actor), optimizer.init(params.critics))
    return State(params, params, opt_state, memory, collector, jnp.zeros_like(action), jnp.int32(0))


def act(state: State, config: Config) -> Policy:
    """The policy without noise."""

    def policy(key: jax.Array, obs: jax.Array) -> jax.Array:
        actions = _actions(state.params.actor, rollout.observe(state.collector, config.env, obs), config)
        return bounded_box(config.env.action_space).from_unit_vector(actions)

    return policy


def loss(
    critics: Any, target_params: Pair, batch: replay.Sample, normal: jax.Array, config: Config
) -> tuple[jax.Array, Metrics]:
    """The critics' loss `L_Q` of the module's docstring over one batch, with normals `[B, D]`, and metrics."""
    action = _actions(target_params.actor, batch.next_obs, config)
    smoothing = config.smoothing_std * normal
    action = jnp.clip(action + jnp.clip(smoothing, -config.smoothing_clip, config.smoothing_clip), -1.0, 1.0)
    next_values = _network(config).critics.apply(target_params.critics, batch.next_obs, action).min(axis=-1)
    values = _network(config).critics.apply(critics, batch.obs, batch.action)
    return off_policy.critic_loss(values, batch.reward + batch.discount * next_values, batch.weight)


def actor_loss(actor: Any, critics: Any, obs: jax.Array, config: Config) -> tuple[jax.Array, tuple[()]]:
    """The policy's loss over one batch of observations."""
    return -_network(config).critics.apply(critics, obs, _actions(actor, obs, config))[..., 0].mean(), ()


def _collect(
    key: jax.Array, state: State, config: Config
) -> tuple[rollout.Collector, jax.Array, rollout.Trajectory, Metrics]:
    """T noisy steps of N environments, raw as the replay keeps them, and the noise they end with."""
    key_noise, key_rollout = jax.random.split(key)
    space = bounded_box(config.env.action_space)

    def policy(noise: jax.Array, normal: jax.Array, obs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        noise = exploration.correlated_noise(noise, normal, config.noise_std, config.noise_reversion)
        action = jnp.clip(_actions(state.params.actor, obs, config) + noise, -1.0, 1.0)
        return space.from_unit_vector(action), (action, noise)

    def keep(_: jax.Array, normal: jax.Array, transition: rollout.Trajectory) -> tuple[jax.Array, rollout.Trajectory]:
        action, noise = transition.action
        ended = transition.terminated | transition.truncated
        return jnp.where(ended[:, None], 0.0, noise), transition._replace(action=action)

    normal = jax.random.normal(key_noise, (config.num_steps, *state.noise.shape))
    return rollout.interact(
        key_rollout, policy, keep, state.noise, normal, state.collector, config.env, config.num_steps
    )


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """Collect T steps and make the gradient steps. Metrics are means over the gradient steps."""
    key_collect, key_batches, key_smoothing = jax.random.split(key, 3)
    collector, noise, steps, episodes = _collect(key_collect, state, config)
    memory = replay.add(state.replay, steps)
    optimizer = _optimizer(config, state.step)

    def learn(carry: Any, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, Metrics]:
        params, target_params, opt_state = carry
        bits, smoothing, number = inputs
        batch = off_policy.sample(bits, memory, collector, config)
        critics, critics_opt_state, metrics, norm = core.gradient_step(
            loss, params.critics, optimizer, opt_state.critics, target_params, batch, smoothing, config
        )

        def step_of_actor(actor: Any, actor_opt_state: Any, target_params: Pair) -> tuple[Pair, Pair, Any]:
            actor, actor_opt_state, _, _ = core.gradient_step(
                actor_loss, actor, optimizer, actor_opt_state, critics, batch.obs, config
            )
            stepped = Pair(actor, critics)
            return stepped, optax.incremental_update(stepped, target_params, config.target_rate), actor_opt_state

        params, target_params, actor_opt_state = jax.lax.cond(
            number % config.actor_period == 0,
            step_of_actor,
            lambda actor, actor_opt_state, target_params: (Pair(actor, critics), target_params, actor_opt_state),
            params.actor,
            opt_state.actor,
            target_params,
        )
        metrics = {**metrics, "gradient_norm": norm, "lost_successors": jnp.mean(batch.weight == 0.0)}
        return (params, target_params, Pair(actor_opt_state, critics_opt_state)), metrics

    start = (state.params, state.target_params, state.opt_state)
    smoothings = jax.random.normal(key_smoothing, (config.gradient_steps, config.batch_size, state.noise.shape[-1]))
    end, metrics = off_policy.gradient_steps(key_batches, learn, start, smoothings, state.step, config)
    params, target_params, opt_state = end

    step = state.step + 1
    metrics = {
        "env_steps": off_policy.env_steps(config, step),
        **episodes,
        **{name: rows.mean() for name, rows in metrics.items()},
    }
    return State(params, target_params, opt_state, memory, collector, noise, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """A whole run, a pure function: `jit` it, `vmap` it over keys and over any traced field of `config`."""
    return core.train(init, update, key, config)
