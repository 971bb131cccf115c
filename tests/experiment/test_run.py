"""The driver: the same bits as a bare `jit(vmap(train))`, its files, and what it does when something goes wrong."""

import csv
import dataclasses
import json
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from toys import own, same_bits

import rljax
from rljax import core, evaluation, ppo
from rljax.experiment import compilation, folders, history, interrupts, loop


@pytest.fixture(scope="module")
def config():
    env = rljax.make("CartPole-v1", max_steps_in_episode=60)  # in longer ones rounding tips the pole
    return ppo.Config(env=env, total_steps=640, num_envs=4, num_steps=16, num_minibatches=2, hidden_sizes=(16,))


@pytest.fixture(scope="module")
def bare(config):
    """Five runs without the driver."""
    keys = jax.random.split(jax.random.key(5), 5)
    return jax.jit(jax.vmap(ppo.train, (0, None)))(keys, config)


@pytest.fixture(scope="module")
def full(config, tmp_path_factory):
    """The same five runs with everything on, on one device."""
    out = tmp_path_factory.mktemp("runs") / "full"
    result = rljax.run(ppo, config, seeds=5, seed=5, out=out, evaluations=3, eval_episodes=30, progress=True, devices=1)
    return result, out


def test_the_driver_gives_the_bits_of_a_bare_vmap(full, bare):
    result, _ = full
    states, metrics = bare
    assert same_bits(result.states, states)
    assert set(result.metrics) == set(metrics)
    for name, rows in metrics.items():
        np.testing.assert_array_equal(result.metrics[name], rows, err_msg=name)


def test_with_everything_off_the_bits_are_the_same(config, bare):
    result = rljax.run(ppo, config, seeds=5, seed=5, evaluations=0, eval_episodes=30, progress=False, devices=1)
    assert same_bits(result.states, bare[0])
    assert result.eval_returns.shape == (5, 0)


@pytest.mark.parametrize(("fitting", "together", "devices"), [(1, 1, 1), (4, 3, 1), (2, 2, 2)])
def test_in_blocks_it_is_the_same_to_rounding(config, monkeypatch, fitting, together, devices):
    """Six runs a device: one by one; where four fit in threes, the nearest size that divides six; by twos on two."""
    if len(jax.devices()) < devices:
        pytest.skip("JAX shows one device only")
    state = jax.eval_shape(ppo.init, jax.random.key(0), config)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    monkeypatch.setattr(compilation, "_BLOCK_BYTES", fitting * size)
    monkeypatch.setattr(compilation, "_compiled", {})
    sizes = []
    map_blocks = jax.lax.map
    monkeypatch.setattr(jax.lax, "map", lambda f, xs: sizes.append(xs[0].shape[:2]) or map_blocks(f, xs))
    options = {"seed": 5, "evaluations": 3, "eval_episodes": 30, "progress": False, "devices": devices}
    seeds = 6 * devices
    blocks = rljax.run(ppo, config, seeds=seeds, **options)
    assert set(sizes) == {(6 // together, together)}
    monkeypatch.setattr(compilation, "_block", lambda states, lanes, mesh: lanes)
    monkeypatch.setattr(compilation, "_compiled", {})
    whole = rljax.run(ppo, config, seeds=seeds, **options)
    for ours, theirs in zip(jax.tree.leaves(blocks.states), jax.tree.leaves(whole.states), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(blocks.eval_returns, whole.eval_returns, rtol=0.1)


@pytest.mark.parametrize("algorithm", [rljax.dqn, rljax.sac])
def test_runs_are_cut_into_blocks_by_what_they_touch_unless_their_replays_are_large(algorithm):
    def block_and_bytes(buffer_size):
        config = algorithm.Config(env=rljax.make("CartPole-v1"), buffer_size=buffer_size)
        states = jax.eval_shape(jax.vmap(algorithm.init, (0, None)), jax.random.split(jax.random.key(0), 64), config)
        without = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states._replace(replay=()))) // 64
        return compilation._block(states, 64, jax.make_mesh((1,), ("runs",))), without

    assert block_and_bytes(100_000)[0] == 64
    block, touched = block_and_bytes(2_000)
    assert block * touched <= 2**19 < (block + 1) * touched


def test_over_several_devices_it_is_the_same_to_rounding(config, full):
    """Five seeds on two devices: one lane more, dropped again."""
    if len(jax.devices()) < 2:
        pytest.skip("JAX shows one device only")
    result = rljax.run(ppo, config, seeds=5, seed=5, evaluations=0, eval_episodes=30, progress=False, devices=2)
    for got, want in zip(jax.tree.leaves(result.states.params), jax.tree.leaves(full[0].states.params), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-4)
    assert result.summary["device"].startswith("2 x")
    np.testing.assert_allclose(result.metrics["entropy"], full[0].metrics["entropy"], atol=1e-3)


def test_another_rate_reuses_the_compiled_programs(config, full):
    before = len(compilation._compiled)
    changed = dataclasses.replace(config, learning_rate=1e-2)
    result = rljax.run(ppo, changed, seeds=5, seed=5, evaluations=3, eval_episodes=30, progress=False, devices=1)
    assert len(compilation._compiled) == before
    assert result.summary["compile_seconds"] < 1
    assert not same_bits(result.states.params, full[0].states.params)


def test_the_files(config, full):
    result, out = full
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "curves.csv",
        "learning_curve.png",
        "summary.json",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert {
        *("algo", "env", "seeds", "total_steps", "env_steps_per_second", "compile_seconds"),
        *("train_seconds", "device", "versions", "final_return"),
    } <= set(summary)
    assert (summary["algo"], summary["env"], summary["seeds"]) == ("ppo", "CartPole-v1", 5)
    assert set(summary["final_return"]) >= {"iqm", "ci95", "mean", "median", "min", "max", "per_seed"}
    assert len(summary["final_return"]["per_seed"]) == 5
    assert summary["final_return"]["ci95"][0] <= summary["final_return"]["iqm"] <= summary["final_return"]["ci95"][1]
    assert summary["env_steps"] == 640

    rows = list(csv.DictReader((out / "curves.csv").open()))
    assert len(rows) == 5 * 4
    assert [int(row["env_steps"]) for row in rows[:4]] == [0, 192, 448, 640]
    np.testing.assert_allclose([float(row["return"]) for row in rows], result.eval_returns.ravel(), rtol=1e-5)

    about = json.loads((out / "config.json").read_text())
    assert about["config"]["env"]["params"]["gravity"] == 9.8
    assert about["config"]["learning_rate"] == config.learning_rate


def test_final_returns_are_greedy_evaluations(config, full):
    """Recomputed without the driver: the same keys, the same policy, 30 episodes."""
    result, _ = full
    keys = jax.vmap(lambda key: jax.random.split(core.training_keys(key)[2])[1])(jax.random.split(jax.random.key(5), 5))

    @jax.jit
    @jax.vmap
    def returns(key, state):
        batches = [
            evaluation.evaluate(jax.random.fold_in(key, i), config.env, ppo.act(state, config), 20) for i in range(2)
        ]
        return jnp.concatenate(batches)[:30].mean()

    np.testing.assert_allclose(result.summary["final_return"]["per_seed"], returns(keys, result.states), rtol=1e-4)


# --- when something goes wrong -------------------------------------------------------------------------------------


@pytest.fixture
def own_config():
    return own.Config(env=toys.walk)


def test_an_algorithm_of_ones_own_runs(own_config):
    result = rljax.run(own, own_config, seeds=3, evaluations=2, eval_episodes=5, progress=False)
    assert result.metrics["env_steps"].shape == (3, 50)
    assert result.states.step.shape == (3,)
    assert result.summary["algo"] == "own"


def test_a_metric_may_be_an_array(own_config, tmp_path):
    """Also where a run is frozen, and read from a checkpoint."""

    def update(key, state, config):
        following, metrics = own.update(key, state, config)
        return following, {**metrics, "params": following.params, "table": jnp.arange(6).reshape(2, 3) + state.step}

    arrays = SimpleNamespace(__name__="arrays", init=own.init, act=own.act, update=update)
    poisoned = dataclasses.replace(own_config, num_updates=8, poison_at=3)
    options: dict[str, Any] = {"seeds": 3, "evaluations": 2, "eval_episodes": 2}
    result = rljax.run(arrays, poisoned, out=tmp_path / "x", checkpoint_every=60, **options)
    assert result.metrics["params"].shape == (3, 8, 2)
    for rows, params in zip(result.metrics["params"], np.asarray(result.states.params), strict=True):
        np.testing.assert_array_equal(rows[np.isfinite(rows)][-2:], params)
    well = np.setdiff1d(np.arange(3), [run["seed"] for run in result.summary["diverged"]])
    assert 0 < len(well) < 3
    tables = np.arange(8)[:, None, None] + np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(result.metrics["table"][well], np.broadcast_to(tables, (len(well), 8, 2, 3)))
    resumed = rljax.resume(tmp_path / "x", algorithm=arrays, config=poisoned, progress=False)
    np.testing.assert_array_equal(resumed.metrics["params"], result.metrics["params"])
    assert (tmp_path / "x/curves.csv").read_text().splitlines()[0] == "seed,update,env_steps,return"


@pytest.mark.parametrize("most", [1, 7, 50])
def test_a_diverged_run_is_frozen_and_named_and_the_others_go_on(own_config, monkeypatch, tmp_path, most, capsys):
    """Its state is that of the last update at which it was finite, however the run was cut into chunks."""
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda *inputs: train(*inputs[:7], min(most, inputs[7]), inputs[8]))
    options: dict[str, Any] = {"seeds": 8, "evaluations": 1, "eval_episodes": 5}
    well = rljax.run(own, own_config, progress=False, **options)
    poisoned = dataclasses.replace(own_config, poison_at=20)
    result = rljax.run(own, poisoned, out=tmp_path / "x", **options)
    first = np.asarray(well.states.params)
    bad = np.flatnonzero(first[:, 0] > 0)
    late = first[:, 1] > 0
    assert 0 < len(bad) < 8
    assert len(set(late[bad])) == 2  # two updates apart
    assert result.summary["diverged"] == [
        {"seed": i, "update": 20 + late[i], "env_steps": 10 * (20 + late[i])} for i in bad
    ]
    keys = jax.random.split(jax.random.key(0), 8)
    for i in range(8):
        length = 20 + int(late[i]) if i in bad else 50
        alone = jax.jit(lambda key, c: core.train(own.init, own.update, key, c))(
            keys[i], dataclasses.replace(own_config, num_updates=length)
        )
        assert same_bits(jax.tree.map(lambda x, i=i: x[i], result.states), alone[0])
        np.testing.assert_array_equal(result.metrics["episode_return"][i, :length], alone[1]["episode_return"])
        assert np.all(np.isnan(result.metrics["episode_return"][i, length:]))
        assert result.metrics["env_steps"][i, -1] == 10 * min(length + 1, 50)
    healthy = np.setdiff1d(np.arange(8), bad)
    assert same_bits(jax.tree.map(lambda x: x[healthy], result.states), jax.tree.map(lambda x: x[healthy], well.states))
    # Counted with what they were, not left out.
    assert result.summary["final_return"]["not_finite"] == []
    assert json.loads((tmp_path / "x/summary.json").read_text())["diverged"] == result.summary["diverged"]
    assert "diverged after" in capsys.readouterr().out


def test_episodes_that_never_end_count_as_far_as_they_went_and_are_named(capsys):
    def step(key, time, action, params):  # ends after three steps of a policy that has not gone far
        return rljax.timestep(jnp.zeros(1), 1.0, (time + 1 >= 3) & (action < 1.5)), time + 1

    config = own.Config(env=dataclasses.replace(toys.walk, step=step), num_updates=2)
    result = rljax.run(own, config, seeds=8, evaluations=1, eval_episodes=100, devices=1, progress=False)
    far = np.abs(result.states.params).sum(axis=1) >= 1.5
    assert 0 < far.sum() < 8
    np.testing.assert_array_equal(result.summary["final_return"]["per_seed"], np.where(far, evaluation.MOST_STEPS, 3))
    assert f"{100 * far.sum()} of 800 episodes of the final evaluation had not ended" in capsys.readouterr().err


def test_chunks_are_as_much_longer_as_a_call_costs_besides_its_updates(own_config, monkeypatch):
    counts = []
    wait = loop.wait

    def counted(program, *arguments):
        counts.append(int(arguments[4]) if len(arguments) == 5 else 0)
        return wait(program, *arguments)

    monkeypatch.setattr(loop, "wait", counted)
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 1e-6)
    options: dict[str, Any] = {"seeds": 3, "evaluations": 0, "eval_episodes": 5, "progress": False}
    quick = rljax.run(own, own_config, **options)
    assert [count for count in counts if count] == [1] * 50
    counts.clear()
    monkeypatch.setattr(loop, "_seconds", lambda *call: 1e6)
    slow = rljax.run(own, own_config, **options)
    assert [count for count in counts if count] == [1, 4, 16, 29]
    assert same_bits(quick.states, slow.states)


def test_no_more_than_two_copies_of_the_states_are_held(own_config, monkeypatch):
    """The memory that a batch is said to need is that of one call: nothing else may keep its states."""
    held = []
    wait = loop.wait

    def counted(program, *arguments):
        held.append(sum(x.shape[1:] == (77,) for x in jax.live_arrays()))
        return wait(program, *arguments)

    monkeypatch.setattr(loop, "wait", counted)
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)
    config = dataclasses.replace(own_config, width=77)
    rljax.run(own, config, seeds=3, evaluations=0, eval_episodes=5, progress=False)
    assert max(held[:-1]) == 1  # before each call that trains; the evaluation at the end has those of the last two


def test_ctrl_c_writes_what_is_done(own_config, tmp_path, monkeypatch, request):
    """The signal arrives while a chunk runs; the chunk lands, files are written, and the result is in the exception."""
    landed = history.Record.landed

    def slow(self, *arguments):
        landed(self, *arguments)
        if self.updates >= 10:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    monkeypatch.setattr(history.Record, "landed", slow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    out = tmp_path / "stopped"
    with pytest.raises(rljax.Interrupted) as stopped:
        rljax.run(own, own_config, seeds=2, evaluations=25, eval_episodes=5, progress=False, out=out)
    done = stopped.value.result.metrics["env_steps"].shape[1]
    assert 10 <= done < 50
    summary = json.loads((out / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["env_steps"] == done * 10
    assert "\n" not in str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_loses_nothing(own_config, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    import pathlib

    real = pathlib.Path.write_text
    monkeypatch.setattr(
        pathlib.Path, "write_text", lambda self, *a, **k: real(self, *a, **k) if "config" in self.name else full()
    )
    with pytest.raises(rljax.UsageError, match="No space left on device") as error:
        rljax.run(own, own_config, seeds=2, evaluations=2, eval_episodes=5, progress=False, out=tmp_path / "x")
    assert error.value.result.metrics["env_steps"].shape == (2, 50)
    assert "The run goes on" in capsys.readouterr().err


def test_a_folder_in_use_is_refused_before_anything_runs(own_config, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(rljax.UsageError, match="in use"):
        rljax.run(own, own_config, out=tmp_path)
    assert (tmp_path / "summary.json").read_text() == "{}"
    rljax.run(own, own_config, out=tmp_path, overwrite=True, progress=False, evaluations=1, eval_episodes=2)
    assert json.loads((tmp_path / "summary.json").read_text())["algo"] == "own"


def test_two_runs_do_not_train_into_one_folder(own_config, tmp_path):
    options: dict[str, Any] = {"seeds": 2, "evaluations": 0, "eval_episodes": 2, "progress": False, "overwrite": True}
    out = tmp_path / "x"
    rljax.run(own, own_config, out=out, checkpoint_every=0, **options)
    summary = (out / "summary.json").read_bytes()
    with folders.held(out):
        with pytest.raises(rljax.UsageError, match="is being trained into already"):
            rljax.run(own, own_config, out=out, **options)
        with pytest.raises(rljax.UsageError, match="is being trained into already"):
            rljax.resume(out, algorithm=own, config=own_config, total_steps=1000, progress=False)
    assert "total_steps" not in json.loads((out / "config.json").read_text())
    assert (out / "summary.json").read_bytes() == summary
    rljax.resume(out, algorithm=own, config=own_config, progress=False)


def test_a_run_that_hangs_is_noticed(monkeypatch, capsys):
    monkeypatch.setattr(interrupts, "STALL_SECONDS", 0.05)
    with interrupts.watched():
        time.sleep(0.3)
    assert "no update has landed" in capsys.readouterr().err
    with interrupts.watched():
        pass
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_it_runs_in_a_thread_where_signals_cannot_be_caught(own_config):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(rljax.run(own, own_config, evaluations=0, eval_episodes=2, progress=False))
    )
    thread.start()
    thread.join()
    assert results[0].summary["env_steps"] == 500


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seeds": 0}, "seeds"),
        ({"evaluations": -1}, "evaluations"),
        ({"eval_episodes": 0}, "eval_episodes"),
        ({"devices": 99}, "devices"),
        ({"seeds": 1.5}, "seeds"),
        ({"seeds": True}, "seeds must be an integer of at least 1, got True"),
        ({"out": 5}, "out must be the path of a folder, got 5"),
    ],
)
def test_arguments_that_cannot_be(own_config, arguments: dict[str, Any], word):
    with pytest.raises(rljax.UsageError, match=word) as error:
        rljax.run(own, own_config, progress=False, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stack", [np.array, jnp.array])
def test_a_stack_of_configs_is_no_config_of_a_run(own_config, stack):
    with pytest.raises(rljax.UsageError, match=r"rate must be one number, got an array of shape \(2,\): try several"):
        rljax.run(own, dataclasses.replace(own_config, rate=stack([0.1, 0.2])), progress=False)


def test_something_that_is_no_algorithm(own_config):
    with pytest.raises(rljax.UsageError, match="no init"):
        rljax.run(json, own_config)
    with pytest.raises(rljax.UsageError, match="own takes a config of its own: the one given has no env"):
        rljax.run(own, SimpleNamespace())
    with pytest.raises(rljax.UsageError, match="no env"):
        rljax.run(SimpleNamespace(init=len, update=len, act=len), SimpleNamespace())
    with pytest.raises(rljax.UsageError, match="dqn takes a config of its own: the one given has no "):
        rljax.run(rljax.dqn, rljax.preset("ppo", "CartPole-v1"))
