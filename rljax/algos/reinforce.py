r"""REINFORCE (Williams 1992): Monte-Carlo policy gradients over whole episodes, for discrete and continuous actions.

Every step t of an episode that has ended, at step L, is learned from once, with the return from there to the end:

$$ L = E_t[-A_t \log \pi(a_t | s_t) + c_v \tfrac{1}{2} (v(s_t) - G_t)^2 - c_e H(\pi(\cdot | s_t))],
   \qquad G_t = \sum_{k=t}^{L} \gamma^{k-t} r_k, \quad A_t = G_t - v(s_t), $$

or $A_t = G_t$ without the baseline $v$. Without normalisation and with $\gamma = 1$ the gradient estimates that of the
expected return of an episode, but for the scale: a mean over steps, not a sum over each episode's. With $\gamma < 1$ it
leaves out the factor $\gamma^t$, as is usual. An episode that a time limit cut off is completed by the baseline at its
true last observation; without a baseline it counts for what was seen of it.

Episodes of any length in fixed shapes: an update plays T steps of N environments, whose episodes go on from update to
update. With the H steps before them these make a window `[H + T, N]`, and a step is used in the update in which its
episode ends: the first end at or after it lies in the newest T rows. So each is used exactly once, whatever the length.
Steps that leave the window while their episode still runs are lost, and counted; with episodes of at most H there are
none. The steps of an episode that began in an earlier update were played by an older policy, and are used as they are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import core, losses, networks, on_policy, optimizers, returns, rollout
from rljax.config import config, static, traced
from rljax.distributions import policy_head
from rljax.envs import Env
from rljax.errors import UsageError
from rljax.types import Metrics, Policy, RecurrentPolicy


def default_network(env: Env, config: "Config") -> networks.Network:
    """An actor and a critic of `config.hidden_sizes`, the critic being the baseline."""
    return networks.actor_critic(env, config.hidden_sizes, config.activation, mixed_precision=config.mixed_precision)


@config
class Config:
    """What REINFORCE is told: traced numbers, free to sweep, and static structure."""

    env: Env = traced()
    """Environment to learn."""
    total_steps: int = static(default=200_000, minimum=1)
    """Environment steps of the whole run; at most so many, in whole updates of num_envs * num_steps."""
    learning_rate: float = traced(default=2e-3, minimum=0)
    """Adam's step size."""
    discount: float = traced(default=0.99, minimum=0, maximum=1)
    """Discount per step (gamma)."""
    entropy_coefficient: float = traced(default=0.0, minimum=0)
    """Weight of the entropy bonus (c_e)."""
    value_coefficient: float = traced(default=0.5, minimum=0)
    """Weight of the baseline's loss (c_v)."""
    max_grad_norm: float = traced(default=0.5, minimum=1e-6)
    """Global norm to which gradients are clipped; a large number for no clipping."""
    num_envs: int = static(default=8, minimum=1)
    """Environments side by side (N)."""
    num_steps: int = static(default=64, minimum=1)
    """Steps of each environment per update (T)."""
    max_episode_steps: int = static(default=500, minimum=1)
    """Steps of each environment that are kept for its episode's end (H); longer episodes lose their first steps."""
    baseline: bool = static(default=True)
    """Subtract a learned value from the returns, and complete with it what a time limit cut off."""
    normalize_returns: bool = static(default=True)
    """Give an update's returns, less the baseline, mean 0 and deviation 1."""
    anneal_learning_rate: bool = static(default=True)
    """Let the learning rate fall linearly to zero."""
    schedule_steps: int | None = static(default=None, minimum=1)
    """Environment steps after which annealed values are zero; None for total_steps."""
    hidden_sizes: tuple[int, ...] = static(default=(64, 64))
    """Widths of the default network's hidden layers."""
    activation: str = static(default="tanh")
    """Nonlinearity of the default network: tanh, relu, elu, gelu or silu."""
    mixed_precision: bool = static(default=False)
    """Let linear layers of the default network multiply bfloat16, faster on CPUs with AMX; all else stays float32."""
    network: networks.Network | None = static(default=None)
    """A module whose init and apply take the default network's place: obs to (policy outputs, values)."""

    def __post_init__(self) -> None:
        core.check_counts(self.total_steps, self.steps_per_update)
        networks.check_layers(self.hidden_sizes, self.activation)
        if hasattr(self.network, "initial_hidden_state"):
            raise UsageError("REINFORCE takes a network without a memory: use ppo or a2c, or a network without one.")

    steps_per_update = property(core.steps_per_update)
    num_updates = property(core.num_updates)
    schedule_updates = property(core.schedule_updates)


class Steps(NamedTuple):
    """Consecutive steps of N environments, each `[H, N, ...]`, as the learner saw them."""

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    next_value: jax.Array  # the baseline at the true successor when the step was made, zero without a baseline
    terminated: jax.Array
    truncated: jax.Array


class State(NamedTuple):
    """What REINFORCE carries from update to update: parameters, their optimiser, environments, past steps."""

    params: Any
    opt_state: optax.OptState
    collector: rollout.Collector
    history: Steps  # the last H steps of every environment
    step: jax.Array  # [] int32, updates done


def _network(config: Config) -> networks.Network:
    return default_network(config.env, config) if config.network is None else config.network


def _optimizer(config: Config, step: jax.typing.ArrayLike) -> optax.GradientTransformation:
    return optimizers.adam(core.learning_rate(config, step), eps=1e-5, max_grad_norm=config.max_grad_norm)


def init(key: jax.Array, config: Config) -> State:
    """Fresh parameters, fresh environments, and a history in which nothing waits for its episode's end."""
    key_params, key_reset = jax.random.split(key)
    collector = rollout.reset(key_reset, config.env, config.num_envs)
    params, _ = on_policy.init(key_params, _network(config), collector.obs, config.env)
    obs = rollout.observe(collector, config.env, collector.obs)
    outputs, _ = _network(config).apply(params, obs)
    action = policy_head(config.env.action_space).distribution(outputs).mode()
    zero, ended = jnp.zeros(config.num_envs), jnp.ones(config.num_envs, bool)
    first = Steps(obs, action, zero, zero, ended, ended)
    history = jax.tree.map(lambda x: jnp.broadcast_to(x, (config.max_episode_steps, *x.shape)), first)
    return State(params, _optimizer(config, 0).init(params), collector, history, jnp.int32(0))


def act(state: State, config: Config) -> Policy | RecurrentPolicy:
    """The greedy policy: the distribution's mode."""
    return on_policy.greedy(_network(config), state.params, state.collector, config.env)


def whole_episodes(ended: jax.Array, num_steps: int) -> tuple[jax.Array, jax.Array]:
    """Which steps of a window to learn from now that its newest `num_steps` rows are there.

    Args:
        ended: `[H + T, N]` bool, where an episode ended.
        num_steps: T.

    Returns:
        `[H + T, N]` bool, the steps whose episode's end lies in the newest T rows, and the number `[]` of steps in the
        oldest T rows, those that leave the window now, whose episode still runs.
    """
    ends_ahead = jnp.cumsum(ended[::-1], axis=0, dtype=jnp.int32)[::-1]
    used = (ends_ahead > 0) & (ends_ahead <= ends_ahead[-num_steps])
    return used, jnp.sum(ends_ahead[:num_steps] == 0)


def loss(params: Any, window: Steps, targets: jax.Array, used: jax.Array, config: Config) -> tuple[jax.Array, Metrics]:
    """The loss `L` of the module's docstring over the steps that are used, and what it is made of."""
    outputs, values = _network(config).apply(params, window.obs)
    distribution = policy_head(config.env.action_space).distribution(outputs)
    count = jnp.maximum(used.sum(), 1)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(x, where=used) / count

    advantages = targets - jax.lax.stop_gradient(values) if config.baseline else targets
    if config.normalize_returns:
        advantages = advantages - mean(advantages)
        advantages = advantages / (jnp.sqrt(mean(jnp.square(advantages))) + 1e-8)
    policy_loss = mean(losses.policy_gradient(distribution.log_prob(window.action), advantages))
    value_loss = mean(losses.squared(values, targets)) if config.baseline else jnp.float32(0.0)
    entropy = mean(distribution.entropy())
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return total, {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    """Play T steps and learn from the episodes that ended in them; if none did, nothing moves and losses are zero."""
    key_noise, key_rollout = jax.random.split(key)
    env, network = config.env, _network(config)
    head = policy_head(env.action_space)

    def policy(noise: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        action = head.distribution(network.apply(state.params, obs)[0]).transform(noise)
        return head.to_action(action), action

    noise = head.noise(key_noise, (config.num_steps, config.num_envs))
    collector, played, episodes = rollout.rollout(key_rollout, policy, noise, state.collector, env, config.num_steps)
    next_values = network.apply(state.params, played.next_obs)[1] if config.baseline else jnp.zeros_like(played.reward)
    newest = Steps(played.obs, played.action, played.reward, next_values, played.terminated, played.truncated)
    window = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), state.history, newest)

    used, lost_steps = whole_episodes(window.terminated | window.truncated, config.num_steps)
    ends = (window.terminated, window.truncated)
    targets = returns.discounted(window.reward, window.next_value, *ends, config.discount)
    params, opt_state, metrics, norm = core.gradient_step(
        loss, state.params, _optimizer(config, state.step), state.opt_state, window, targets, used, config
    )
    # Adam would move on its momentum alone.
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(used.any(), new, old), (params, opt_state), (state.params, state.opt_state)
    )
    history = jax.tree.map(lambda x: x[config.num_steps :], window)
    step = state.step + 1
    metrics = {
        "env_steps": step * config.steps_per_update,
        **episodes,
        **metrics,
        "used_steps": used.sum(),
        "lost_steps": lost_steps,
        "gradient_norm": norm,
    }
    return State(params, opt_state, collector, history, step), metrics


def train(key: jax.Array, config: Config) -> tuple[State, Metrics]:
    """A whole run, a pure function: `jit` it, `vmap` it over keys and over any traced field of `config`."""
    return core.train(init, update, key, config)
