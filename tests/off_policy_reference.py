"""What the tests of SAC and TD3 share: networks in NumPy, and environments, one with known values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax


class FeedForward:
    """`networks.FeedForward` with relu in float64, every gradient by hand."""

    def __init__(self, params):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)["params"]
        self.layers = [*(params["torso"][f"Dense_{i}"] for i in range(len(params["torso"]))), params["output"]]

    def forward(self, *inputs):
        self.inputs = [np.concatenate([np.asarray(x, np.float64) for x in inputs], axis=-1)]
        for layer in self.layers[:-1]:
            self.inputs.append(np.maximum(self.inputs[-1] @ layer["kernel"] + layer["bias"], 0.0))
        return self.inputs[-1] @ self.layers[-1]["kernel"] + self.layers[-1]["bias"]

    def backward(self, gradient):
        """Gradients of the parameters and of the inputs, given that of the outputs `[B, K]`."""
        gradients = []
        for layer, inputs in zip(reversed(self.layers), reversed(self.inputs), strict=True):
            gradients.insert(0, {"kernel": inputs.T @ gradient, "bias": gradient.sum(0)})
            gradient = gradient @ layer["kernel"].T * ((inputs > 0) if inputs is not self.inputs[0] else 1.0)
        torso = {f"Dense_{i}": layer for i, layer in enumerate(gradients[:-1])}
        return {"params": {"torso": torso, "output": gradients[-1]}}, gradient


class Ensemble:
    """Critics with parameters stacked along the first axis: outputs `[B, K, C]`."""

    def __init__(self, params):
        members = len(jax.tree.leaves(params)[0])
        self.members = [FeedForward(jax.tree.map(lambda x, i=i: x[i], params)) for i in range(members)]

    def forward(self, *inputs):
        return np.stack([member.forward(*inputs) for member in self.members], axis=-1)

    def backward(self, gradient):
        parts = [member.backward(gradient[..., i]) for i, member in enumerate(self.members)]
        return jax.tree.map(lambda *x: np.stack(x), *(p[0] for p in parts)), sum(p[1] for p in parts)


def polyak(new, old, rate):
    return jax.tree.map(lambda n, o: rate * np.asarray(n) + (1 - rate) * np.asarray(o), new, old)


def assert_close(got, want, start):
    """Parameters as they should be, to a small part of the way that they went."""
    leaves = [jax.tree.leaves(tree) for tree in (got, want, start)]
    for a, b, c in zip(*leaves, strict=True):
        assert np.abs(b - c).max() > 3e-4
        # Where a gradient vanishes, rounding decides which way Adam goes.
        assert np.mean(np.abs(a - b) < 2e-5) > 0.98, np.abs(a - b).max()


def as_float64(tree):
    """The tree with its floats in double precision, inside `jax.enable_x64`."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64 if x.dtype == np.float32 else x.dtype), tree)


def assert_slope(loss, params, gradient=None):
    """The gradient of `loss(params)` along a random direction is its central difference."""
    gradient = jax.jit(jax.grad(loss))(params) if gradient is None else gradient
    rng = np.random.default_rng(4)
    direction = jax.tree.map(lambda x: rng.normal(size=np.shape(x)), params)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: float(np.vdot(g, d)), gradient, direction)))

    @jax.jit
    def moved(size):
        return loss(jax.tree.map(lambda x, d: x + size * d, params, direction))

    assert slope == pytest.approx((float(moved(1e-6)) - float(moved(-1e-6))) / 2e-6, rel=1e-4)
    assert abs(slope) > 1e-4


LOW, HIGH = np.array([[-1.0, 0.0], [2.0, -3.0]]), np.array([[1.0, 10.0], [4.0, 3.0]])  # a scale for each dimension


@functools.cache
def corridor(actions=None):
    """Three places, the last of which leads to itself, and a reward for each step and for how near an action is.

    `terminate_at` and `truncate_at` count steps; `nearness` weighs 1 - |a - goal|^2, a in [-1, 1]; `goal` is `[2, 2]`.
    All are params, so that one program serves all of `corridors`. Discrete actions come nearer as they count up.
    """

    def reset(key, params):
        return jnp.eye(3)[0], jnp.int32(0)

    def step(key, time, action, params):
        unit = (action - LOW) / (HIGH - LOW) * 2 - 1 if actions is None else (action + 1.0) / actions
        goal = params["goal"] if actions is None else 1.0
        reward = params["reward"] + params["nearness"] * (1 - jnp.sum(jnp.square(unit - goal)))
        time = time + 1
        obs = jnp.eye(3)[jnp.minimum(time, 2)]
        return rljax.timestep(obs, reward, time >= params["terminate_at"], time >= params["truncate_at"]), time

    values = {"reward": 1.0, "nearness": 0.0, "terminate_at": 2**30, "truncate_at": 2**30, "goal": jnp.zeros((2, 2))}
    space = rljax.Box(LOW, HIGH, (2, 2)) if actions is None else rljax.Discrete(actions)
    return rljax.Env(
        reset=reset, step=step, observation_space=rljax.Box(0.0, 1.0, (3,)), action_space=space,
        params=values, name="corridor",
    )  # fmt: skip


GOAL = np.array([[0.5, -0.25], [0.0, 0.75]])


def corridors(actions=None):
    """One that is cut after nine steps, one that ends after three, and one of a single step where nearness pays."""
    env = corridor(actions)
    changes = (
        {"truncate_at": 9},
        {"terminate_at": 3},
        {"terminate_at": 1, "nearness": 1.0, "reward": 0.0, "goal": jnp.asarray(GOAL, jnp.float32)},
    )
    return [env.replace(params={**env.params, **params}) for params in changes]


def stack(configs):
    """One config of all, for `vmap`."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *configs)


@functools.cache
def wander(actions=None):
    """Actions that push, of shape `[2, 2]` with a scale each or discrete; episodes end far out or after nine steps."""

    def reset(key, params):
        position = jax.random.normal(key, (3,))
        return position, position

    def step(key, position, action, params):
        unit = ((action - LOW) / (HIGH - LOW) * 2 - 1).reshape(-1) if actions is None else jnp.eye(4)[action]
        position = 0.9 * position + 0.3 * unit[:3] + 0.1 * jax.random.normal(key, (3,))
        return rljax.timestep(position, unit[3] - position[0], jnp.abs(position[1]) > 0.7), position

    space = rljax.Box(LOW, HIGH, (2, 2)) if actions is None else rljax.Discrete(actions)
    observations = rljax.Box(-np.inf, np.inf, (3,))
    env = rljax.Env(reset=reset, step=step, observation_space=observations, action_space=space, name="wander")
    return rljax.envs.time_limit(env, 9)
