r"""REINFORCE (Williams 1992): Monte-Carlo policy gradients over whole episodes, for discrete and continuous actions.

Every step t of an episode whose last step is K is used once, with its return to the end:

$$ L = E_t[-A_t \log \pi(a_t | s_t) + c_v \tfrac{1}{2} (v(s_t) - G_t)^2 - c_e H(\pi(\cdot | s_t))],
   \qquad G_t = \sum_{k=t}^{K} \gamma^{k-t} r_k, \quad A_t = G_t - v(s_t), $$

or $A_t = G_t$ without the baseline $v$. Without normalisation and with $\gamma = 1$ the gradient estimates that of the
expected episode return up to a scale: it averages over steps instead of summing over each episode. With $\gamma < 1$ it
omits the factor $\gamma^t$, as usual. A truncated episode is bootstrapped with the baseline at its true last
observation; without a baseline its return ends there.

Episodes of any length fit into fixed shapes. An update plays T steps of N environments, and episodes continue across
updates. The T steps and the H before them form a window `[H + T, N]`. A step is used in the update in which its episode
ends: the first end at or after it lies in the newest T rows. So each step is used exactly once. Steps that leave the
window before their episode ends are lost and counted; episodes of at most H steps lose none. Steps from before the
update were played by an older policy; they are used without a correction.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, losses, networks, on_policy, optimizers, returns, rollout, schedules
from rljax.config import config, static, traced
from rljax.distributions import policy_head
from rljax.envs import Env
from rljax.errors import UsageError
from rljax.schedules import Scheduled
from rljax.types import Loss, Metrics, Policy, RecurrentPolicy


def default_network(env: Env, config: "Config") -> networks.Network:
    """An actor and a critic of `config.hidden_sizes`; the critic is the baseline."""
    return networks.actor_critic(
        env,
        config.hidden_sizes,
        config.activation,
        config.shared_torso,
        mixed_precision=config.mixed_precision,
        encoder=config.encoder,
    )


@config
class Config:
    """Hyperparameters of REINFORCE: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to train on."""
    total_steps: int = static(default=200_000, minimum=1)
    """Environment steps of the whole run, rounded down to whole updates of num_envs * num_steps."""
    optimizer: str | optimizers.Optimizer | None = static(default=None)
    """Optimiser: None for Adam; a name, such as adamw, sgd, lion or muon, for Optax's after clipping; or a
    function from the learning rate to an optax.GradientTransformation, used without clipping."""
    learning_rate: Scheduled = traced(default=schedules.linear(2e-3, 0), minimum=0)
    """The optimiser's step size, a number or a schedule."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    entropy_coefficient: Scheduled = traced(default=0.0, minimum=0)
    """Weight of the entropy bonus (c_e), a number or a schedule."""
    value_coefficient: float = traced(default=0.5, minimum=0)
    """Weight of the baseline's loss (c_v)."""
    max_grad_norm: float = traced(default=0.5, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number disables clipping."""
    num_envs: int = static(default=8, minimum=1)
    """Parallel environments (N)."""
    num_steps: int = static(default=64, minimum=1)
    """Steps per environment in each update (T)."""
    max_episode_steps: int = static(default=500, minimum=1)
    """Past steps kept per environment until its episode ends (H); longer episodes lose their first steps."""
    baseline: bool = static(default=True)
    """Subtract a learned value from the returns, and bootstrap truncated episodes with it."""
    normalize_returns: bool = static(default=True)
    """Standardize the returns of each update after subtracting the baseline; a single one stays unchanged."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps over which schedules run; None for total_steps."""
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
        core.check_counts(self.total_steps, self.steps_per_update)
        policy_head(self.env.action_space, self.squash_actions)
        networks.check_layers(self)
        if hasattr(self.network, "initial_hidden_state"):
            raise UsageError("REINFORCE needs a feedforward network: train a recurrent one with ppo or a2c.")

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class Steps(NamedTuple):
    """Consecutive steps of N environments, `[H, N, ...]`, with normalised observations and rewards."""

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    next_value: jax.Array  # the baseline at the true successor when the step was played; zero without a baseline
    terminated: jax.Array
    truncated: jax.Array


class State(NamedTuple):
    """Training state of REINFORCE: network parameters, optimiser state, environments and past steps."""

    params: Any
    opt_state: optax.OptState
    collector: rollout.Collector
    history: Steps  # the last H steps of every environment
    step: jax.Array  # [] int32, completed updates


def _network(config: Config) -> networks.Network:
    network = default_network(config.env, config) if config.network is None else config.network
    return networks.masked_policy(network, config.env)


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.build(config.optimizer or "adam", config.learning_rate, 1e-5, config.max_grad_norm)


def init(key: jax.Array, config: Config) -> State:
    """Initialise the parameters, reset the environments and fill the history with ended episodes."""
    config, _ = core.scheduled(config)
    key_params, key_reset = jax.random.split(key)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    params, _ = on_policy.init(key_params, _network(config), collector.obs, config.env)
    obs = rollout.observe(collector, config.env, collector.obs)
    outputs, _ = _network(config).apply(params, obs)
    action = policy_head(config.env.action_space, config.squash_actions).distribution(outputs).mode()
    zero, ended = jnp.zeros(config.num_envs, jnp.float32), jnp.ones(config.num_envs, bool)
    first = Steps(obs, action, zero, zero, ended, ended)
    history = jax.tree.map(lambda x: jnp.broadcast_to(x, (config.max_episode_steps, *x.shape)), first)
    return State(params, _optimizer(config).init(params), collector, history, jnp.int32(0))


def act(state: State, config: Config, greedy: bool = True) -> Policy | RecurrentPolicy:
    """Return the greedy policy, the mode of the action distribution; or the stochastic one, which samples from it."""
    return on_policy.act(_network(config), state, config, greedy)


def loss(params: Any, window: Steps, targets: jax.Array, used: jax.Array, config: Config) -> tuple[jax.Array, Metrics]:
    """Return the loss `L` of the module docstring over the used steps, and its terms as metrics."""
    outputs, values = _network(config).apply(params, window.obs)
    distribution = policy_head(config.env.action_space, config.squash_actions).distribution(outputs)
    count = jnp.maximum(used.sum(), 1)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(x, where=used) / count

    targets = jnp.where(used, targets, 0.0)  # the others may be NaN
    advantages = targets - jax.lax.stop_gradient(values) if config.baseline else targets
    if config.normalize_returns:
        advantages = on_policy.standardize(advantages, used)
    log_prob = distribution.log_prob(window.action)
    policy_loss = mean(losses.policy_gradient(log_prob, advantages))
    value_loss = mean(losses.squared(values, targets)) if config.baseline else jnp.float32(0.0)
    entropy = mean(distribution.entropy())
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "log_prob": mean(log_prob)}
    return total, {"loss": total, **metrics}


def whole_episodes(ended: jax.Array, num_steps: int) -> tuple[jax.Array, jax.Array]:
    """Find the steps of a window to use once its newest `num_steps` rows have been played.

    Args:
        ended: `[H + T, N]` bool, where an episode ended.
        num_steps: T.

    Returns:
        `[H + T, N]` bool, the steps whose episode ends in the newest T rows, and the number `[]` of lost steps: those
        in the oldest T rows, which leave the window next, whose episode has not ended.
    """
    ends_ahead = jnp.cumsum(ended[::-1], axis=0, dtype=jnp.int32)[::-1]
    used = (ends_ahead > 0) & (ends_ahead <= ends_ahead[-num_steps])
    return used, jnp.sum(ends_ahead[:num_steps] == 0, dtype=jnp.int32)


def update(key: jax.Array, state: State, config: Config, loss: Loss = loss) -> tuple[State, Metrics]:
    """Play T steps and learn from the episodes that ended; if none did, parameters stay and losses are zero."""
    config, scheduled = core.scheduled(config, state.step, state.collector.episodes)
    key_noise, key_rollout = jax.random.split(key)
    env, network = config.env, _network(config)
    head = policy_head(env.action_space, config.squash_actions)

    def policy(noise: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        action = head.distribution(network.apply(state.params, obs)[0]).transform(noise)
        return head.to_action(action), action

    noise = head.noise(key_noise, (config.num_steps, config.num_envs))
    collector, steps, episodes = rollout.rollout(key_rollout, policy, noise, state.collector, env, config.num_steps)
    next_values = network.apply(state.params, steps.next_obs)[1] if config.baseline else jnp.zeros_like(steps.reward)
    newest = Steps(steps.obs, steps.action, steps.reward, next_values, steps.terminated, steps.truncated)
    window = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), state.history, newest)

    used, lost_steps = whole_episodes(window.terminated | window.truncated, config.num_steps)
    ends = (window.terminated, window.truncated)
    targets = returns.discounted(window.reward, window.next_value, *ends, config.discount)
    params, opt_state, metrics, norm = core.gradient_step(
        loss, state.params, _optimizer(config), state.opt_state, window, targets, used, config
    )
    # Without this, Adam's momentum would move the parameters.
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(used.any(), new, old), (params, opt_state), (state.params, state.opt_state)
    )
    history = jax.tree.map(lambda x: x[config.num_steps :], window)
    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **scheduled,
        **episodes,
        **metrics,
        "used_steps": used.sum(dtype=jnp.int32),
        "lost_steps": lost_steps,
        "gradient_norm": norm,
    }
    return State(params, opt_state, collector, history, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """Train from scratch. A pure function: `jit` it, or `vmap` it over keys and any traced field of `config`."""
    return core.train(init, update, key, config)
