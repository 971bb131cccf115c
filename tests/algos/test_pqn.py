"""PQN: one update against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import rljax
from rljax import core, envs, pqn, rollout, schedules
from rljax.envs.masks import plain


@pytest.fixture(scope="module")
def small():
    env = envs.time_limit(rljax.make("CartPole-v1"), 7)
    return pqn.Config(
        env=env, total_steps=192, num_envs=4, num_steps=12, num_epochs=2, num_minibatches=3, hidden_sizes=(8, 6),
        max_grad_norm=0.5, learning_rate=schedules.linear(1e-2, 0), epsilon=schedules.linear(0.9, 0.2, fraction=0.75),
    )  # fmt: skip


def normalized(x, layer):
    """A LayerNorm and what its gradient needs."""
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    standard = (x - x.mean(-1, keepdims=True)) / deviation
    return standard * layer["scale"] + layer["bias"], standard, deviation


def forward(params, obs):
    torso, kept = params["torso"], {}
    layers = [(torso["Dense_0"], torso["LayerNorm_0"]), (params["value_hidden"], params["value_norm"])]
    x = np.asarray(obs, np.float64)
    for index, (linear, norm) in enumerate(layers):
        inputs = x
        y, standard, deviation = normalized(x @ linear["kernel"] + linear["bias"], norm)
        x = np.maximum(y, 0.0)
        kept[index] = inputs, standard, deviation, y > 0
    return x @ params["value"]["kernel"] + params["value"]["bias"], (x, kept)


def backward(params, kept, d_values):
    features, layers = kept
    gradient = {"value": {"kernel": features.T @ d_values, "bias": d_values.sum(0)}}
    names = [("torso", "Dense_0", "LayerNorm_0"), ("value_hidden", None, "value_norm")]
    d_x = d_values @ params["value"]["kernel"].T
    torso = {}
    for index in (1, 0):
        inputs, standard, deviation, active = layers[index]
        d_y = d_x * active
        norm = params["value_norm"] if index else params["torso"]["LayerNorm_0"]
        d_norm = {"scale": (d_y * standard).sum(0), "bias": d_y.sum(0)}
        d_standard = d_y * norm["scale"]
        d_z = d_standard - d_standard.mean(-1, keepdims=True)
        d_z = (d_z - standard * (d_standard * standard).mean(-1, keepdims=True)) / deviation
        d_linear = {"kernel": inputs.T @ d_z, "bias": d_z.sum(0)}
        linear = params["value_hidden"] if index else params["torso"]["Dense_0"]
        d_x = d_z @ linear["kernel"].T
        if index:
            gradient["value_hidden"], gradient["value_norm"] = d_linear, d_norm
        else:
            torso = {names[0][1]: d_linear, names[0][2]: d_norm}
    return {**gradient, "torso": torso}


class RAdam:
    """Liu et al. 2020, algorithm 2."""

    def __init__(self, params):
        self.first, self.second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
        self.time = 0

    def step(self, params, gradient, rate):
        self.time += 1
        time, b1, b2 = self.time, 0.9, 0.999
        self.first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, self.first, gradient)
        self.second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, self.second, gradient)
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * time * b2**time / (1 - b2**time)
        if length < 5.0:
            return jax.tree.map(lambda p, m: p - rate * m / (1 - b1**time), params, self.first)
        ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)

        def adapt(p, m, v):
            step = rate * np.sqrt(ratio) * m / (1 - b1**time)
            return p - step / (np.sqrt(v / (1 - b2**time)) + 1e-8)

        return jax.tree.map(adapt, params, self.first, self.second)


@pytest.mark.parametrize("has_masks", [False, True])
def test_one_update_equals_numpy(small, has_masks):
    env = reference.masked_cartpole() if has_masks else rljax.make("CartPole-v1")
    small = rljax.replace(small, env=envs.time_limit(env, 7))
    state = jax.jit(pqn.init)(jax.random.key(0), small)._replace(step=jnp.int32(1))
    key = jax.random.key(1)
    after, metrics = jax.jit(pqn.update)(key, state, small)
    key_collect, key_shuffle = jax.random.split(key)
    key_actions, _, key_rollout = jax.random.split(key_collect, 3)
    bits = jax.random.bits(key_actions, (2, small.num_steps, small.num_envs))
    explores = reference.uniforms(bits[0])

    def legal(obs):
        return np.stack([np.ones(obs.shape[:-1], bool)] * 2, -1) if not has_masks else reference.legal_in_cartpole(obs)

    epsilon = 0.9 - 0.7 * 0.25 / 0.75
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)["params"]

    # The environment's part of the rollout is checked elsewhere: take the trajectory of these very actions.
    def policy(noise, obs):
        values = pqn.default_network(small.env, small).apply(state.params, plain(obs))[..., 0]
        mask = obs.legal if has_masks else jnp.ones(2, bool)
        drawn = jnp.where(mask.all(-1), noise[1] >> 31 == 1, mask[..., 1])  # the only legal action, or one of two
        action = jnp.where(noise[0] < epsilon, drawn, jnp.where(mask, values, -jnp.inf).argmax(-1))
        return action, action

    noise = (jnp.asarray(explores), bits[1])
    _, seen, episodes = rollout.rollout(key_rollout, policy, noise, state.collector, small.env, small.num_steps)
    seen = seen._replace(obs=np.asarray(plain(seen.obs)), next_obs=np.asarray(plain(seen.next_obs)))
    allowed = legal(seen.obs)
    greedy = reference.masked(forward(params, seen.obs)[0], allowed).argmax(-1)
    drawn = np.where(allowed.all(-1), reference.integers(bits[1], 2), allowed[..., 1])
    np.testing.assert_array_equal(seen.action, np.where(explores < epsilon, drawn, greedy))

    best = reference.masked(forward(params, seen.next_obs)[0], legal(seen.next_obs)).max(-1)
    targets = np.zeros(explores.shape)
    for env in range(small.num_envs):
        following = None
        for time in reversed(range(small.num_steps)):
            reward, terminated = float(seen.reward[time, env]), bool(seen.terminated[time, env])
            value = 0.0 if terminated else best[time, env]
            if following is None or terminated or seen.truncated[time, env]:
                following = reward + small.discount * value
            else:
                mixed = (1 - small.trace_decay) * value + small.trace_decay * following
                following = reward + small.discount * mixed
            targets[time, env] = following
    flat = [np.asarray(x).reshape(48, *x.shape[2:]) for x in (seen.obs, seen.action, targets)]
    optimizer, measured, chosen_values = RAdam(params), [], []
    rate = 1e-2 * (1 - 1 / small.num_updates)
    for chosen in np.asarray(core.minibatches(key_shuffle, 48, 3, 2)):
        obs, action, target = (x[chosen] for x in flat)
        values, kept = forward(params, obs)
        error = values[np.arange(16), action] - target
        d_values = np.zeros_like(values)
        d_values[np.arange(16), action] = error / 16
        gradient = backward(params, kept, d_values)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
        measured.append((0.5 * (error**2).mean(), np.abs(error).mean(), norm))
        chosen_values.append(error + target)
        gradient = reference.clip_by_norm(gradient, small.max_grad_norm)
        params = optimizer.step(params, gradient, rate)
    means = dict(zip(("loss", "td_error", "gradient_norm"), np.mean(measured, axis=0), strict=True))
    scheduled = {"epsilon": epsilon, "learning_rate": rate}
    means |= reference.extremes(chosen_values)
    reference.assert_metrics(metrics, episodes | means | scheduled | {"env_steps": 2 * 48})
    for got, want in zip(jax.tree.leaves(after.params["params"]), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_act_is_greedy(small):
    """On parameters that are scattered enough for either action to be the best."""
    state = jax.jit(pqn.init)(jax.random.key(0), small)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), state.params)
    obs = jax.random.normal(jax.random.key(2), (50, 4))
    actions = jax.jit(lambda: pqn.act(state._replace(params=params), small)(jax.random.key(3), obs))()
    best = forward(reference.as_float64(params)["params"], obs)[0].argmax(-1)
    np.testing.assert_array_equal(actions, best)
    assert len(set(best.tolist())) == 2
