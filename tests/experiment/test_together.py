"""One run in two processes: what one process gives, to rounding; stopped, killed, resumed and refused.

This file is also the script that each of the processes runs.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import rljax
from rljax import ppo
from rljax.backend import controllers
from rljax.backend.sharding import shard_batch
from rljax.experiment import checkpoints, loop


class State(NamedTuple):
    params: jax.Array
    positions: jax.Array
    step: jax.Array


@rljax.config.config
class Config:
    env: rljax.Env = rljax.traced()
    num_envs: int = rljax.static(default=4)
    num_updates: int = rljax.static(default=4)
    rate: float = rljax.traced(default=0.3)


def init(key, config):
    return State(jax.random.normal(key, (2,)), jnp.zeros((config.num_envs, 2)), jnp.int32(0))


def update(key, state, config):
    noise = jax.random.normal(key, state.positions.shape)
    positions = shard_batch(0.9 * state.positions + noise + state.params)
    params = jnp.tanh(state.params + config.rate * positions.mean(0))
    step = state.step + 1
    return State(params, positions, step), {"env_steps": step * config.num_envs, "episode_return": positions.sum()}


def act(state, config):
    return lambda key, obs: jnp.full(obs.shape[0], jnp.abs(state.params).sum(), jnp.float32)


# An algorithm that compiles quickly, with a part of its state in every environment.
crowd = SimpleNamespace(__name__="crowd", Config=Config, init=init, update=update, act=act)
CONFIG = Config(env=toys.walk)
OPTIONS = {"seeds": 2, "shard": "envs", "evaluations": 2, "eval_episodes": 3, "progress": False}


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def started(script, number, port):
    """Start one of two processes with one CPU device each."""
    paths = [str(pathlib.Path(__file__).parents[1]), str(pathlib.Path(rljax.__file__).parents[1])]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    environment["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *script, f"{number}/2@localhost:{port}"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(processes, seconds=300):
    """What the processes print, and their exit codes."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


# --- in each of the two processes ----------------------------------------------------------------------------------


def main(folder, distributed):
    folder, number = pathlib.Path(folder), int(distributed[0])
    options = {**OPTIONS, "distributed": distributed}
    seen = {}
    for what, fields, changed in (
        ("config", {"num_updates": 4 + number, "rate": 0.3 + number}, {}),
        ("options", {}, {"evaluations": 2 + number}),
        ("folder", {}, {"out": folder / "file"}),
    ):
        try:
            rljax.run(crowd, dataclasses.replace(CONFIG, **fields), **{**options, **changed})
        except rljax.UsageError as error:
            seen[what] = str(error)

    result = rljax.run(crowd, CONFIG, keep="best", **options)
    np.savez(folder / f"whole{number}", *jax.tree.leaves(result.states), returns=result.eval_returns)
    seen["best"] = np.asarray(result.best(jax.random.key(0), np.zeros((1, 1), np.float32))).tolist()

    url = f"local://{folder}/stopped"  # each process has its own staging folder

    def stop(progress):
        assert progress.states.positions.shape == (2, 4, 2)  # all processes can read the states
        if progress.updates == 1 and not progress.is_evaluation and number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        # Without evaluations there is no learning curve, whose picture takes as long as all else.
        quick = {**options, "evaluations": 0}
        rljax.run(crowd, CONFIG, out=url, checkpoint_every=0, callback=stop, **quick)
    except rljax.Interrupted as interrupted:
        seen["signal"] = interrupted.signal
    if number == 0:
        shutil.copytree(folder / "stopped", folder / "copy")
    resumed = rljax.resume(url, algorithm=crowd, config=CONFIG, progress=False, distributed=distributed)
    seen["resumed"] = toys.same_bits(resumed.states, result.states) and toys.same_bits(resumed.metrics, result.metrics)
    seen["device"] = resumed.summary["device"]
    (folder / f"seen{number}.json").write_text(json.dumps(seen))


LEARNER = ppo.Config(
    env=toys.walk, total_steps=10 * 32, num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, hidden_sizes=(8,)
)


def learn(folder, victims, distributed):
    """Begin or resume a run of PPO; the processes named in `victims` die after their fourth update."""
    folder, number, done = pathlib.Path(folder), distributed[0], []
    loop.train = toys.in_chunks_of(1)

    def die(progress):
        done.append(progress)
        if number in victims and len(done) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    options = {"checkpoint_every": 0, "callback": die, "progress": False, "distributed": distributed}
    if folder.exists():
        result = rljax.resume(folder, config=LEARNER, **options)
    else:
        result = rljax.run(ppo, LEARNER, out=folder, **{**OPTIONS, "evaluations": 0, **options})
    np.savez(folder / f"states{number}", *jax.tree.leaves(result.states))


# --- the tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    (folder / "file").touch()
    port = free_port()
    processes = [started([__file__, "main", str(folder)], number=number, port=port) for number in (1, 0)]
    (code_1, *texts), (code_0, _, errors) = ended(processes)
    assert (code_0, code_1) == (0, 0), errors + texts[1]
    (folder / "printed").write_text("".join(texts))
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    return [json.loads((folder / f"seen{number}.json").read_text()) for number in (0, 1)]


@pytest.fixture(scope="module")
def devices():
    return min(jax.local_device_count(), 2)


def leaves(folder, number):
    stored = np.load(folder / f"whole{number}.npz")
    return [stored[name] for name in sorted(stored.files, key=lambda name: (len(name), name))]


def close(left, right):
    for ours, theirs in zip(left, right, strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=1e-4, atol=1e-5)


def test_two_processes_give_what_one_gives(folder, devices):
    one = rljax.run(crowd, CONFIG, devices=devices, **OPTIONS)
    close(leaves(folder, 0), [*jax.tree.leaves(one.states), one.eval_returns])
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(leaves(folder, 0), leaves(folder, 1), strict=True))


def test_a_signal_in_one_process_stops_both_and_both_resume_to_the_same_bits(seen):
    for one in seen:
        assert one["signal"] == signal.SIGTERM
        assert one["resumed"]
        assert one["device"].startswith("2 x")


def test_a_run_of_two_processes_is_resumed_in_one(folder, devices):
    stored = rljax.load(folder / "copy", algorithm=crowd, config=CONFIG)
    assert 0 < stored.metrics["env_steps"].shape[1] < 4
    resumed = rljax.resume(folder / "copy", algorithm=crowd, config=CONFIG, devices=devices, progress=False)
    close(jax.tree.leaves(resumed.states), leaves(folder, 0)[:-1])


def test_processes_that_differ_are_refused_before_they_train(seen):
    same = "start all with the same program and arguments."
    for one in seen:
        assert one["config"] == f"Processes 0 and 1 differ in num_updates, rate: {same}"
        assert one["options"] == f"Processes 0 and 1 differ in evaluations: {same}"


def test_what_one_process_refuses_all_refuse(seen):
    assert "a file is in the way" in seen[0]["folder"]
    assert seen[1]["folder"] == "Another process cannot continue: see its own message."


def test_only_the_first_process_prints(folder):
    assert (folder / "printed").read_text() == ""


@pytest.mark.parametrize(
    "text", ["", "1/2", "2/2@node:5000", "0/2@node", "0/2@node:0", "0/2@node:99999", "a/b@node:5000"]
)
def test_what_names_no_process_is_refused(text):
    with pytest.raises(rljax.UsageError, match="distributed must be auto, or PROCESS/PROCESSES@HOST:PORT"):
        rljax.run(crowd, CONFIG, distributed=text)


def test_a_wrong_address_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(controllers, "_REACH_SECONDS", 0.5)
    port = free_port()
    with pytest.raises(rljax.UsageError, match=f"Process 0 does not answer at localhost:{port} \\(Connection refused"):
        rljax.run(crowd, CONFIG, distributed=f"1/2@localhost:{port}")
    with pytest.raises(rljax.UsageError, match=r"Process 0 does not answer at nowhere.invalid:5000 \("):
        rljax.run(crowd, CONFIG, distributed="1/2@nowhere.invalid:5000")
    with pytest.raises(rljax.UsageError, match=r"192.0.2.1:\d+ does not lead to this machine"):  # an address of no one
        rljax.run(crowd, CONFIG, distributed=f"0/2@192.0.2.1:{port}")
    with socket.create_server(("", port)):
        with pytest.raises(rljax.UsageError, match=f"Process 0 cannot use port {port}, since it is in use"):
            rljax.run(crowd, CONFIG, distributed=f"0/2@localhost:{port}")
        jax.devices()
        with pytest.raises(rljax.UsageError, match="JAX has already started in this process"):
            rljax.run(crowd, CONFIG, distributed=f"1/2@localhost:{port}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(rljax.UsageError, match=r"JAX has already started|There is no Slurm or Open MPI"):
        rljax.run(crowd, CONFIG, distributed="auto")


def test_distributed_needs_sharded_environments(monkeypatch):
    monkeypatch.setattr(controllers, "join", lambda *_: None)
    with pytest.raises(rljax.UsageError, match=r"distributed divides the environments of every run: pass shard=.envs."):
        rljax.run(crowd, CONFIG, distributed="0/2@localhost:5000")
    with pytest.raises(rljax.UsageError, match="distributed is for one large run: leave until and search out"):
        rljax.run(crowd, CONFIG, distributed="0/2@localhost:5000", shard="envs", until="10%")
    with pytest.raises(rljax.UsageError, match="cluster and distributed cannot be combined"):
        rljax.run(crowd, CONFIG, distributed="0/2@localhost:5000", cluster="ray")


@pytest.mark.slow
def test_ppo_killed_in_one_process_or_both_resumes_in_two_and_in_one(tmp_path, devices, monkeypatch):
    monkeypatch.setenv("RLJAX_CACHE", str(tmp_path / "cache"))
    whole = rljax.run(ppo, LEARNER, devices=devices, **{**OPTIONS, "evaluations": 0})
    port, folder = free_port(), tmp_path / "x"  # the port of a killed process is free again at once

    def run(victims):
        script = [__file__, "learn", str(folder), victims]
        return ended([started(script, number=number, port=port) for number in (1, 0)], seconds=900)[::-1]

    saved = [0]
    for victims in ("1", "0", "01"):
        for number, (code, out, errors) in enumerate(run(victims)):
            assert out == ""
            if str(number) in victims:
                assert code == -signal.SIGKILL, errors
            else:
                assert "Another process of this run has ended" in errors or "another task died" in errors, errors
                assert code in (1, -signal.SIGABRT)
        (newest,) = checkpoints.load(folder)
        saved.append(newest.record.updates)
    assert saved[0] < saved[1] < saved[2] < saved[3] < 10
    shutil.copytree(folder, tmp_path / "copy")
    assert [code for code, _, _ in run("none")] == [0, 0]
    resumed = rljax.resume(tmp_path / "copy", config=LEARNER, devices=devices, progress=False)
    close(jax.tree.leaves(resumed.states), jax.tree.leaves(whole.states))
    stored = np.load(folder / "states0.npz")
    close([stored[f"arr_{i}"] for i in range(len(stored.files))], jax.tree.leaves(whole.states))


if __name__ == "__main__":
    {"main": main, "learn": learn}[sys.argv[1]](*sys.argv[2:])
