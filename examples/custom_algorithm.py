"""A custom algorithm: a policy gradient with a learned baseline, in a module with the expected names, no base class.

`rljax train examples/custom_algorithm.py --env CartPole-v1 --seeds 8`, or `python examples/custom_algorithm.py`.
"""

import sys
from typing import Any, NamedTuple

import jax
import optax

import rljax
from rljax import core, distributions, losses, networks, returns, rollout
from rljax.config import config, static, traced
from rljax.types import Metrics, Policy


@config
class Config:
    env: rljax.Env = traced()
    """Environment to train on."""
    total_steps: int = static(default=100_000, minimum=1)
    """Environment steps of the run."""
    learning_rate: float = traced(default=5e-3, minimum=0)
    """Adam's step size."""
    discount: float = traced(default=0.98, minimum=0, maximum=1)
    """Discount per step."""
    num_updates = property(lambda self: self.total_steps // 1024)


class State(NamedTuple):
    params: Any
    opt_state: Any
    collector: rollout.Collector
    step: Any


def init(key: jax.Array, config: Config) -> State:
    key_params, key_reset = jax.random.split(key)
    collector = rollout.reset(key_reset, config.env, num_envs=16)
    params = networks.actor_critic(config.env).init(key_params, collector.obs)
    return State(params, optax.adam(config.learning_rate).init(params), collector, jax.numpy.int32(0))


def act(state: State, config: Config) -> Policy:
    network, head = networks.actor_critic(config.env), distributions.policy_head(config.env.action_space)

    def policy(key: jax.Array, obs: jax.Array) -> jax.Array:
        outputs, _ = network.apply(state.params, rollout.observe(state.collector, config.env, obs))
        return head.to_action(head.distribution(outputs).mode())

    return policy


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    key_noise, key_rollout = jax.random.split(key)
    network, head = networks.actor_critic(config.env), distributions.policy_head(config.env.action_space)

    def policy(noise: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        action = head.distribution(network.apply(state.params, obs)[0]).transform(noise)
        return head.to_action(action), action

    noise = head.noise(key_noise, (64, 16))
    collector, batch, episodes = rollout.rollout(key_rollout, policy, noise, state.collector, config.env, 64)
    values = network.apply(state.params, batch.next_obs)[1]
    targets = returns.discounted(batch.reward, values, batch.terminated, batch.truncated, config.discount)

    def loss(params: Any) -> tuple[jax.Array, None]:
        outputs, baseline = network.apply(params, batch.obs)
        log_prob = head.distribution(outputs).log_prob(batch.action)
        return (losses.squared(baseline, targets) - log_prob * jax.lax.stop_gradient(targets - baseline)).mean(), None

    adam, step = optax.adam(config.learning_rate), state.step + 1
    params, opt_state, _, norm = core.gradient_step(loss, state.params, adam, state.opt_state)
    return State(params, opt_state, collector, step), {"env_steps": step * 1024, "gradient_norm": norm, **episodes}


if __name__ == "__main__":
    rljax.run(sys.modules[__name__], Config(env=rljax.make("CartPole-v1")), seeds=8)
