"""The DQN family: one update of each variant against NumPy, probes with known values, and its options."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import off_policy_reference as reference
import pytest
import scipy.special
from reference import (
    Adam,
    assert_metrics,
    extremes,
    integers,
    legal_in_cartpole,
    masked,
    masked_cartpole,
    uniforms,
)

import rljax
from rljax import core, dqn, envs, replay, rollout, schedules
from rljax.envs.masks import plain
from rljax.experiment import compilation, placement
from rljax.experiment.evaluating import Evaluation
from rljax.networks import NoisyDense, QNetwork

# --- one whole update of each variant against NumPy ---------------------------------------------------------------

VARIANTS = {
    "plain": {},
    "huber": {"huber_delta": 0.05},
    "clipped": {"max_grad_norm": 0.01, "learning_rate": schedules.linear(2e-3, 0)},
    "polyak": {"target_period": 1, "target_rate": 0.1},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "n_step": {"n_step": 3},
    "prioritized": {"prioritized": True, "successor_slots": 1},  # some successors are lost
    "noisy": {"noisy": True},
    "layer_norm": {"layer_norm": True},
    "normalized": {"normalized": True, "layer_norm": True, "n_step": 3},
    "c51": {"head": "categorical", "num_atoms": 7, "value_low": 0.0, "value_high": 8.0},
    "qr": {"head": "quantile", "num_atoms": 5, "huber_delta": 1.0},
    "double dueling noisy qr": {
        "double": True, "dueling": True, "noisy": True, "layer_norm": True, "head": "quantile", "num_atoms": 5,
        "huber_delta": 1.0, "target_period": 1, "target_rate": 0.1,
    },
    "double prioritized huber normalized": {
        "double": True, "prioritized": True, "huber_delta": 0.05, "layer_norm": True, "n_step": 2, "normalized": True,
    },
    "masked": {"masked": True, "n_step": 2},
    "masked double c51": {
        "masked": True, "double": True, "head": "categorical", "num_atoms": 7, "value_low": 0.0, "value_high": 8.0,
    },
    "masked double prioritized qr": {
        "masked": True, "double": True, "prioritized": True, "head": "quantile", "num_atoms": 5, "huber_delta": 1.0,
    },
    "rainbow": {
        "double": True, "dueling": True, "n_step": 3, "prioritized": True, "noisy": True, "head": "categorical",
        "num_atoms": 7, "value_low": 0.0, "value_high": 8.0,
    },
}  # fmt: skip


def variant(values, **changes):
    env = envs.time_limit(masked_cartpole() if values.get("masked") else rljax.make("CartPole-v1"), 9)
    if values.get("normalized"):
        env = envs.normalize_rewards(envs.normalize_observations(env), 0.9)
    values = {name: value for name, value in values.items() if name not in ("normalized", "masked")}
    small = {
        "total_steps": 200, "num_envs": 2, "num_steps": 5, "gradient_steps": 1, "batch_size": 32, "buffer_size": 60,
        "prefill_steps": 40, "hidden_sizes": (8, 6), "target_period": 3,
    }  # fmt: skip
    return dqn.Config(env=env, **{**small, **values, **changes})


def as_seen(moments, x, centred=True):
    """By hand what wrappers make of raw observations, or of raw rewards, with the statistics so far."""
    deviation = np.sqrt(np.asarray(moments.squared, np.float64) / float(moments.samples) + 1e-8)
    return (np.asarray(x, np.float64) - (np.asarray(moments.mean) if centred else 0.0)) / deviation


class NumpyNetwork:
    """One hidden layer, then a hidden and an output layer for each stream, with every gradient by hand, in float64."""

    def __init__(self, config, params, key):
        self.config, self.params = config, jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]
        self.noise = jax.tree.map(np.asarray, drawn_noise(config, params, key)) if config.noisy else {}

    def weights(self, name):
        layer = self.params[name]
        if name not in self.noise:
            return layer["kernel"], layer["bias"]
        into, out = self.noise[name]
        kernel = layer["kernel"] + layer["kernel_sigma"] * np.outer(into, out)
        return kernel, layer["bias"] + layer["bias_sigma"] * out

    def streams(self):
        return ("advantage", "value") if self.config.dueling else ("value",)

    def forward(self, obs):
        atoms = self.config.num_atoms if self.config.head != "expected" else 1
        self.obs = np.asarray(obs, np.float64)
        torso = self.params["torso"]
        self.hidden, self.normed, outputs = {}, {}, {}
        linear = self.obs @ torso["Dense_0"]["kernel"] + torso["Dense_0"]["bias"]
        self.features = np.maximum(self.norm("torso", torso.get("LayerNorm_0"), linear), 0.0)
        for name in self.streams():
            kernel, bias = self.weights(f"{name}_hidden")
            linear = self.features @ kernel + bias
            self.hidden[name] = np.maximum(self.norm(name, self.params.get(f"{name}_norm"), linear), 0.0)
            kernel, bias = self.weights(name)
            outputs[name] = (self.hidden[name] @ kernel + bias).reshape(len(obs), -1, atoms)
        if not self.config.dueling:
            return outputs["value"]
        advantage = outputs["advantage"]
        return outputs["value"] + advantage - advantage.mean(axis=1, keepdims=True)

    def norm(self, name, layer, x):
        """Ba et al. 2016, equation 4, where the network has such layers."""
        if layer is None:
            return x
        deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        self.normed[name] = (x - x.mean(-1, keepdims=True)) / deviation, deviation
        return self.normed[name][0] * layer["scale"] + layer["bias"]

    def norm_backward(self, name, layer, gradient):
        """The gradient of the layer's inputs, and those of its parameters, if the layer exists."""
        if layer is None:
            return gradient, {}
        normed, deviation = self.normed[name]
        d_normed = gradient * layer["scale"]
        mean, along = d_normed.mean(-1, keepdims=True), (d_normed * normed).mean(-1, keepdims=True)
        key = "LayerNorm_0" if name == "torso" else f"{name}_norm"
        parameters = {"scale": (gradient * normed).sum(0), "bias": gradient.sum(0)}
        return (d_normed - mean - normed * along) / deviation, {key: parameters}

    def backward(self, gradient):
        """Gradients of all parameters, given that of the outputs `[B, A, K]`."""
        per_stream = {"value": gradient}
        if self.config.dueling:
            per_stream = {
                "value": gradient.sum(axis=1, keepdims=True),
                "advantage": gradient - gradient.mean(axis=1, keepdims=True),
            }
        result, d_features = {}, np.zeros_like(self.features)
        for name, d_stream in per_stream.items():
            d_outputs = d_stream.reshape(len(gradient), -1)
            result[name] = self.layer(name, self.hidden[name], d_outputs)
            d_hidden = d_outputs @ self.weights(name)[0].T * (self.hidden[name] > 0)
            d_hidden, norm = self.norm_backward(name, self.params.get(f"{name}_norm"), d_hidden)
            result.update(norm)
            result[f"{name}_hidden"] = self.layer(f"{name}_hidden", self.features, d_hidden)
            d_features += d_hidden @ self.weights(f"{name}_hidden")[0].T
        d_features = d_features * (self.features > 0)
        d_features, norm = self.norm_backward("torso", self.params["torso"].get("LayerNorm_0"), d_features)
        result["torso"] = {"Dense_0": {"kernel": self.obs.T @ d_features, "bias": d_features.sum(0)}, **norm}
        return {"params": result}

    def layer(self, name, inputs, d_outputs):
        gradient = {"kernel": inputs.T @ d_outputs, "bias": d_outputs.sum(0)}
        if name in self.noise:
            into, out = self.noise[name]
            gradient["kernel_sigma"] = gradient["kernel"] * np.outer(into, out)
            gradient["bias_sigma"] = gradient["bias"] * out
        return gradient


@jax.jit
def drawn_noise(config, params, key):
    """The factors of every noisy layer's noise in one call with `key`: f(into), f(out) by the layer's name."""
    noise = {}

    def note(call, args, kwargs, context):
        if not isinstance(context.module, NoisyDense):
            return call(*args, **kwargs)
        inputs = args[0].shape[-1]
        drawn = jax.random.normal(context.module.make_rng("noise"), (inputs + context.module.features,))
        drawn = jnp.sign(drawn) * jnp.sqrt(jnp.abs(drawn))
        noise[context.module.name] = drawn[:inputs], drawn[inputs:]
        return jnp.zeros((*args[0].shape[:-1], context.module.features))

    with nn.intercept_methods(note):
        dqn.default_network(config.env, config).apply(params, jnp.zeros((1, 4)), rngs={"noise": key})
    return noise


def head_loss(config, outputs, following, reward, discount):
    """Losses `[B]`, errors `[B]` and the gradient of the losses with respect to the outputs `[B, K]`."""
    if config.head == "expected":
        difference = outputs[:, 0] - (reward + discount * following[:, 0])
        delta = config.huber_delta or np.inf
        size = np.abs(difference)
        loss = np.where(size <= delta, 0.5 * difference**2, (delta * (size - 0.5 * delta)) if delta < np.inf else 0.0)
        return loss, size, np.clip(difference, -delta, delta)[:, None]
    if config.head == "categorical":
        support = np.linspace(config.value_low, config.value_high, config.num_atoms)
        spacing = support[1] - support[0]
        mass, target = scipy.special.softmax(following, -1), np.zeros_like(outputs)
        for row in range(len(reward)):
            for atom in range(config.num_atoms):
                place = (np.clip(reward[row] + discount[row] * support[atom], support[0], support[-1])) / spacing
                below = min(int(np.floor(place)), config.num_atoms - 2)
                target[row, below] += mass[row, atom] * (below + 1 - place)
                target[row, below + 1] += mass[row, atom] * (place - below)
        log_probs = scipy.special.log_softmax(outputs, -1)
        loss = -(target * log_probs).sum(-1)
        divergence = loss + scipy.special.xlogy(target, target).sum(-1)
        return loss, divergence, np.exp(log_probs) - target
    quantiles = (np.arange(config.num_atoms) + 0.5) / config.num_atoms
    target = reward[:, None] + discount[:, None] * following
    u = target[:, None, :] - outputs[:, :, None]
    weight = np.abs(quantiles[:, None] - (u < 0))
    size = np.where(np.abs(u) <= 1.0, 0.5 * u**2, np.abs(u) - 0.5)
    loss = (weight * size).mean(-1).sum(-1)
    error = np.abs(target.mean(-1) - outputs.mean(-1))
    return loss, error, -(weight * np.clip(u, -1.0, 1.0)).mean(-1)


def action_values(config, outputs):
    if config.head == "categorical":
        support = np.linspace(config.value_low, config.value_high, config.num_atoms)
        return scipy.special.softmax(outputs, -1) @ support
    return outputs.mean(-1)


def numpy_learn(config, state, stored, collector, key):
    """The gradient steps of one update: parameters, targets, the replay, Adam, means of the metrics, all weights."""
    _, key_batches, key_noise = jax.random.split(key, 3)
    words = jax.random.bits(key_batches, (config.gradient_steps, config.batch_size))
    noise = jax.random.split(key_noise, config.gradient_steps)
    progress = float(state.step) / config.num_updates
    importance = 0.4 + (1 - 0.4) * progress
    params, target, rows = state.params, state.target_params, np.arange(config.batch_size)
    adam, told, weights, values = Adam(params, annealed(config)), [], [], []
    for index, (bits, noise_key) in enumerate(zip(words, noise, strict=True)):
        key_online, key_target, key_choice = jax.random.split(noise_key, 3)
        batch = jax.jit(replay.sample, static_argnums=3)(bits, stored, config.discount, config.n_step, importance)
        obs, next_obs, reward = plain(batch.obs), plain(batch.next_obs), np.asarray(batch.reward, np.float64)
        legal = config.env.legal_actions is None or legal_in_cartpole(next_obs)
        if config.env.normalize_observations:
            obs, next_obs = (as_seen(collector.obs_moments, x) for x in (obs, next_obs))
            reward = as_seen(collector.reward_moments, reward, centred=False)
        online = NumpyNetwork(config, params, key_online)
        outputs = online.forward(obs)
        following = NumpyNetwork(config, target, key_target).forward(next_obs)
        choosing = NumpyNetwork(config, params, key_choice).forward(next_obs) if config.double else following
        best = masked(action_values(config, choosing), legal).argmax(-1)
        discount = np.asarray(batch.discount, np.float64)
        chosen = outputs[rows, batch.action]
        losses, errors, slope = head_loss(config, chosen, following[rows, best], reward, discount)
        weight = np.asarray(batch.weight, np.float64)
        d_outputs = np.zeros_like(outputs)
        d_outputs[rows, batch.action] = slope * weight[:, None] / config.batch_size
        gradient = online.backward(d_outputs)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
        scale = min(1.0, config.max_grad_norm / norm)
        params = adam.step(params, jax.tree.map(lambda x, scale=scale: scale * x, gradient))
        if (int(state.step) * config.gradient_steps + index + 1) % config.target_period == 0:
            target = reference.polyak(params, target, config.target_rate)
        known = np.where(weight > 0, errors, 0.0)
        priority = np.float32((known + 1e-6) ** config.priority_exponent)
        stored = jax.jit(replay.reprioritize)(stored, batch.position, priority)
        values.append(action_values(config, chosen))
        told.append(((weight * losses).mean(), errors.mean(), norm, (weight == 0).mean()))
        weights.append(weight)
    means = dict(zip(("loss", "td_error", "gradient_norm", "lost_successors"), np.mean(told, axis=0), strict=True))
    return params, target, stored, adam, means | extremes(values), weights


def annealed(config):
    """The learning rate after two of 16 updates."""
    rate = config.learning_rate
    return rate.start * (1 - 2 / 16) if isinstance(rate, schedules.Schedule) else rate


# Options that the combinations have, too.
COMBINED = ("huber", "double", "dueling", "n_step", "noisy", "layer_norm", "normalized", "c51", "qr", "masked")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in COMBINED else name for name in VARIANTS]
)
def test_one_update_equals_numpy(name):
    """Of three gradient steps, the seventh to the ninth of the run: the targets move only at the eighth."""
    moves = {} if "target_period" in VARIANTS[name] else {"target_period": 4}
    config = variant(VARIANTS[name], gradient_steps=3, **moves)
    state = jax.jit(dqn.init)(jax.random.key(0), config)
    # Different target parameters, so that confusing the two would show.
    other = jax.jit(dqn.default_network(config.env, config).init)(jax.random.key(7), np.zeros((1, 4), np.float32))
    state = state._replace(target_params=other, step=jnp.int32(2))
    if config.prioritized:  # of many sizes, so that the weights differ
        leaves = state.replay.priorities.tree[len(state.replay.priorities.tree) // 2 :]
        known = np.flatnonzero(leaves)
        spread = np.linspace(0.2, 2.0, len(known), dtype=np.float32)
        state = state._replace(replay=jax.jit(replay.reprioritize)(state.replay, known, spread))
    key = jax.random.key(1)
    after, metrics = jax.jit(dqn.update)(key, state, config)

    stored = after.replay
    if config.prioritized:  # before the batches' errors
        steps = jax.tree.map(
            lambda x: np.zeros((5, 2, *x.shape[2:]), x.dtype),
            rollout.Trajectory(stored.obs, stored.action, stored.reward, stored.end > 0, stored.end > 0, stored.obs),
        )
        added = jax.jit(replay.add, static_argnums=2)(state.replay, steps, config.n_step)
        stored = stored._replace(priorities=added.priorities)
    params, target, stored, adam, told, weights = numpy_learn(config, state, stored, after.collector, key)
    assert (np.ptp(weights[0]) > 0.1) == config.prioritized
    assert (told["lost_successors"] > 0) == ("successor_slots" in VARIANTS[name])
    episodes = {name: metrics[name] for name in ("episodes", "episode_return", "episode_length", "reward")}
    progress = 2 / 16
    scheduled = {
        "epsilon": 1 - 0.95 * progress / 0.2, "learning_rate": annealed(config),
        "priority_exponent": config.priority_exponent, "importance_exponent": 0.4 + 0.6 * progress,
    }  # fmt: skip
    assert_metrics(metrics, told | episodes | scheduled | {"env_steps": 40 + 3 * 10})
    for got, want in zip(jax.tree.leaves(after.opt_state.mu), jax.tree.leaves(adam.first), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)  # clipped gradients, which Adam's steps hardly show
    reference.assert_close(after.params, params, state.params)
    reference.assert_close(after.target_params, target, state.target_params)
    for got, want in zip(jax.tree.leaves(after.averaged_params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(got, want)  # nothing is averaged unless asked for
    if config.prioritized:
        got, want = (replay.priorities.tree for replay in (after.replay, stored))
        np.testing.assert_allclose(got, want, rtol=2e-3)


@pytest.mark.parametrize("name", ["noisy", pytest.param("normalized", marks=pytest.mark.slow)])
def test_actions_are_epsilon_greedy_with_the_scheduled_epsilon(name):
    config = variant(
        VARIANTS[name], num_steps=25, total_steps=440, buffer_size=200,
        epsilon=schedules.linear(0.9, 0.1, fraction=0.75),
    )  # fmt: skip
    assert config.num_updates == 8
    state = jax.jit(dqn.init)(jax.random.key(0), config)._replace(step=jnp.int32(3))
    others = jax.tree.map(lambda x: -x, state.params)  # which must not choose the actions
    state = state._replace(averaged_params=others, target_params=others)
    key = jax.random.key(1)
    after, metrics = jax.jit(dqn.update)(key, state, config)
    assert metrics["epsilon"] == pytest.approx(0.5)  # half of the way down after three of six updates
    key_actions, key_values, _ = jax.random.split(jax.random.split(key, 3)[0], 3)
    explores, chosen = jax.random.bits(key_actions, (2, 25, 2))
    greedy = []
    for t, noise in enumerate(jax.random.split(key_values, 25)):
        obs = after.replay.obs[20 + t]
        obs = as_seen(state.collector.obs_moments, obs) if config.env.normalize_observations else obs
        network = NumpyNetwork(config, state.params, noise)
        greedy.append(network.forward(obs)[..., 0].argmax(-1))
    expected = np.where(uniforms(explores) < 0.5, integers(chosen, 2), greedy)
    np.testing.assert_array_equal(after.replay.action[20:45], expected)


# --- probes: environments whose action values are known -----------------------------------------------------------


# `(key, place, action) -> (place, reward, terminated)` with two places, a random one first, and the action values
PROBES = {
    # always ends with a reward of one
    "constant reward": (lambda key, place, action: (0, 1.0, True), [[1.0, 1.0], [1.0, 1.0]]),
    # ends with a reward that depends on the observation
    "reward by observation": (lambda key, place, action: (place, 2.0 * place - 1.0, True), [[-1.0, -1.0], [1.0, 1.0]]),
    # a reward one step ahead, discounted once
    "one step of discount": (
        lambda key, place, action: (1, jnp.where(place == 1, 1.0, 0.0), place == 1), [[0.5, 0.5], [1.0, 1.0]],
    ),
    # the action decides
    "reward by action": (
        lambda key, place, action: (0, jnp.where(action == 1, 1.0, -1.0), True), [[-1.0, 1.0], [-1.0, 1.0]],
    ),
    # the better action depends on the place, and leads on to the other one
    "both": (
        lambda key, place, action: (1, jnp.where(action == place, 1.0, 0.0), place == 1), [[1.5, 0.5], [0.0, 1.0]],
    ),
    # never ends: one for ever
    "for ever": (lambda key, place, action: (place, 1.0, False), [[2.0, 2.0], [2.0, 2.0]]),
    # a reward of zero or two at random
    "noise": (lambda key, place, action: (0, 2.0 * jax.random.bernoulli(key), True), [[1.0, 1.0], [1.0, 1.0]]),
}  # fmt: skip


class Probe(NamedTuple):
    number: jax.Array


def _reset(key, params):
    place = jax.random.randint(key, (), 0, 2)
    return jax.nn.one_hot(place, 2), place


def _step(key, place, action, params):
    every = zip(*(step(key, place, action) for step, _ in PROBES.values()), strict=True)
    following, reward, terminated = (jnp.stack(jnp.broadcast_arrays(*outcomes))[params.number] for outcomes in every)
    return rljax.timestep(jax.nn.one_hot(following, 2), reward, terminated), following


def probe(number):
    """One of the probes, whose number is a param, so that one program trains on all of them."""
    return rljax.Env(
        reset=_reset, step=_step, observation_space=rljax.Box(0.0, 1.0, (2,)), action_space=rljax.Discrete(2),
        params=Probe(number), name="probe",
    )  # fmt: skip


LEARNERS = {
    "plain": {},
    "rainbow": {"double": True, "dueling": True, "n_step": 2, "prioritized": True, "head": "categorical"},
    "qr": {"head": "quantile", "num_atoms": 11},
}


@pytest.mark.parametrize(
    "learner", ["plain", pytest.param("rainbow", marks=pytest.mark.slow), pytest.param("qr", marks=pytest.mark.slow)]
)
def test_probe_values_are_learned(learner):
    config = dqn.Config(
        env=probe(0), total_steps=4_000, discount=0.5, prefill_steps=200, hidden_sizes=(16,),
        learning_rate=schedules.linear(3e-3, 0), epsilon=schedules.linear(1.0, 0.5, fraction=0.2), target_period=20,
        value_low=-2.0, value_high=3.0,
        **LEARNERS[learner],
    )  # fmt: skip

    @jax.jit
    @jax.vmap
    def outputs(number):
        state, _ = dqn.train(jax.random.key(0), rljax.replace(config, env=probe(number)))
        return dqn.default_network(config.env, config).apply(state.params, jnp.eye(2))

    learned = action_values(config, np.asarray(outputs(jnp.arange(len(PROBES)))))
    for (name, (_, expected)), values in zip(PROBES.items(), learned, strict=True):
        if (name, learner) == ("both", "rainbow"):  # with n steps the first values are those of the policy followed
            np.testing.assert_array_equal(values.argmax(-1), np.argmax(expected, -1))
            np.testing.assert_allclose(values[-1], expected[-1], atol=0.15)
        else:
            np.testing.assert_allclose(values, expected, atol=0.15, err_msg=name)


# --- options ------------------------------------------------------------------------------------------------------


def test_copying_the_target_is_a_branch_under_vmap():
    config = variant({})
    keys = jax.random.split(jax.random.key(0), 2)
    text = jax.jit(jax.vmap(dqn.train, (0, None))).lower(keys, config).as_text()
    assert "stablehlo.case" in text


def test_act_uses_the_averaged_parameters():
    """A plain mean of the parameters until `averaging` of the 16 updates are done, then an exponential one."""
    config = dataclasses.replace(variant({}), averaging=0.2, learning_rate=0.1, schedule_steps=200)
    config = rljax.replace(config, total_steps=400)
    assert (config.num_updates, config.schedule_updates) == (36, 16)
    update = jax.jit(dqn.update)
    state = jax.jit(dqn.init)(jax.random.key(0), config)
    expected = 0.0
    for number, window in enumerate([1.0, 2.0, 3.0, 3.2, 3.2]):
        state, _ = update(jax.random.key(number), state, config)
        kernel = np.asarray(state.params["params"]["value"]["kernel"], np.float64)
        expected += (kernel - expected) / window
    np.testing.assert_allclose(state.averaged_params["params"]["value"]["kernel"], expected, rtol=1e-5)
    assert np.abs(expected - kernel).max() > 0.01
    other = jax.tree.map(lambda x: jax.random.normal(jax.random.key(8), x.shape), state.averaged_params)
    obs = jax.random.normal(jax.random.key(9), (200, 4))
    actions = dqn.act(state._replace(averaged_params=other), config)(jax.random.key(0), obs)
    by_other, by_last = (
        NumpyNetwork(config, params, None).forward(obs)[..., 0].argmax(-1) for params in (other, state.params)
    )
    np.testing.assert_array_equal(actions, by_other)
    assert (by_other != by_last).any()


@pytest.mark.slow
def test_normalised_observations_reach_the_learner():
    env = envs.normalize_observations(rljax.make("CartPole-v1"))
    config = dataclasses.replace(variant({}), env=env)
    state, metrics = jax.jit(dqn.train)(jax.random.key(0), config)
    assert state.collector.obs_moments.samples == 200  # the prefill's and all updates'
    returns = rljax.evaluate(jax.random.key(0), env, dqn.act(state, config), num_episodes=3)
    assert returns.shape == (3,)
    assert np.isfinite(metrics["loss"]).all()


def test_custom_network():
    config = dataclasses.replace(
        variant({}), network=QNetwork(rljax.make("CartPole-v1").observation_space, 2, hidden_sizes=(5,))
    )
    state = jax.eval_shape(dqn.init, jax.random.key(0), config)
    assert state.params["params"]["value_hidden"]["kernel"].shape == (4, 5)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["dqn", "rainbow"])
def test_64_seeds_with_100k_transitions_fit_in_2_gib(algo):
    """By the memory analysis of the compiled programs, on one device: nothing is run."""
    keys = jax.random.split(jax.random.key(0), 64)

    def held(capacity):
        config = rljax.preset(algo, "CartPole-v1", buffer_size=capacity)
        shared = jax.tree.map(lambda _: None, config)
        compiled = compilation.build(dqn, config, shared, keys, placement.mesh(64, 1), 1024, Evaluation(20))
        return compiled.init.memory_analysis(), compiled.advance.memory_analysis()

    replays = 64 * 100_000 * (4 + 3) * 4  # observation, action, reward and end, in bytes
    for large, small in zip(held(100_000), held(10_000), strict=True):
        total = (
            large.argument_size_in_bytes
            + large.output_size_in_bytes
            + large.temp_size_in_bytes
            - large.alias_size_in_bytes
        )
        assert replays < total < 2 * 2**30
        # What a batch needs is the same for a tenth of the memory: no copy of the replays while it runs.
        assert abs(large.temp_size_in_bytes - small.temp_size_in_bytes) < 0.01 * replays


def test_a_dueling_network_adds_its_streams():
    space = rljax.make("CartPole-v1").observation_space
    network = QNetwork(space, 3, num_outputs=4, hidden_sizes=(5,), dueling=True)
    params = network.init(jax.random.key(0), jnp.zeros((1, 4)))
    params["params"]["value"]["bias"] = jnp.arange(4.0)
    outputs = network.apply(params, jnp.zeros((2, 4)))
    np.testing.assert_allclose(outputs.mean(axis=1), [np.arange(4.0)] * 2, atol=1e-6)  # advantages have mean zero


def test_gradient_steps_up_to_32_bits_are_accepted():
    config = dqn.Config(env="CartPole-v1", total_steps=2**30 + 992, gradient_steps=31)
    assert 2**30 < config.num_updates * config.gradient_steps < 2**31
    assert rljax.replace(config, head="categorical", value_low=-1, value_high=jnp.float32(1)).value_low == -1


def test_a_longer_run_keeps_its_schedules():
    config = dqn.Config(env="CartPole-v1", total_steps=2_000)
    longer = dataclasses.replace(config, total_steps=3_000, schedule_steps=2_000)
    assert longer.num_updates > config.num_updates == longer.schedule_updates == config.schedule_updates
    for done in (0, config.num_updates // 2, config.num_updates):
        assert core.progress(longer, done) == core.progress(config, done) == np.float32(done / config.num_updates)
    assert core.progress(longer, longer.num_updates) == 1.0
