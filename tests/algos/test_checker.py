"""`rljax.check_algorithm`: the built-in algorithms pass, and each broken one is named."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from toys import optimized

import rljax
from rljax import a2c, dqn, ppo, pqn, q_learning, reinforce, sac, td3

SMALL = {"hidden_sizes": (16,)}
ON_POLICY = {**SMALL, "num_envs": 8, "num_steps": 8, "learning_rate": 1e-2}
OFF_POLICY = {
    **SMALL, "num_envs": 2, "num_steps": 5, "gradient_steps": 5, "prefill_steps": 100, "batch_size": 32,
    "buffer_size": 2_000, "learning_rate": 3e-3,
}  # fmt: skip
BUILT_IN = {
    "ppo": (ppo, "CartPole-v1", {**ON_POLICY, "num_minibatches": 2}),
    "ppo, gru": (ppo, "CartPole-v1", {**ON_POLICY, "num_minibatches": 2, "recurrent": "gru"}),
    "ppo, continuous": (ppo, "Pendulum-v1", {**ON_POLICY, "num_minibatches": 2}),
    "a2c": (a2c, "CartPole-v1", {**ON_POLICY, "optimizer": "adam"}),
    "reinforce": (reinforce, "CartPole-v1", {**ON_POLICY, "max_episode_steps": 8}),
    "dqn": (dqn, "CartPole-v1", {**OFF_POLICY, "target_period": 10}),
    "pqn": (pqn, "CartPole-v1", {**ON_POLICY, "num_minibatches": 2}),
    "sac": (sac, "Pendulum-v1", OFF_POLICY),
    "sac, discrete": (sac, "CartPole-v1", OFF_POLICY),
    "td3": (td3, "Pendulum-v1", OFF_POLICY),
    "q_learning": (q_learning, "Taxi-v3", {"num_envs": 2}),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name == "q_learning" else pytest.param(name, marks=pytest.mark.slow) for name in BUILT_IN]
)
def test_built_in_algorithms_pass(name):
    algorithm, env, fields = BUILT_IN[name]
    with optimized():
        found = rljax.check_algorithm(algorithm, algorithm.Config(env=rljax.make(env), **fields))
    assert found == []


# --- broken ones ------------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """A softmax policy over two states, and its critic."""

    params: dict
    collector: rljax.rollout.Collector
    step: jax.Array


@rljax.config.config
class Config:
    env: rljax.Env = rljax.traced()
    total_steps: int = rljax.static(default=8 * 4 * 3)
    learning_rate: float = rljax.traced(default=0.5)
    discount: float = rljax.traced(default=0.9)
    num_updates = property(lambda self: self.total_steps // 32)


def features(obs):
    return obs if obs.ndim > 1 and obs.shape[-1] != 4 else obs[..., :2]


def made(**parts):
    """A one-step actor-critic in two tables, with some parts replaced: `sign`, `detach`, `ends`, `key`, `shape`..."""
    sign, part = parts.get("sign", 1.0), parts.get("part", lambda x: x)
    ends = parts.get("ends", lambda step: step.terminated)

    def init(key, config):
        key_reset, key_params = jax.random.split(parts.get("key", lambda key: key)(key))
        collector = rljax.rollout.reset(key_reset, config.env, 8)
        noise = 0.01 * jax.random.normal(key_params, (2, 2))
        params = {"logits": noise, "values": jnp.zeros(2), **parts.get("more", {})}
        return State(params=params, collector=collector, step=jnp.int32(0))

    def loss(params, steps, targets, config):
        logits = jax.nn.log_softmax(features(steps.obs) @ params["logits"])
        values = features(steps.obs) @ params["values"]
        advantages = targets - values
        chosen = jnp.take_along_axis(logits, steps.action[..., None], -1)[..., 0]
        critic = part(advantages) ** 2
        return (critic - sign * chosen * jax.lax.stop_gradient(advantages)).mean()

    def update(key, state, config):
        def policy(noise, obs):
            action = jnp.argmax(features(obs) @ state.params["logits"] + noise, axis=-1)
            return action, action

        key_noise, key_rollout = jax.random.split(parts.get("key", lambda key: key)(key))
        noise = jax.random.gumbel(key_noise, (4, 8, 2))
        collector, steps, _ = rljax.rollout.rollout(key_rollout, policy, noise, state.collector, config.env, 4)
        following = jnp.where(ends(steps), 0.0, features(steps.next_obs) @ state.params["values"])
        targets = jax.lax.stop_gradient(steps.reward + config.discount * following)
        gradient = jax.grad(loss)(state.params, steps, targets, config)
        moved = jax.tree.map(lambda x, g: x - config.learning_rate * g, state.params, gradient)
        params = {**moved, **{name: state.params[name] for name in parts.get("dropped", ())}}
        count = parts.get("count", lambda step: step)(state.step) + 1
        return State(params=params, collector=collector, step=count), {"reward": steps.reward.mean()}

    def act(state, config):
        return lambda key, obs: jnp.argmax(features(obs) @ state.params["logits"], axis=-1)

    return SimpleNamespace(__name__="made", Config=Config, init=init, update=update, act=act)


BROKEN = {
    "a detached critic": ({"part": jax.lax.stop_gradient}, ["the gradient of values is always zero"]),
    "a wrong sign": ({"sign": -1.0}, ["the probe reward is not learned", "the probe observation is not learned"]),
    "a bootstrap over ends": ({"ends": lambda step: False}, ["the probe termination is not learned"]),
    "truncation as an end": (
        {"ends": lambda step: step.terminated | step.truncated}, ["the probe truncation is not learned"],
    ),
    "a constant key": ({"key": lambda key: jax.random.key(3)}, ["two seeds learn the same"]),
    "a dropped update": ({"dropped": ("values",)}, ["the parameter values does not move"]),
    "an unused parameter": ({"more": {"unused": jnp.ones(3)}}, ["the gradient of unused is always zero"]),
    "a NaN": ({"part": lambda x: x * jnp.inf}, ["the gradient of values is NaN or infinite"]),
    "a state of another type": ({"count": lambda step: step * 1.0}, ["update changes the state's step"]),
}  # fmt: skip


def found_in(algorithm, steps=9_600):
    return rljax.check_algorithm(algorithm, Config(env=rljax.make("CartPole-v1")), steps)


@pytest.mark.slow
def test_the_algorithm_to_be_broken_passes():
    assert found_in(made()) == []


LONG = (
    "a bootstrap over ends",
    "truncation as an end",
    "a constant key",
    "an unused parameter",
    "a dropped update",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in BROKEN]
)
def test_each_broken_algorithm_is_named(name):
    parts, sentences = BROKEN[name]
    found = found_in(made(**parts), 9_600 if "probe" in sentences[0] else 0)
    for sentence in sentences:
        assert any(one.startswith(sentence) for one in found), found


def test_a_traced_number_must_not_become_pythons():
    algorithm = made()

    def init(key, config):
        return algorithm.init(jax.random.key(int(config.discount)), config)

    found = found_in(SimpleNamespace(**{**vars(algorithm), "init": init}))
    assert len(found) == 1
    assert "needs the value of a traced number" in found[0]


def test_what_is_no_algorithm_is_named():
    assert found_in(SimpleNamespace(Config=Config))[0].startswith("it has no init and no update and no act")
    other = q_learning.Config(env=rljax.make("Taxi-v3"))
    assert "a rljax.algos.q_learning.Config: give the algorithm's own" in rljax.check_algorithm(made(), other)[0]
    with pytest.raises(rljax.UsageError, match="probe_steps"):
        found_in(made(), -1)


@rljax.config.config
class WithoutEnv:
    learning_rate: float = rljax.traced(default=0.5)


def test_what_an_algorithm_must_declare_and_return_is_named():
    algorithm = vars(made())
    found = rljax.check_algorithm(SimpleNamespace(**{**algorithm, "Config": WithoutEnv}), WithoutEnv())
    assert found == [
        "its Config needs env, an rljax.Env, and num_updates, the number of updates of a run: declare both."
    ]
    for returned in (lambda state: state, lambda state: (state, None), lambda state: (state, {}, 1)):

        def update(key, state, config, returned=returned):
            return returned(state)

        found = found_in(SimpleNamespace(**{**algorithm, "update": update}))
        assert len(found) == 1
        assert "must return two things, the new state and a dict of metrics" in found[0]


def test_a_policy_that_gives_no_action_for_each_observation_is_named():
    def act(state, config):
        return lambda key, obs: jnp.int32(0)

    found = found_in(SimpleNamespace(**{**vars(made()), "act": act}), 64)
    assert "of 2 observations its policy gave the shape (): act must return a policy" in found[-1]


def test_parameters_that_are_one_array_have_a_name():
    algorithm = made()

    class One(NamedTuple):
        params: jax.Array

    def init(key, config):
        return One(jax.random.normal(key, (2,)))

    def update(key, state, config):
        gradient = jax.grad(lambda x: 0.0 * x.sum())(state.params)
        return One(state.params - gradient), {}

    found = found_in(SimpleNamespace(**{**vars(algorithm), "init": init, "update": update}), 0)
    assert found[0].startswith("the gradient of params is always zero")
    assert not any("does not move" in one for one in found)


def test_an_error_of_the_algorithm_is_one_sentence():
    def update(key, state, config):
        return state.nothing

    found = found_in(SimpleNamespace(**{**vars(made()), "update": update}))
    assert len(found) == 1
    assert found[0].startswith("update(key, state, config) does not trace: AttributeError")
    assert "test_checker.py, line" in found[0]


def test_an_illegal_action_is_found():
    cart = rljax.make("CartPole-v1")
    masked = cart.replace(legal_actions=lambda state: jnp.array([True, False]))

    algorithm = made()
    blind = SimpleNamespace(**vars(algorithm))

    def update(key, state, config):
        return algorithm.update(key, state, rljax.replace(config, env=config.env.replace(legal_actions=None)))

    blind.update = update
    blind.init = lambda key, config: algorithm.init(
        key, rljax.replace(config, env=config.env.replace(legal_actions=None))
    )
    found = rljax.check_algorithm(blind, Config(env=masked), 0)
    assert any("NaN" in one for one in found)
