"""Every format gives the actions of our own policy, for every algorithm and space."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from nested import nested_cartpole, robot

import rljax
from rljax import a2c, dqn, envs, networks, ppo, pqn, q_learning, reinforce, running_statistics, sac, td3
from rljax.export import exportable, loader, numpy, onnx, safetensors, stablehlo
from rljax.types import RecurrentPolicy

N = 1_000
SMALL = {"hidden_sizes": (16, 16)}


def env_with_masks(space=rljax.Discrete(4, start=2)):  # noqa: B008 - spaces are values
    def reset(key, params):
        return jax.random.normal(key, (3,)), jnp.int32(0)

    def step(key, state, action, params):
        return rljax.timestep(jax.random.normal(key, (3,)), 0.0, False), state

    def legal(state):
        return jnp.array([True, False, True, True])

    box = rljax.Box(-np.inf, np.inf, (3,))
    return rljax.Env(
        name="masks", reset=reset, step=step, observation_space=box, action_space=space, legal_actions=legal
    )


def pixels():
    def reset(key, params):
        return jax.random.randint(key, (40, 40, 2), 0, 255, jnp.int32).astype(jnp.uint8), jnp.int32(0)

    def step(key, state, action, params):
        return rljax.timestep(reset(key, params)[0], 0.0, False), state

    box = rljax.Box(0, 255, (40, 40, 2), np.uint8)
    return rljax.Env(name="pixels", reset=reset, step=step, observation_space=box, action_space=rljax.Discrete(3))


def cartpole():
    return rljax.make("CartPole-v1")


def pendulum():
    return envs.normalize_observations(rljax.make("Pendulum-v1"))


CASES = {
    "ppo": (ppo, lambda: envs.normalize_observations(cartpole()), SMALL),
    "ppo, continuous": (ppo, pendulum, SMALL),
    "ppo, squashed, gelu": (ppo, pendulum, {**SMALL, "squash_actions": True, "activation": "gelu"}),
    "ppo, gru": (ppo, cartpole, {**SMALL, "recurrent": "gru"}),
    "ppo, lstm": (ppo, pendulum, {**SMALL, "recurrent": "lstm", "shared_torso": True}),
    "ppo, nested": (ppo, lambda: envs.normalize_observations(robot(rljax.MultiDiscrete((2, 3)))), SMALL),
    "ppo, masks": (ppo, env_with_masks, SMALL),
    "ppo, states": (ppo, lambda: rljax.make("Taxi-v3"), {**SMALL, "encoder": networks.encoder(embedding=4)}),
    "a2c": (a2c, nested_cartpole, SMALL),
    "reinforce": (reinforce, cartpole, SMALL),
    "dqn": (dqn, lambda: envs.normalize_observations(cartpole()), SMALL),
    "dqn, impala": (dqn, pixels, {**SMALL, "encoder": "impala"}),
    "dqn, nature": (dqn, pixels, {**SMALL, "encoder": "nature"}),
    "rainbow": (dqn, env_with_masks, {**SMALL, "dueling": True, "noisy": True, "head": "categorical",
                                     "value_low": 0.0, "value_high": 9.0}),
    "qr_dqn": (dqn, cartpole, {**SMALL, "head": "quantile", "averaging": 0.5}),
    "pqn": (pqn, lambda: rljax.make("Breakout-MinAtar"), SMALL),
    "sac": (sac, pendulum, SMALL),
    "sac, discrete": (sac, cartpole, SMALL),
    "td3": (td3, pendulum, SMALL),
    "q_learning": (q_learning, lambda: rljax.make("Taxi-v3"), {}),
    "double_q_learning": (q_learning, lambda: rljax.make("FrozenLake-misc"), {"target": "double_q_learning"}),
}  # fmt: skip


def scattered(state, rng):
    """A state whose policy depends on all of its observation: parameters and statistics as after training."""

    def noisy(x):
        if np.shape(x)[-1:] == () or x.dtype != np.float32:
            return x
        noise = rng.normal(size=np.shape(x)).astype(np.float32)
        # Without a mean over inputs, so that features of one sign do not decide for one action.
        return x + (0.7 * (noise - noise.mean(axis=-2, keepdims=True)) if noise.ndim > 1 else 0.05 * noise)

    parts = {
        name: jax.tree.map(noisy, getattr(state, name))
        for name in ("params", "averaged_params", "tables")
        if hasattr(state, name)
    }

    def moments(x):
        seen = rng.normal(1.0, 2.0, size=(50, *x.mean.shape)).astype(np.float32)
        return running_statistics.update_moments(x, seen)

    is_moments = lambda x: isinstance(x, running_statistics.Moments)  # noqa: E731
    statistics = jax.tree.map(moments, state.collector.obs_moments, is_leaf=is_moments)
    return state._replace(collector=state.collector._replace(obs_moments=statistics), **parts)


LONG = ("dqn, impala", "ppo, lstm")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES]
)
def made(request):
    """A policy, and its inputs and outputs on a thousand observations."""
    algorithm, make, fields = CASES[request.param]
    config, rng = algorithm.Config(env=make(), **fields), np.random.default_rng(0)
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), config)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if x.dtype.itemsize else x, shapes)
    state = scattered(state, rng)
    policy = algorithm.act(state, config)
    few = 50 if request.param in ("dqn, impala", "dqn, nature") else N
    sample = jax.jit(jax.vmap(config.env.observation_space.sample))
    seen = sample(jax.random.split(jax.random.key(1), few))
    inputs = [np.asarray(x) for x in jax.tree.leaves(seen)]
    exported = exportable.of_policy(policy, config.env)
    if config.env.legal_actions is not None:
        inputs.append(rng.random((few, *exported.inputs["legal_actions"].shape)) < 0.6)
        inputs[-1][:3] = False  # where no action is legal, all are
        legal = np.where(inputs[-1].any(-1, keepdims=True), inputs[-1], True)
        seen = envs.Masked(seen, legal)
    key = jax.random.key(2)
    if isinstance(policy, RecurrentPolicy):
        hidden = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), policy.initial_hidden_state(few))
        inputs += jax.tree.leaves(hidden)
        outputs = jax.tree.leaves(jax.jit(policy.step)(key, seen, hidden))
    else:
        outputs = [jax.jit(policy)(key, seen)]
    return exported, dict(zip(exported.inputs, inputs, strict=True)), list(map(np.asarray, outputs))


def agree(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert np.asarray(x).dtype == y.dtype
        np.testing.assert_allclose(np.asarray(x), y, rtol=0, atol=1e-5)
    assert len(expected[0]) < 50 or len(np.unique(expected[0])) > 1


def test_stablehlo_runs_by_jax(made, tmp_path):
    policy, inputs, expected = made
    path, described = stablehlo.write(tmp_path / "p.bin", policy, {"seed": 3})
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    agree(exported.call(*inputs.values()), expected)
    assert json.loads(described.read_text()) == {"seed": 3, "platforms": ["cpu", "cuda", "tpu"]}


def test_onnx_runs_by_onnxruntime(made, tmp_path):
    policy, inputs, expected = made
    (path,) = onnx.write(tmp_path / "p.onnx", policy, {"seed": 3})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    agree(session.run(policy.outputs, inputs), expected)
    agree(session.run(policy.outputs, {name: x[:7] for name, x in inputs.items()}), [x[:7] for x in expected])
    assert json.loads(session.get_modelmeta().custom_metadata_map["rljax"]) == {"seed": 3}


@pytest.mark.parametrize("package", [numpy, safetensors])
def test_arrays_run_by_numpy(made, package, tmp_path):
    policy, inputs, expected = made
    path, _ = package.write(tmp_path / "p", policy, {"seed": 3})
    act, metadata = loader.load(str(path))
    agree([act(inputs)[name] for name in policy.outputs], expected)
    agree(
        [act({name: x[:7] for name, x in inputs.items()})[name] for name in policy.outputs], [x[:7] for x in expected]
    )
    assert metadata == {"seed": 3}


REFUSED = {
    "an operation": (lambda key, obs: jnp.sort(obs), "the operation sort, which only the format"),
    "bfloat16": (lambda key, obs: obs.astype(jnp.bfloat16).astype(jnp.float32) * 2, "computes in bfloat16"),
    "randomness": (lambda key, obs: obs + jax.random.normal(key, ()), "draws random numbers"),
    "other rows": (lambda key, obs: obs[:2], "one row for each observation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_policies_that_numpy_cannot_run_are_refused(name, tmp_path):
    function, sentence = REFUSED[name]
    policy = exportable.of_policy(function, cartpole())
    with pytest.raises(rljax.UsageError, match=sentence):
        numpy.write(tmp_path / "p", policy, {})
    assert list(tmp_path.iterdir()) == []
