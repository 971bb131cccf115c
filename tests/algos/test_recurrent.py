"""Recurrent policies: when the hidden state is reset, training on sequences, and PPO with a GRU against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from reference import (
    Adam,
    as_float64,
    assert_moved,
    check_gradient,
    clip_by_norm,
    drawn_fresh,
    generalized_advantages,
    log_softmax,
    play,
    trained_returns,
)

import rljax
from rljax import core, envs, networks, on_policy, ppo
from rljax.distributions import policy_head
from rljax.types import RecurrentPolicy


@pytest.fixture(scope="module")
def env():
    """CartPole in episodes of at most six steps, so that a rollout has ends of both kinds within it."""
    return envs.time_limit(rljax.make("CartPole-v1"), 6)


@pytest.fixture(scope="module")
def small(env):
    return ppo.Config(
        env=env, total_steps=4 * 15 * 3, num_envs=4, num_steps=15, num_minibatches=2, recurrent="gru", hidden_sizes=(8,)
    )


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_hidden_state_is_reset_at_the_end_of_an_episode(name):
    network = networks.RecurrentActorCritic(rljax.Box(-1.0, 1.0, (3,)), 2, name, (8,))
    key_init, key_obs, key_hidden = jax.random.split(jax.random.key(0), 3)
    obs = jax.random.normal(key_obs, (2, 9, 3))
    zero = network.initial_hidden_state(2)
    hidden_state = jax.tree.map(lambda x: jax.random.normal(key_hidden, x.shape), zero)
    params = network.init(key_init, obs[:, 0], zero)
    began = jnp.zeros((2, 9), bool).at[0, 5].set(True)
    outputs, values, last = network.apply(params, obs, hidden_state, began)

    fresh = network.apply(params, obs[:, 5:], zero, began[:, :4])
    np.testing.assert_allclose(values[0, 5:], fresh[1][0], atol=1e-6)
    np.testing.assert_allclose(outputs[0, 5:], fresh[0][0], atol=1e-6)
    assert np.abs(values[1, 5:] - fresh[1][1]).max() > 1e-3  # the other environment keeps its hidden state
    stepped = hidden_state
    for t in range(9):  # one step at a time is the same
        stepped = networks.reset_hidden_state(stepped, began[:, t])
        output, value, stepped = network.apply(params, obs[:, t], stepped)
        np.testing.assert_allclose(output, outputs[:, t], atol=1e-6)
        np.testing.assert_allclose(value, values[:, t], atol=1e-6)
    for one, other in zip(jax.tree.leaves(stepped), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


# --- acting and learning ----------------------------------------------------------------------------------------------


def test_hidden_states_along_a_sequence_match_those_of_acting(small):
    """From the hidden state stored before it, mid-episode, a sequence reproduces the probabilities of acting.

    An episode ends with the rollout, which resets only the hidden state after it.
    """
    key_init, key_update, key_noise, key_rollout = jax.random.split(jax.random.key(0), 4)
    state, _ = jax.jit(ppo.update)(key_update, jax.jit(ppo.init)(key_init, small), small)
    network = ppo.default_network(small.env, small)
    collect = jax.jit(lambda state: on_policy.collect(key_noise, key_rollout, network, state, small))
    _, _, batch, _ = collect(state)
    _, hidden_state, began = batch.inputs
    assert np.abs(hidden_state[0]).max() > 0.01
    assert began.sum() == 4 * 2
    outputs, values, _ = network.apply(state.params, *batch.inputs)
    log_prob = policy_head(small.env.action_space).distribution(outputs).log_prob(batch.action)
    np.testing.assert_allclose(log_prob, batch.log_prob, atol=1e-6)
    np.testing.assert_allclose(values, batch.value, atol=1e-6)
    blind, _, _ = network.apply(state.params, batch.inputs[0], hidden_state, jnp.zeros_like(began))
    assert np.abs(blind - outputs).max() > 1e-4  # without resets they differ


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (None, {"recurrent": None}),
        (None, {"recurrent": "gru"}),
        (None, {"recurrent": "lstm"}),
        ("Pendulum-v1", {"recurrent": None, "value_clip": 0.05}),
    ],
)
def test_the_gradient_of_the_loss_is_its_finite_difference(small, name, changes):
    """Through time as well, and for a Gaussian policy with its values clipped."""
    env = small.env if name is None else rljax.make(name)
    config = dataclasses.replace(small, env=env, entropy_coefficient=0.01, **changes)
    key_init, key_noise, key_rollout = jax.random.split(jax.random.key(0), 3)
    state = jax.jit(ppo.init)(key_init, config)
    *_, batch, _ = on_policy.collect(key_noise, key_rollout, ppo.default_network(config.env, config), state, config)
    batch = batch._replace(
        log_prob=batch.log_prob + 0.05 * jnp.sin(jnp.arange(batch.log_prob.size)).reshape(batch.log_prob.shape),
        value=batch.value + 0.1 * jnp.cos(jnp.arange(batch.value.size)).reshape(batch.value.shape),
    )
    check_gradient(lambda params, batch: ppo.loss(params, batch, config), state.params, batch)


def test_evaluation_starts_from_the_initial_hidden_state():
    """A policy that counts its steps, where the reward is the action: three steps are worth 0 + 1 + 2."""

    def step(key, state, action, params):
        return rljax.timestep(jnp.zeros(1), action.astype(jnp.float32), state == 2), state + 1

    env = rljax.Env(
        reset=lambda key, params: (jnp.zeros(1), jnp.int32(0)),
        step=step,
        observation_space=rljax.Box(0.0, 1.0, (1,)),
        action_space=rljax.Discrete(9),
    )
    policy = RecurrentPolicy(lambda n: jnp.zeros(n, jnp.int32), lambda key, obs, count: (count, count + 1))
    for seed in range(2):
        np.testing.assert_array_equal(rljax.evaluate(jax.random.key(seed), env, policy, 4), 3.0)


# --- one whole update against NumPy -------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(core, h, x):
    """Cho et al. 2014, with the reset gate after the product (PyTorch's, cuDNN's): the new state and its parts."""
    r = sigmoid(x @ core["ir"]["kernel"] + core["ir"]["bias"] + h @ core["hr"]["kernel"])
    z = sigmoid(x @ core["iz"]["kernel"] + core["iz"]["bias"] + h @ core["hz"]["kernel"])
    inner = h @ core["hn"]["kernel"] + core["hn"]["bias"]
    n = np.tanh(x @ core["in"]["kernel"] + core["in"]["bias"] + r * inner)
    return (1 - z) * n + z * h, (r, z, inner, n)


def gru_backward(core, gradient, h, x, parts, d_new):
    """Add to the parameters' `gradient`; the gradients of the old state and of the input."""
    r, z, inner, n = parts
    d_n = d_new * (1 - z) * (1 - n**2)
    d_z = d_new * (h - n) * z * (1 - z)
    d_r = d_n * inner * r * (1 - r)
    d_h, d_x = d_new * z, 0.0
    for gate, d_in, d_hidden in (("r", d_r, d_r), ("z", d_z, d_z), ("n", d_n, d_n * r)):
        gradient["i" + gate]["kernel"] += x.T @ d_in
        gradient["i" + gate]["bias"] += d_in.sum(0)
        gradient["h" + gate]["kernel"] += h.T @ d_hidden
        d_h = d_h + d_hidden @ core["h" + gate]["kernel"].T
        d_x = d_x + d_in @ core["i" + gate]["kernel"].T
    gradient["hn"]["bias"] += (d_n * r).sum(0)
    return d_h, d_x


def step(params, obs, hidden_state):
    """One step of the network from the actor's and the critic's hidden state `[2, N, H]`.

    The new hidden state, log-probabilities, values, and of actor and critic the torso's features and the core's parts.
    """
    new, inside = np.zeros_like(hidden_state), []
    for i, name in enumerate(("actor", "critic")):
        torso = params[name]["torso"]["Dense_0"]
        x = np.tanh(obs @ torso["kernel"] + torso["bias"])
        new[i], parts = gru(params[name]["core"], hidden_state[i], x)
        inside.append((x, parts))
    logits = new[0] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    return new, log_softmax(logits), (new[1] @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"])[:, 0], inside


def sequence_gradient(params, config, rows, hidden_state):
    """Loss and gradient over sequences `[T, B]` by backpropagation through time, none into `hidden_state`."""
    horizon, size = rows["action"].shape
    advantage = (rows["advantage"] - rows["advantage"].mean()) / (rows["advantage"].std() + 1e-8)
    steps, h, loss = [], hidden_state, 0.0
    gradient = jax.tree.map(np.zeros_like, params)
    for t in range(horizon):
        h = np.where(rows["began"][t][:, None] > 0, 0.0, h)
        steps.append((h, *step(params, rows["obs"][t], h)))
        h = steps[-1][1]
    d_next = np.zeros_like(hidden_state)
    for t in reversed(range(horizon)):
        h, new, log_probs, value, inside = steps[t]
        probs, taken = np.exp(log_probs), np.eye(2)[rows["action"][t].astype(int)]
        ratio = np.exp((log_probs * taken).sum(1) - rows["log_prob"][t])
        clipped = np.clip(ratio, 1 - config.clip, 1 + config.clip)
        entropy = -(probs * log_probs).sum(1)
        error = value - rows["target"][t]
        surrogate = np.minimum(ratio * advantage[t], clipped * advantage[t])
        each = -surrogate + config.value_coefficient * 0.5 * error**2 - config.entropy_coefficient * entropy
        loss += each.sum() / (horizon * size)
        active = ratio * advantage[t] <= clipped * advantage[t]
        d_logits = -(active * ratio * advantage[t])[:, None] * (taken - probs)
        d_logits += config.entropy_coefficient * probs * (log_probs + entropy[:, None])
        d_logits, d_value = d_logits / (horizon * size), config.value_coefficient * error[:, None] / (horizon * size)
        for i, (name, head, d_out) in enumerate((("actor", "Dense_0", d_logits), ("critic", "Dense_1", d_value))):
            x, parts = inside[i]
            gradient[head]["kernel"] += new[i].T @ d_out
            gradient[head]["bias"] += d_out.sum(0)
            d_new = d_out @ params[head]["kernel"].T + d_next[i]
            d_h, d_x = gru_backward(params[name]["core"], gradient[name]["core"], h[i], x, parts, d_new)
            d_x = d_x * (1 - x**2)
            gradient[name]["torso"]["Dense_0"]["kernel"] += rows["obs"][t].T @ d_x
            gradient[name]["torso"]["Dense_0"]["bias"] += d_x.sum(0)
            d_next[i] = np.where(rows["began"][t][:, None] > 0, 0.0, d_h)  # nothing flows back beyond a beginning
    return loss, gradient


def reference_update(params, config, hidden_state, obs, gumbel, fresh, indices, learning_rate):
    """PPO over whole sequences of environments, in float64."""
    state, befores, afters = [hidden_state], [], []

    def policy(obs, began):
        befores.append(np.where(began[:, None] > 0, 0.0, state[0]))
        state[0], log_probs, _, _ = step(params, obs, befores[-1])
        afters.append(state[0])
        return log_probs

    rows = play(policy, obs, gumbel, fresh)
    values = np.stack([step(params, o, h)[2] for o, h in zip(rows["obs"], befores, strict=True)])
    next_values = np.stack([step(params, o, h)[2] for o, h in zip(rows["next_obs"], afters, strict=True)])
    rows["advantage"] = generalized_advantages(rows, values, next_values, config.discount, config.gae_lambda)
    rows["target"] = rows["advantage"] + values
    adam, losses = Adam(params, learning_rate, 1e-5), []
    for chosen in indices:
        part = {name: x[:, chosen] for name, x in rows.items()}
        loss, gradient = sequence_gradient(params, config, part, hidden_state[:, chosen])
        losses.append(loss)
        gradient = clip_by_norm(gradient, config.max_grad_norm)
        params = adam.step(params, gradient)
    ended = (rows["terminated"][-1] + rows["truncated"][-1]) > 0
    return params, np.mean(losses), np.where(ended[:, None], 0.0, state[0])


def test_one_update_equals_numpy(small):
    config = dataclasses.replace(small, learning_rate=3e-3, clip=0.02, entropy_coefficient=0.01)
    key_init, key_hidden, key = jax.random.split(jax.random.key(3), 3)
    state = jax.jit(ppo.init)(key_init, config)
    # As if the episodes had begun before.
    state = state._replace(hidden_state=(tuple(jax.random.normal(key_hidden, (2, 4, 8))),))
    after, metrics = jax.jit(ppo.update)(key, state, config)

    key_noise, key_rollout, key_shuffle = jax.random.split(key, 3)
    gumbel = policy_head(config.env.action_space).noise(key_noise, (15, 4))
    fresh = drawn_fresh(config.env, key_rollout, 15, 4)
    indices = np.asarray(core.minibatches(key_shuffle, 4, 2, 4))
    start = as_float64(state.params["params"])
    hidden_state, *inputs = as_float64((np.stack(state.hidden_state[0]), state.collector.obs, gumbel, fresh))
    expected, loss, hidden_state = reference_update(start, config, hidden_state, *inputs, indices, 3e-3)
    assert_moved(after.params["params"], expected, start)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(np.stack(after.hidden_state[0]), hidden_state, atol=1e-5)
    assert metrics["clip_fraction"] > 0.05


# --- learning -------------------------------------------------------------------------------------------------------


def test_a_custom_network_can_be_recurrent(small):
    """Not Flax: anything with init, apply and initial_hidden_state."""

    class Averaging:
        def initial_hidden_state(self, num_envs):
            return jnp.zeros((num_envs, 4))

        def init(self, key, obs, hidden_state):
            return {"policy": jnp.zeros((4, 2)), "value": jnp.zeros(4)}

        def apply(self, params, obs, hidden_state, began=None):
            if began is None:
                hidden_state = 0.5 * hidden_state + obs
                return hidden_state @ params["policy"], hidden_state @ params["value"], hidden_state

            def step(hidden_state, inputs):
                obs, began = inputs
                *outputs, hidden_state = self.apply(params, obs, networks.reset_hidden_state(hidden_state, began))
                return hidden_state, outputs

            inputs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (obs, began))
            hidden_state, (outputs, values) = jax.lax.scan(step, hidden_state, inputs)
            return jnp.swapaxes(outputs, 0, 1), values.T, hidden_state

    state, metrics = jax.jit(ppo.train)(
        jax.random.key(0), dataclasses.replace(small, recurrent=None, network=Averaging())
    )
    assert np.abs(state.params["policy"]).max() > 0
    assert np.isfinite(metrics["loss"]).all()


@pytest.mark.slow
@toys.optimized()
def test_a_bit_is_remembered():
    """Shown at the beginning of an episode and asked for at its end, worth 1 if right and -1 if wrong."""
    config = rljax.preset("recurrent_ppo", "MemoryChain-bsuite", total_steps=60_000)
    values = trained_returns(ppo, config, seeds=3, episodes=50)
    assert values[1] > 0.95
    assert values[0] > 0.5
