"""What several algorithms are tested against: probe environments, and plain NumPy in float64 for whole updates."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rljax

LIMIT = 6  # of an episode's steps


def integers(bits, below):
    """Integers in [0, below) from 32 random bits each, as `random_bits.integers` defines them."""
    return (np.asarray(bits, np.uint64) * np.uint64(below) >> np.uint64(32)).astype(np.int64)


def uniforms(bits):
    """Multiples of 2**-24 in [0, 1) from 32 random bits each."""
    return (np.asarray(bits) >> 8) / 2.0**24


class Ends(NamedTuple):
    """Params: whether an episode ends by termination, or else by a time limit; one program serves both."""

    terminates: jax.Array


def line(terminates):
    """Reward 1 a step in episodes of three steps, ended by a time limit or by termination.

    With termination the observation is the position, so that each step can have its own value; otherwise constant.
    """

    def reset(key, params):
        return jnp.eye(3)[0], jnp.int32(0)

    def step(key, state, action, params):
        state = state + 1
        obs = jnp.eye(3)[jnp.where(params.terminates, jnp.minimum(state, 2), 0)]
        return rljax.timestep(obs, 1.0, params.terminates & (state >= 3), ~params.terminates & (state >= 3)), state

    return _one_kind_of_end("line", reset, step, 3, terminates)


def chain(terminates):
    """Reward 1 a step around five places, ended after the fifth step by a time limit or by termination."""

    def reset(key, params):
        return jax.nn.one_hot(0, 5), jnp.int32(0)

    def step(key, place, action, params):
        following = (place + 1) % 5
        ends = place == 4
        return rljax.timestep(jax.nn.one_hot(following, 5), 1.0, params.terminates & ends, ends), following

    return _one_kind_of_end("chain", reset, step, 5, terminates)


def _one_kind_of_end(name, reset, step, size, terminates):
    return rljax.Env(
        reset=reset, step=step, observation_space=rljax.Box(0.0, 1.0, (size,)), action_space=rljax.Discrete(2),
        params=Ends(terminates), name=name,
    )  # fmt: skip


def one_step():
    """One step, reward -(10 (a - 0.3))^2 with bounds [-0.1, 0.5]: the best action is 0.3."""

    def reset(key, params):
        return jnp.ones(1), jnp.int32(0)

    def step(key, state, action, params):
        return rljax.timestep(jnp.ones(1), -jnp.square(10 * (action[0] - 0.3)), True), state

    return rljax.Env(
        reset=reset,
        step=step,
        observation_space=rljax.Box(0.0, 1.0, (1,)),
        action_space=rljax.Box(-0.1, 0.5, (1,)),
    )


def cartpole_step(state, action):
    """Gymnasium's CartPole, in float64."""
    x, x_dot, theta, theta_dot = state
    force = 10.0 if action == 1 else -10.0
    temp = (force + 0.05 * theta_dot**2 * np.sin(theta)) / 1.1
    theta_acc = (9.8 * np.sin(theta) - np.cos(theta) * temp) / (0.5 * (4.0 / 3.0 - 0.1 * np.cos(theta) ** 2 / 1.1))
    x_acc = temp - 0.05 * theta_acc * np.cos(theta) / 1.1
    new = np.array([x + 0.02 * x_dot, x_dot + 0.02 * x_acc, theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc])
    return new, bool(abs(new[0]) > 2.4 or abs(new[2]) > 12 * 2 * np.pi / 360)


def masked_cartpole():
    """CartPole in which the cart may not be pushed further out; in the middle both actions are legal."""

    def legal_actions(state):
        return jnp.array([state.x > -0.01, state.x < 0.01])

    return rljax.make("CartPole-v1").replace(legal_actions=legal_actions)


def legal_in_cartpole(obs):
    """The masks `[..., 2]` of `masked_cartpole`, in NumPy."""
    return np.stack([np.asarray(obs)[..., 0] > -0.01, np.asarray(obs)[..., 0] < 0.01], axis=-1)


def masked(logits, legal):
    """Logits or values with a number for illegal actions that is too low to be chosen, or to have any probability."""
    return np.where(legal, logits, -1e30)


def play(policy, obs, gumbel, fresh):
    """CartPole with a time limit of LIMIT steps, `[T, N, ...]` of what is seen and done.

    `policy(obs, began)` gives log-probabilities `[N, 2]`; environment n's episodes begin with `fresh[:, n]` in turn.
    """
    horizon, num_envs = gumbel.shape[:2]
    names = ("action", "log_prob", "reward", "terminated", "truncated", "began")
    rows = {name: np.zeros((horizon, num_envs)) for name in names}
    rows["obs"], rows["next_obs"] = np.zeros((2, horizon, num_envs, 4))
    state, time, begun = obs.copy(), np.zeros(num_envs, int), np.zeros(num_envs, int)
    for t in range(horizon):
        rows["began"][t] = (time == 0) & (t > 0)
        log_probs = policy(state, rows["began"][t])
        for n in range(num_envs):
            action = np.argmax(log_probs[n] + gumbel[t, n])
            following, terminated = cartpole_step(state[n], action)
            time[n] += 1
            truncated = time[n] >= LIMIT
            rows["obs"][t, n], rows["next_obs"][t, n] = state[n], following
            rows["action"][t, n], rows["log_prob"][t, n] = action, log_probs[n, action]
            rows["reward"][t, n], rows["terminated"][t, n], rows["truncated"][t, n] = 1.0, terminated, truncated
            state[n] = fresh[begun[n], n] if terminated or truncated else following
            time[n] = 0 if terminated or truncated else time[n]
            begun[n] += terminated or truncated
    return rows


def episode_metrics(rows):
    """What is reported of the episodes that ended in rows from `play`, whose rewards are 1."""
    ended = (rows["terminated"] + rows["truncated"]) > 0
    lengths = np.concatenate([np.diff(np.flatnonzero(column), prepend=-1) for column in ended.T])
    means = {"episode_return": lengths.mean(), "episode_length": lengths.mean(), "reward": rows["reward"].mean()}
    return {"episodes": len(lengths), **means}


def extremes(values, name="action_value"):
    """The mean, the least and the largest of values in a list of arrays, each of the same size."""
    return {name: np.mean(values), f"{name}_min": np.min(values), f"{name}_max": np.max(values)}


def assert_metrics(got, want, rtol=1e-3):
    """An update reports these metrics and no others."""
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=1e-6, err_msg=name)


def generalized_advantages(rows, values, next_values, discount, trace_decay):
    """Schulman et al. 2016, one environment and one step at a time."""
    advantages = np.zeros_like(values)
    for n in range(values.shape[1]):
        running = 0.0
        for t in reversed(range(len(values))):
            alive = 1.0 - rows["terminated"][t, n]
            delta = rows["reward"][t, n] + discount * alive * next_values[t, n] - values[t, n]
            ended = rows["terminated"][t, n] or rows["truncated"][t, n]
            running = delta + (0.0 if ended else discount * trace_decay * running)
            advantages[t, n] = running
    return advantages


def forward(torso, head, x):
    """A tanh layer and a linear one: features and outputs."""
    features = np.tanh(x @ torso["Dense_0"]["kernel"] + torso["Dense_0"]["bias"])
    return features, features @ head["kernel"] + head["bias"]


def backward(torso, head, x, features, gradient):
    """Gradients of `forward`'s parameters, given that of its outputs."""
    hidden = gradient @ head["kernel"].T * (1 - features**2)
    return (
        {"Dense_0": {"kernel": x.T @ hidden, "bias": hidden.sum(0)}},
        {"kernel": features.T @ gradient, "bias": gradient.sum(0)},
    )


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def clip_by_norm(gradient, max_norm):
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    return jax.tree.map(lambda g: g * min(1.0, max_norm / norm), gradient)


class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    def __init__(self, params, learning_rate, epsilon=1e-8):
        self.first, self.second = (jax.tree.map(lambda x: np.zeros(np.shape(x)), params) for _ in range(2))
        self.steps, self.learning_rate, self.epsilon = 0, learning_rate, epsilon

    def step(self, params, gradient):
        self.steps += 1
        self.first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.first, gradient)
        self.second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.second, gradient)

        def moved(param, m, v):
            m, v = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
            return np.asarray(param, np.float64) - self.learning_rate * m / (np.sqrt(v) + self.epsilon)

        return jax.tree.map(moved, params, self.first, self.second)


def assert_moved(got, want, start):
    """Parameters moved to where they should be, by far more than the tolerance."""
    for a, b, c in zip(*map(jax.tree.leaves, (got, want, start)), strict=True):
        assert np.abs(b - c).max() > 1e-3
        np.testing.assert_allclose(a, b, atol=3e-5)


def trained_returns(algorithm, config, seeds, episodes=20):
    """Mean returns of the trained policies of a number of seeds, sorted."""
    states, _ = jax.jit(jax.vmap(algorithm.train, (0, None)))(jax.random.split(jax.random.key(7), seeds), config)

    @jax.jit
    @jax.vmap
    def returns(key, state):
        return rljax.evaluate(key, config.env, algorithm.act(state, config), num_episodes=episodes).mean()

    return np.sort(returns(jax.random.split(jax.random.key(7), seeds), states))


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def drawn_fresh(env, key_rollout, horizon, num_envs):
    """The observations that a rollout with this key starts its next episodes from, `[T, N, ...]`."""
    key = jax.random.split(key_rollout)[1]
    return np.array(
        [
            [env.reset(jax.random.fold_in(key, i * num_envs + n), env.params)[0] for n in range(num_envs)]
            for i in range(horizon)
        ]
    )


def check_gradient(loss, params, *arguments):
    """`loss(params, *arguments) -> (scalar, ...)` against central differences along a random direction of each leaf."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        wide = [jax.tree.map(_widened, tree) for tree in (params, arguments)]
        value = jax.jit(lambda params, arguments: loss(params, *arguments)[0])
        gradient = jax.jit(jax.grad(value))(*wide)
        leaves, structure = jax.tree.flatten(wide[0])
        for i, slope in enumerate(jax.tree.leaves(gradient)):
            direction = rng.normal(size=slope.shape)
            ends = []
            for sign in (1, -1):
                moved = [x + sign * 1e-5 * direction if j == i else x for j, x in enumerate(leaves)]
                ends.append(float(value(jax.tree.unflatten(structure, moved), wide[1])))
            np.testing.assert_allclose(np.sum(slope * direction), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)
            assert np.abs(slope).max() > 1e-7  # every parameter has a part in the loss


def _widened(x):
    return jnp.asarray(x, jnp.float64) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) else x
