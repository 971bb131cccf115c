"""One run's environments on 8 devices: what one device gives, to rounding; and that the devices share the work.

JAX keeps the devices it was started with, so this file is also a script that a process of its own runs: it trains on 8
devices and prints what the tests here look at.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.sharding import PartitionSpec as P

import rljax
from rljax import a2c, cli, dqn, ppo, q_learning, reinforce, sac
from rljax.backend import sharding
from rljax.backend.unrolling import unrolled
from rljax.experiment import compilation, history, run

QUIET = {"evaluations": 0, "eval_episodes": 2, "progress": False}
COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)\(")


class Linear(NamedTuple):
    """Policy outputs and values by a product each: quick to compile."""

    def init(self, key, obs):
        return 0.3 * jax.random.normal(key, (obs.shape[-1], 3))

    def apply(self, params, obs):
        outputs = obs @ params
        return outputs[..., :2], outputs[..., 2]


class ActionValues(NamedTuple):
    """One output for each of two actions."""

    def init(self, key, obs):
        return 0.3 * jax.random.normal(key, (obs.shape[-1], 2))

    def apply(self, params, obs):
        return (obs @ params)[..., None]


class Elman(NamedTuple):
    """A hidden state of five numbers, and policy outputs and values from it."""

    def initial_hidden_state(self, num_envs):
        return jnp.zeros((num_envs, 5))

    def init(self, key, obs, hidden_state):
        into, over, out = jax.random.split(key, 3)
        sizes = {"into": (into, (obs.shape[-1], 5)), "over": (over, (5, 5)), "out": (out, (5, 3))}
        return {name: 0.5 * jax.random.normal(key, shape) for name, (key, shape) in sizes.items()}

    def apply(self, params, obs, hidden_state, began=None):
        def step(hidden_state, inputs):
            obs, began = inputs
            hidden_state = jnp.where(began[..., None], 0.0, hidden_state)
            hidden_state = jnp.tanh(obs @ params["into"] + hidden_state @ params["over"])
            return hidden_state, hidden_state

        if began is None:
            hidden_state, features = step(hidden_state, (obs, jnp.zeros(obs.shape[:-1], bool)))
        else:
            hidden_state, features = jax.lax.scan(step, hidden_state, (jnp.swapaxes(obs, 0, 1), began.T))
            features = jnp.swapaxes(features, 0, 1)
        outputs = features @ params["out"]
        return outputs[..., :2], outputs[..., 2], hidden_state


def _reset(key, params):
    position = jax.random.uniform(key, (2,), minval=-1.0)
    return position, position


def _step(key, position, action, params):
    position = 0.9 * position + 0.3 * (action - 0.5)
    return rljax.timestep(position, -jnp.square(position).sum(), jnp.abs(position[0]) < 0.05), position


# Quicker to compile than CartPole.
drift = dataclasses.replace(toys.walk, name="drift", reset=_reset, step=_step, observation_space=rljax.Box(-9, 9, (2,)))


# --- in a separate process, on 8 devices ---------------------------------------------------------------------------


def furthest(result, expected, runs):
    """The greatest difference of the final states and of the metrics, over 1 + the value; NaN in the same places."""
    pairs = zip(jax.tree.leaves((result.states, result.metrics)), jax.tree.leaves(expected), strict=True)
    differences = []
    for ours, theirs in pairs:
        got, want = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)[:runs]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        differences.append(np.nan_to_num(np.abs(got - want) / (1.0 + np.abs(want))).max(initial=0.0))
    return max(differences)


def loops(text):
    """Of every loop of a compiled program: how often it runs, the collectives in it, the size of its largest product.

    Elements of the products' results on one device. Loops inside a loop count as its own.
    """
    bodies = {m[1]: m[2] for m in re.finditer(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S)}

    def lines(name):
        for line in bodies.get(name, "").splitlines():
            yield line
            if COLLECTIVE.search(line) is None:
                for called in re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", line):
                    yield from lines(called)

    for name, trips in re.findall(r" while\(.*?body=%?([\w.\-]+).*?\"known_trip_count\":\{\"n\":\"(\d+)\"", text):
        inside = list(lines(name))
        products = [m[1].split(",") for line in inside if (m := re.search(r" = f32\[([\d,]*)\]\S* dot\(", line))]
        collectives = [m[1] for line in inside if (m := COLLECTIVE.search(line))]
        yield int(trips), collectives, max((int(np.prod([int(n) for n in shape])) for shape in products), default=0)


def stopped_and_resumed(algorithm, config, whole, folder):
    """True if a run that stops after its first update resumes to the same bits, with the same sharding."""
    add_chunk = history.Record.add_chunk

    def stop(self, *arguments):
        if self.updates:
            raise RuntimeError("stopped")
        add_chunk(self, *arguments)

    history.Record.add_chunk = stop
    with contextlib.suppress(RuntimeError):
        rljax.run(algorithm, config, seeds=2, shard="envs", out=folder, checkpoint_every=0, **QUIET)
    history.Record.add_chunk = add_chunk
    resumed = rljax.resume(folder, config=config, progress=False)
    shard = json.loads((folder / "config.json").read_text())["shard"]
    return {"shard": shard, "same": toys.same_bits(resumed.states, whole.states)}


def refusal(*arguments, **options):
    try:
        rljax.run(*arguments, progress=False, **options)
    except rljax.UsageError as error:
        return str(error)
    return None


def main():
    env = rljax.make("CartPole-v1")
    seen = {"devices": len(jax.devices())}
    config = ppo.Config(
        env=env, total_steps=3 * 16 * 24, num_envs=16, num_steps=24, num_minibatches=4, num_epochs=2, network=Linear()
    )
    keys = jax.random.split(jax.random.key(0), 8)  # the first two are also those of two seeds

    def expected(algorithm, config, runs):
        return jax.jit(jax.vmap(algorithm.train, (0, None)))(keys[:runs], config)

    eight = expected(ppo, config, 8)
    result = rljax.run(ppo, config, seeds=8, **QUIET)
    seen["runs"] = furthest(result, eight, 8)
    result = rljax.run(ppo, config, seeds=2, shard="envs", **QUIET)
    seen["ppo"], seen["device"] = furthest(result, eight, 2), result.summary["device"]
    seen["sharded"] = str(result.states.collector.obs.sharding.spec)
    seen["loops"] = list(loops(compilation.latest().advance.as_text()))
    with tempfile.TemporaryDirectory() as folder:
        seen["resumed"] = stopped_and_resumed(ppo, config, result, pathlib.Path(folder) / "x")

    # Fewer sequences in a minibatch than there are devices.
    recurrent = ppo.Config(
        env=drift, total_steps=2 * 16 * 8, num_envs=16, num_steps=8, num_minibatches=4, num_epochs=1, network=Elman()
    )
    result = rljax.run(ppo, recurrent, shard="envs", **QUIET)
    seen["recurrent"] = furthest(result, expected(ppo, recurrent, 1), 1)
    counts = {"num_envs": 16, "num_steps": 4, "prefill_steps": 64, "buffer_size": 512, "batch_size": 32}
    values = dqn.Config(env=drift, total_steps=64 + 3 * 64, network=ActionValues(), prioritized=True, **counts)
    result = rljax.run(dqn, values, shard="envs", **QUIET)
    seen["dqn"] = furthest(result, expected(dqn, values, 1), 1)

    seen["refused"] = refusal(ppo, ppo.Config(env=env, num_envs=20), shard="envs")
    print(json.dumps(seen))


# --- the tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen():
    """What `main` prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    paths = os.pathsep.join(
        [
            str(pathlib.Path(__file__).parents[1]),
            str(pathlib.Path(rljax.__file__).parents[1]),
            os.environ.get("PYTHONPATH", ""),
        ]
    )
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["devices"] == 8
    return seen


@pytest.mark.parametrize("what", ["ppo", "recurrent", "dqn"])
def test_sharded_environments_give_what_one_device_gives(seen, what):
    assert seen[what] < 1e-4


def test_sharded_runs_give_what_one_device_gives(seen):
    assert seen["runs"] < 1e-4


def test_each_device_holds_its_share_of_the_environments(seen):
    assert seen["device"].startswith("8 x")
    assert "envs" in seen["sharded"]


def test_the_devices_share_the_work(seen):
    """Two seeds of 16 environments; minibatches of 24 * 16 / 4 = 96 steps; three outputs."""
    of = {trips: (collectives, product) for trips, collectives, product in seen["loops"]}
    assert of[24 // unrolled(2)] == ([], 2 * 2 * 3)  # the rollout: two environments each, without communication
    collectives, product = of[4 * 2]  # the minibatches: twelve steps each, and gradients added up
    assert product == 2 * 12 * 3
    assert set(collectives) == {"all-reduce"}


def test_a_sharded_run_is_resumed_with_the_same_sharding(seen):
    assert seen["resumed"] == {"shard": "envs", "same": True}


def test_a_number_of_environments_that_does_not_divide_is_refused(seen):
    assert seen["refused"] == ("num_envs=20 environments do not divide over 8 devices: use num_envs=24, or devices=5.")


def test_invalid_shard_arguments_are_refused():
    with pytest.raises(rljax.UsageError, match=r"shard must be one of runs, envs, got .rows."):
        rljax.run(toys.own, toys.own.Config(env=toys.walk), shard="rows")
    with pytest.raises(rljax.UsageError, match="the config has no num_envs"):
        rljax.run(toys.own, toys.own.Config(env=toys.walk), shard="envs")


def test_the_command_line_passes_shard_to_run(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(run, "run", lambda *_, **settings: given.update(settings))
    (tmp_path / "file").touch()
    arguments = ["train", "ppo", "--env", "CartPole-v1", "--shard", "envs", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert given["shard"] == "envs"


ROWS, SLOTS = P(None, "envs"), P(None, None, "envs")  # `[L, N, ...]` and `[L, slots, N, ...]`
OFF_POLICY = {"num_envs": 16, "num_steps": 4, "prefill_steps": 200, "buffer_size": 240, "hidden_sizes": (16,)}


@pytest.mark.parametrize(
    ("algorithm", "env", "fields", "expected"),
    [
        (ppo, "CartPole-v1", {"hidden_sizes": (16,)}, {}),
        # Half as many environments would not divide into the minibatches.
        (
            ppo,
            "CartPole-v1",
            {"recurrent": "lstm", "num_minibatches": 16, "hidden_sizes": (16,)},
            {"hidden_state": ROWS},
        ),
        (a2c, "CartPole-v1", {"hidden_sizes": (16,)}, {}),
        # A ring of 16 slots, 15 and the one that waits, of 16 environments.
        (dqn, "CartPole-v1", OFF_POLICY, {"replay.obs": SLOTS, "replay.successors": P()}),
        (dqn, "CartPole-v1", {**OFF_POLICY, "prioritized": True}, {"replay.end": SLOTS, "replay.priorities": P()}),
        (sac, "Pendulum-v1", OFF_POLICY, {"replay.action": SLOTS, "target_params": P()}),
        (q_learning, "FrozenLake-misc", {}, {"tables.action_values": P(), "tables.planned": ROWS}),
        (reinforce, "CartPole-v1", {"max_episode_steps": 16, "hidden_sizes": (16,)}, {"history": SLOTS}),
    ],
)
def test_axes_over_environments_are_found(algorithm, env, fields, expected):
    config = algorithm.Config(env=env, **{"num_envs": 16, **fields})
    state = compilation.env_specs(algorithm, jax.random.split(jax.random.key(0), 2), config, None, 0)
    for path, spec in {"collector.obs": ROWS, "collector.obs_moments": P(), "step": P(), **expected}.items():
        leaves = state
        for name in path.split("."):
            leaves = getattr(leaves, name)
        assert set(jax.tree.leaves(leaves)) == {spec}, path
    assert set(jax.tree.leaves(getattr(state, "params", P()))) == {P()}


def test_a_state_without_environments_is_refused():
    config = ppo.Config(env=toys.walk)
    alone = SimpleNamespace(init=lambda key, config: jax.random.normal(key, (config.num_steps,)))
    with pytest.raises(rljax.UsageError, match="no array over num_envs"):
        compilation.env_specs(alone, jax.random.split(jax.random.key(0), 2), config, None, 0)


if __name__ == "__main__":
    main()


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_constants_without_elements_are_sharded():
    """XLA dies of them, also in loops and in functions of their own, unless they are replaced."""
    empty = jnp.zeros((0, 3))

    def run(x):
        summed = jax.jit(lambda x: jnp.concatenate([empty * x, jnp.ones((2, 3))]).sum())
        return {"sum": jax.lax.fori_loop(0, 3, lambda _, x: x + summed(x) + (empty * x).sum(), x)}

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("runs",))
    program = sharding.sharded(run, mesh, 0, 0, P("runs"), P("runs"))
    np.testing.assert_array_equal(program(jnp.arange(4.0))["sum"], np.arange(4.0) + 18.0)
