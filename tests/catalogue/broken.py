"""Learners and environments that are broken on purpose. A traced number chooses the fault, so they share programs."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import rljax
from rljax import dqn, envs, ppo
from rljax.config import replace_unchecked

ENVIRONMENT = (
    "healthy",
    "reward times 1000",
    "no reward",
    "action ignored",
    "never ends",
    "observation times 10,000",
    "observation constant",
    "time limit terminates",
    "failure truncates",
    "reward times 100",
    "reward NaN at a failure",
)
PPO = (
    "wrong sign of the policy loss",
    "wrong sign of the entropy bonus",
    "entropy bonus times 1000",
    "stale log-probability",
    "log-probability of another action",
    "critic loss on a detached advantage",
    "policy loss detached",
    "advantages of other samples",
    "learning rate times 100",
    "learning rate divided by 10,000",
    "loss becomes NaN",
    "gradients vanish",
)
DQN = (
    "bootstrap over ends",
    "bootstrap from the same observation",
    "frozen target",
    "replay without the run's steps",
    "loss detached",
    "wrong sign of the loss",
    "target times 2",
    "rewards and discounts counted twice",
    "learning rate times 10,000",
)
NUMBERS = {name: number for number, name in enumerate(ENVIRONMENT)}
PPO_NUMBERS = NUMBERS | {name: 100 + number for number, name in enumerate(PPO)}
DQN_NUMBERS = {"healthy": 0} | {name: 200 + number for number, name in enumerate(DQN)}
LIMIT = 40


class Params(NamedTuple):
    """Params of the track."""

    bug: int = 0


def _observed(place, params):
    scale = jnp.where(params.bug == NUMBERS["observation times 10,000"], 1e4, 1.0)
    scale = jnp.where(params.bug == NUMBERS["observation constant"], 0.0, scale)
    return jnp.stack([place, place**2]) * scale


def _reset(key, params):
    place = jax.random.uniform(key, (), jnp.float32, -0.2, 0.2)
    return _observed(place, params), (place, jnp.int32(0))


def _step(key, state, action, params):
    """Push a body on a hill to the left or to the right: it slides down unless it is kept near the top."""
    bug, (place, time) = params.bug, state
    push = jnp.where(bug == NUMBERS["action ignored"], jax.random.bernoulli(key).astype(jnp.int32), action)
    place, time = 1.1 * place + 0.1 * (2.0 * push - 1.0), time + 1
    fell, late = jnp.abs(place) > 1.0, time >= LIMIT
    place = jnp.clip(place, -1.5, 1.5)
    reward = jnp.where(bug == NUMBERS["reward times 1000"], 1000.0, 1.0)
    reward = jnp.where(bug == NUMBERS["reward times 100"], 100.0, reward)
    reward = jnp.where(bug == NUMBERS["no reward"], 0.0, reward)
    reward = jnp.where((bug == NUMBERS["reward NaN at a failure"]) & fell, jnp.nan, reward)
    endless = bug == NUMBERS["never ends"]
    terminated = jnp.where(
        bug == NUMBERS["time limit terminates"], fell | late, fell & (bug != NUMBERS["failure truncates"])
    )
    truncated = jnp.where(bug == NUMBERS["failure truncates"], fell | late, late & jnp.logical_not(terminated))
    truncated = jnp.where(endless, time >= 2_500, truncated)  # so that an evaluation ends
    return rljax.timestep(_observed(place, params), reward, terminated & jnp.logical_not(endless), truncated), (
        place,
        time,
    )


track = rljax.Env(
    name="track",
    reset=_reset,
    step=_step,
    params=Params(),
    observation_space=rljax.Box(-1e9, 1e9, (2,)),
    action_space=rljax.Discrete(2),
)


def _is(config, name):
    return config.env.params.bug == (PPO_NUMBERS | DQN_NUMBERS)[name]


def _ppo_loss(params, batch, config):
    """PPO's loss, with the fault that the config's number chooses."""

    def where(name, broken, sound):
        return jax.tree.map(lambda a, b: jnp.where(_is(config, name), a, b), broken, sound)

    log_prob = where("stale log-probability", jnp.roll(batch.log_prob, 1) - 1.0, batch.log_prob)
    advantage = where("wrong sign of the policy loss", -batch.advantage, batch.advantage)
    advantage = where("advantages of other samples", jnp.roll(advantage, 7), advantage)
    action = where("log-probability of another action", 1 - batch.action, batch.action)
    coefficient = where("wrong sign of the entropy bonus", jnp.float32(-5.0), jnp.float32(config.entropy_coefficient))
    coefficient = where("entropy bonus times 1000", jnp.float32(10.0), coefficient)
    changed = replace_unchecked(config, entropy_coefficient=coefficient)
    batch = batch._replace(log_prob=log_prob, advantage=advantage, action=action)
    total, metrics = ppo.loss(params, batch, changed)
    # Without the value loss, what is left is as if it were (stop_gradient(A) ** 2).mean().
    no_critic, _ = ppo.loss(params, batch, replace_unchecked(changed, value_coefficient=0.0))
    only_critic = total - no_critic
    total = where("critic loss on a detached advantage", no_critic, total)
    total = where("policy loss detached", only_critic, total)
    total = where("gradients vanish", 1e-9 * total, total)
    total = total * jnp.where(_is(config, "loss becomes NaN"), jnp.nan, 1.0)
    return total, {**metrics, "loss": total}


_broken_ppo = rljax.variant(ppo, loss=_ppo_loss, name="broken_ppo")


def _ppo_update(key, state, config):
    rate = jnp.where(_is(config, "learning rate times 100"), 100.0, 1.0)
    rate = jnp.where(_is(config, "learning rate divided by 10,000"), 1e-4, rate)
    return _broken_ppo.update(key, state, replace_unchecked(config, learning_rate=config.learning_rate * rate))


def _named(base, name, update):
    made = SimpleNamespace(**vars(base))
    made.__name__, made.update = name, update
    return made


broken_ppo = _named(_broken_ppo, "broken_ppo", _ppo_update)


def _dqn_loss(params, target_params, batch, key, config):
    """DQN's loss, with the fault that the config's number chooses."""
    discount = jnp.where(_is(config, "bootstrap over ends"), config.discount, batch.discount)
    same = _is(config, "bootstrap from the same observation")
    discount = jnp.where(same, config.discount, discount)
    next_obs = jnp.where(same, batch.obs, batch.next_obs)
    twice = _is(config, "rewards and discounts counted twice")
    reward = jnp.where(twice, 2.0 * batch.reward + 1.0, batch.reward)
    discount = jnp.where(_is(config, "target times 2") | twice, 2.0 * discount, discount)
    batch = batch._replace(reward=reward, discount=discount, next_obs=next_obs)
    total, (errors, metrics) = dqn.loss(params, target_params, batch, key, config)
    still, _ = dqn.loss(jax.lax.stop_gradient(params), target_params, batch, key, config)
    total = jnp.where(_is(config, "loss detached"), still, total)
    total = jnp.where(_is(config, "wrong sign of the loss"), -total, total)
    return total, (errors, {**metrics, "loss": total})


_broken_dqn = rljax.variant(dqn, loss=_dqn_loss, name="broken_dqn")


def _dqn_update(key, state, config):
    rate = jnp.where(_is(config, "learning rate times 10,000"), 10_000.0, 1.0)
    changed = replace_unchecked(config, learning_rate=config.learning_rate * rate)
    new, metrics = _broken_dqn.update(key, state, changed)

    def kept(name, old, new):
        return jax.tree.map(lambda a, b: jnp.where(_is(config, name), a, b), old, new)

    target_params = kept("frozen target", state.target_params, new.target_params)
    replay = kept("replay without the run's steps", state.replay, new.replay)
    return new._replace(target_params=target_params, replay=replay), metrics


broken_dqn = _named(_broken_dqn, "broken_dqn", _dqn_update)


def _with_ends(base, name, ends):
    """A learner that sees other ends than the environment has: a pair of flags of a pair of flags."""

    def update(key, state, config):
        def step(key, env_state, action, params):
            result, env_state = config.env.step(key, env_state, action, params)
            terminated, truncated = ends(result.terminated, result.truncated)
            return result._replace(terminated=terminated, truncated=truncated), env_state

        seen = replace_unchecked(config, env=config.env.replace(step=step))
        return base.update(key, state, seen)

    return _named(base, name, update)


truncation_ends = _with_ends(
    ppo, "truncation_ends", lambda terminated, truncated: (terminated | truncated, False & truncated)
)
termination_ignored = _with_ends(
    ppo, "termination_ignored", lambda terminated, truncated: (False & terminated, terminated | truncated)
)


def _reusing_update(key, state, config):
    """Draws with a key that it has used already."""
    new, metrics = ppo.update(key, state, config)
    return new, {**metrics, "noise": jax.random.uniform(key)}


reusing_key = _named(ppo, "reusing_key", _reusing_update)


def accumulated(learning_rate):
    """Gradients that are never set to zero again."""
    return optax.chain(optax.trace(1.0), optax.adam(learning_rate))


PPO_CONFIG = ppo.Config(
    env=track, total_steps=32_768, learning_rate=3e-3, num_envs=8, num_steps=32, num_epochs=4, num_minibatches=4,
    hidden_sizes=(16,), discount=0.95, entropy_coefficient=0.01,
)  # fmt: skip
DQN_CONFIG = dqn.Config(
    env=track, total_steps=12_000, learning_rate=2e-3, num_envs=4, num_steps=4, gradient_steps=2, batch_size=32,
    buffer_size=4_000, prefill_steps=200, hidden_sizes=(16,), discount=0.97, target_period=10,
)  # fmt: skip


def random_returns(numbers):
    """Mean returns of the random policy in the track with each of these faults."""
    policy = envs.heuristics.random(track)

    def mean(bug):
        env = track.replace(params=Params(bug))
        return rljax.play(jax.random.key(0), env, policy, 200, 500).returns.mean()

    return jax.jit(jax.vmap(mean))(jnp.array(numbers)).tolist()
