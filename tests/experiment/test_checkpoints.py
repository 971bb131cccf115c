"""Runs that are stopped, killed and damaged, and go on to the bits they would have had."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from orbax import checkpoint as orbax
from toys import own, same_bits

import rljax
from rljax import a2c, cli, dqn, envs, ppo, q_learning, reinforce, sac, td3
from rljax.backend import devices, versions
from rljax.experiment import checkpoints, loop, spec
from rljax.experiment.history import Record
from rljax.report import files, plot
from rljax.types import RecurrentPolicy

OPTIONS = {"seeds": 3, "evaluations": 4, "eval_episodes": 3, "progress": False}


class Stop(BaseException):
    """The process's sudden end."""


def stopped(monkeypatch, out, algorithm, config, saves, **options):
    """Start a run that dies right after its so many-th checkpoint."""
    save, seen = checkpoints.Writer.save, []

    def save_and_die(writer, *arguments):
        save(writer, *arguments)
        writer.close()
        seen.append(arguments)
        if len(seen) == saves:
            raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Writer, "save", save_and_die)
        patched.setattr("rljax.experiment.loop._CHUNK_SECONDS", 0.0)  # an update a chunk
        with pytest.raises(Stop):
            rljax.run(algorithm, config, out=out, checkpoint_every=0, **{**OPTIONS, **options})


def write(folder, place, saved):
    """Write a batch's checkpoint."""
    writer = checkpoints.Writer(folder)
    writer.save(place, saved)
    writer.close()


def as_written(value):
    """As a file has it, and None, which equals itself, in place of NaN."""
    return json.loads(files.as_json(value))


def same_results(left, right):
    assert same_bits(left.states, right.states)
    assert set(left.metrics) == set(right.metrics)
    for name, rows in left.metrics.items():
        np.testing.assert_array_equal(rows, right.metrics[name], err_msg=name)
    np.testing.assert_array_equal(left.eval_steps, right.eval_steps)
    np.testing.assert_array_equal(left.eval_returns, right.eval_returns)
    for name in ("final_return", "diverged", "env_steps"):
        assert as_written(left.summary[name]) == as_written(right.summary[name])


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.walk)


@pytest.fixture(scope="module")
def whole(config):
    return rljax.run(own, config, **OPTIONS)


@pytest.mark.parametrize("saves", [1, 20, 51])
def test_it_goes_on_to_the_same_bits(config, whole, tmp_path, monkeypatch, saves):
    stopped(monkeypatch, tmp_path / "x", own, config, saves)
    kept = sorted(path.name for path in (tmp_path / "x/checkpoints/0000").iterdir())
    assert kept == [f"{n:06d}" for n in range(max(saves - 1, 1), saves + 1)]
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), whole)
    assert json.loads((tmp_path / "x/summary.json").read_text())["interrupted"] is False
    # A run that is done has nothing to go on with, and gives what it gave.
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), whole)


def test_runs_that_diverged_stay_where_they_were(config, tmp_path, monkeypatch):
    poisoned = dataclasses.replace(config, poison_at=10)
    uninterrupted = rljax.run(own, poisoned, **{**OPTIONS, "seeds": 8})
    assert uninterrupted.summary["diverged"]
    stopped(monkeypatch, tmp_path / "x", own, poisoned, 20, seeds=8)
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=poisoned, progress=False), uninterrupted)


def test_a_sweep_goes_on_group_by_group(config, tmp_path, monkeypatch):
    sweep = {"num_updates": [5, 8], "rate": [0.1, 0.5]}
    whole = rljax.run(own, config, sweep=sweep, **OPTIONS)
    stopped(monkeypatch, tmp_path / "x", own, config, 9, sweep=sweep)  # three updates into the second group
    resumed = rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False)
    assert resumed.points == whole.points
    for left, right in zip(resumed.results, whole.results, strict=True):
        same_results(left, right)
    assert str(resumed.summary["best"]) == str(whole.summary["best"])
    loaded = rljax.load(tmp_path / "x", algorithm=own, config=config)
    best = whole.summary["best"]["configuration"]
    assert loaded.config.rate == whole.configs[best].rate
    assert same_bits(loaded.states, whole.results[best].states)
    assert same_bits(
        rljax.load(tmp_path / "x", configuration=0, algorithm=own, config=config).states, whole.results[0].states
    )
    with pytest.raises(rljax.UsageError, match="no configuration 4"):
        rljax.load(tmp_path / "x", configuration=4, algorithm=own, config=config)


def test_a_sweep_of_environments_goes_on_from_its_folder(tmp_path, monkeypatch):
    config = own.Config(env="CartPole-v1", num_updates=3)
    lighter = rljax.make("CartPole-v1", gravity=5.0)
    sweep = {"env": [envs.time_limit(lighter, 3), envs.time_limit(config.env, 4), "CartPole-v1"], "rate": [0.1, 0.5]}
    whole = rljax.run(own, config, sweep=sweep, **OPTIONS)
    assert [one.summary["final_return"]["max"] for one in whole.results[:4]] == [3.0, 3.0, 4.0, 4.0]
    stopped(monkeypatch, tmp_path / "x", own, config, 2, sweep=sweep)
    resumed = rljax.resume(tmp_path / "x", algorithm=own, progress=False)
    assert [jax.tree.structure(c) for c in resumed.configs] == [jax.tree.structure(c) for c in whole.configs]
    assert [c.env.params for c in resumed.configs] == [c.env.params for c in whole.configs]
    for left, right in zip(resumed.results, whole.results, strict=True):
        same_results(left, right)
    loaded = rljax.load(tmp_path / "x", configuration=1, algorithm=own)
    assert loaded.config.env.params.gravity == 5.0
    assert same_bits(loaded.states, whole.results[1].states)


class Wide:
    """A network of one's own: nothing that data could make again."""

    def __init__(self, width):
        self.width = width

    def __repr__(self):
        return f"Wide({self.width})"

    def init(self, key, obs):
        return ()

    def apply(self, params, obs):
        return jnp.zeros((len(obs), self.width))


def test_a_sweep_of_objects_takes_them_back(tmp_path, monkeypatch):
    @rljax.config.config
    class Config:
        env: rljax.Env = rljax.traced()
        num_updates: int = rljax.static(default=2)
        poison_at: int = rljax.traced(default=10**6)
        rate: float = rljax.traced(default=0.1)
        width: int = rljax.static(default=2)
        network: Any = rljax.static(default=None)

    config, networks = Config(env=toys.walk), [Wide(1), Wide(2), None]
    sweep = {"env": [toys.walk, envs.time_limit(toys.walk, 2)], "network": rljax.choice(networks)}
    whole = rljax.run(own, config, sweep=sweep, samples=2, **OPTIONS)
    stopped(monkeypatch, tmp_path / "x", own, config, 2, sweep=sweep, samples=2)
    given = {"algorithm": own, "config": config}
    with pytest.raises(rljax.UsageError, match=r"sweep of env holds objects, .*: pass the sweep= given to rljax.run"):
        rljax.load(tmp_path / "x", **given)
    for other, why in (
        (sweep | {"network": [Wide(1)]}, "samples is for"),
        ({"env": sweep["env"]}, "lists alone"),
        (sweep | {"network": rljax.choice([Wide(3)])}, r"network of configuration 0 was .* and is 'Wide\(3\)'"),
        (sweep | {"env": [toys.walk]}, "it had 4 configurations and has 2"),
    ):
        with pytest.raises(rljax.UsageError, match=why):
            rljax.load(tmp_path / "x", **given, sweep=other)
    resumed = rljax.resume(tmp_path / "x", **given, sweep=sweep, progress=False)
    assert resumed.points == whole.points
    for left, right in zip(resumed.results, whole.results, strict=True):
        same_results(left, right)
    policy = rljax.best(tmp_path / "x", **given, sweep=sweep)
    assert policy(jax.random.key(0), np.zeros((3, 1))).shape == (3,)
    plain = {"network": [(np.int64(1), 2)]}  # whatever holds the numbers, they are no objects
    rljax.run(own, config, sweep=plain, out=tmp_path / "y", checkpoint_every=0, **OPTIONS)
    assert rljax.load(tmp_path / "y", **given).config.network == (1, 2)


REPLAYED = {"total_steps": 80, "prefill_steps": 64, "buffer_size": 200, "batch_size": 8, "hidden_sizes": (8,)}
SMALL = {
    "ppo": (
        ppo,
        lambda: ppo.Config(
            env=envs.normalize_rewards(envs.normalize_observations(rljax.make("CartPole-v1", gravity=5.0))),
            total_steps=256,
            num_envs=4,
            num_steps=16,
            num_minibatches=2,
            hidden_sizes=(8,),
        ),
    ),
    "a2c": (
        a2c,
        lambda: a2c.Config(
            env=envs.mask_observation(rljax.make("CartPole-v1"), (0, 2)),
            total_steps=160,
            recurrent="gru",
            hidden_sizes=(8,),
        ),
    ),
    "reinforce": (
        reinforce,
        lambda: reinforce.Config(
            env="CartPole-v1",
            total_steps=128,
            num_envs=2,
            num_steps=16,
            max_episode_steps=40,
            hidden_sizes=(8,),
        ),
    ),
    "dqn": (
        dqn,
        lambda: dqn.Config(
            env=envs.time_limit(rljax.make("CartPole-v1"), 20),
            learning_rate=jnp.float32(1e-3),
            **{**REPLAYED, "total_steps": 320},
            noisy=True,
            prioritized=True,
            n_step=2,
        ),
    ),
    "sac": (sac, lambda: sac.Config(env="CartPole-v1", **REPLAYED)),
    "td3": (td3, lambda: td3.Config(env="Pendulum-v1", **REPLAYED, noise_reversion=0.15)),
    "q_learning": (
        q_learning,
        lambda: q_learning.Config(env="Taxi-v3", total_steps=800, target="double_q_learning", num_envs=2),
    ),
}


def first_action(policy, obs):
    key = jax.random.key(1)
    if isinstance(policy, RecurrentPolicy):
        return policy.step(key, obs, policy.initial_hidden_state(len(obs)))[0]
    return policy(key, obs)


# By default one of each kind, since each compiles its programs: rollouts, replays, tables.
QUICK = ("ppo", "dqn", "q_learning")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_every_algorithm_goes_on_to_the_same_bits_from_its_folder_alone(name, tmp_path, monkeypatch, capsys):
    algorithm, make_config = SMALL[name]
    config = make_config()
    options = {"seeds": 2, "evaluations": 1, "eval_episodes": 2}
    whole = rljax.run(algorithm, config, **{**OPTIONS, **options})
    stopped(monkeypatch, tmp_path / "x", algorithm, config, 2, name="baseline", **options)
    assert json.loads((tmp_path / "x/config.json").read_text())["algo"] == "baseline"
    same_results(rljax.resume(tmp_path / "x", progress=False), whole)
    loaded = rljax.load(tmp_path / "x")
    assert same_bits(loaded.states, whole.states)
    assert jax.tree.structure(loaded.config) == jax.tree.structure(config)
    policy = rljax.best(tmp_path / "x")
    best = int(np.argmax(whole.summary["final_return"]["per_seed"]))
    want = algorithm.act(jax.tree.map(lambda x: x[best], whole.states), config)
    obs, _ = jax.vmap(config.env.reset, (0, None))(jax.random.split(jax.random.key(0), 5), config.env.params)
    np.testing.assert_array_equal(first_action(policy, obs), first_action(want, obs))
    if name in ("ppo", "q_learning"):
        _extends(tmp_path / "x", algorithm, config)
        assert ("is annealed to zero" in capsys.readouterr().err) == (name == "ppo")


def _extends(folder, algorithm, config):
    """A run of half as many steps again, whose schedules end where they did."""
    options = {**OPTIONS, "seeds": 2, "evaluations": 1, "eval_episodes": 2}
    steps = config.total_steps
    longer = rljax.run(algorithm, rljax.replace(config, total_steps=steps * 3 // 2, schedule_steps=steps), **options)
    with pytest.raises(rljax.UsageError, match="are done"):
        rljax.resume(folder, total_steps=steps // 2)
    extended = rljax.resume(folder, total_steps=steps * 3 // 2, progress=False)
    assert same_bits(extended.states, longer.states)
    for name, rows in longer.metrics.items():
        np.testing.assert_array_equal(rows, extended.metrics[name], err_msg=name)
    assert len(extended.eval_steps) == 3
    same_results(rljax.resume(folder, progress=False), extended)


def test_ctrl_c_says_how_to_go_on(config, whole, tmp_path, monkeypatch, request):
    save, pressed = checkpoints.Writer.save, []

    def interrupt(writer, place, saved):
        save(writer, place, saved)
        if saved.record.updates == 30 and not pressed:
            pressed.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(checkpoints.Writer, "save", interrupt)
    monkeypatch.setattr("rljax.experiment.loop._CHUNK_SECONDS", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(rljax.Interrupted, match=r"rljax resume .*x` continues"):
        rljax.run(own, config, out=tmp_path / "x", checkpoint_every=0, **OPTIONS)
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), whole)


@rljax.config.config
class Extendable:
    """The toy's config with a length in steps, one an update."""

    env: rljax.Env = rljax.traced()
    total_steps: int = rljax.static(default=50)
    schedule_steps: int | None = rljax.static(default=None)
    poison_at: int = rljax.traced(default=10**6)
    rate: float = rljax.traced(default=0.1)
    width: int = rljax.static(default=2)

    @property
    def num_updates(self) -> int:
        return self.total_steps


def test_ctrl_c_while_a_sweep_is_made_longer_keeps_what_was_done(tmp_path, monkeypatch, request):
    """In the first of three groups; of another one the checkpoint is one on the way, without final returns."""
    config, out = Extendable(env=toys.walk), tmp_path / "x"
    whole = rljax.run(own, config, sweep={"width": [2, 3, 4]}, out=out, checkpoint_every=1e6, **OPTIONS)
    before = (out / "curves.csv").read_text().splitlines()
    middle = checkpoints.newest(out / "checkpoints/0001")
    write(out, "0001", middle._replace(final=None))
    add_chunk = Record.add_chunk
    during = []

    def interrupt(self, *arguments):
        add_chunk(self, *arguments)
        during.append((out / "curves.csv").read_text().splitlines())
        if self.updates >= 80:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Record, "add_chunk", interrupt)
    monkeypatch.setattr("rljax.experiment.loop._CHUNK_SECONDS", 0.0)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    with pytest.raises(rljax.Interrupted, match=r"stopped after 60 of 100 updates on average; what is done") as stop:
        rljax.resume(out, algorithm=own, config=config, total_steps=100, progress=False)
    monkeypatch.undo()
    first, second, third = stop.value.result.results
    assert [one.metrics["env_steps"].shape for one in (first, second, third)] == [(3, 80), (3, 50), (3, 50)]
    for got, want in ((second, whole.results[1]), (third, whole.results[2])):
        assert same_bits(got.states, want.states)
        np.testing.assert_array_equal(got.eval_returns, want.eval_returns)
    assert as_written(third.summary["final_return"]) == as_written(whole.results[2].summary["final_return"])
    assert second.summary["final_return"]["not_finite"] == [0, 1, 2]
    assert stop.value.result.summary["interrupted"]
    summary = json.loads((out / "summary.json").read_text())
    assert [(c["configuration"], c["updates"]) for c in summary["configurations"]] == [(0, 80), (1, 50), (2, 50)]
    assert "best" not in summary  # nothing else has been trained for as long as the first one
    assert set(before) <= set((out / "curves.csv").read_text().splitlines())
    assert all(set(before[16:]) <= set(lines) for lines in during)  # those of the second and the third group
    longer = rljax.resume(out, algorithm=own, config=config, progress=False)
    assert [one.metrics["env_steps"].shape for one in longer.results] == [(3, 100)] * 3


def test_ctrl_c_while_the_end_is_evaluated_loses_nothing(config, whole, tmp_path, monkeypatch, request):
    evaluate = loop.evaluate

    def interrupt(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(rljax.Interrupted, match=r"stopped after 50 of 50 updates; what is done is in .*x\.$") as stop:
        rljax.run(own, config, out=tmp_path / "x", checkpoint_every=1e6, **OPTIONS)
    same_results(stop.value.result, whole)  # all the same who runs others after this one wants to stop
    assert same_bits(rljax.load(tmp_path / "x", algorithm=own, config=config).states, whole.states)


def test_a_checkpoint_that_no_longer_fits_is_kept(config, whole, folder, monkeypatch):
    with monkeypatch.context() as patched:

        def out_of_memory(*arguments):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")

        patched.setattr(loop, "train", out_of_memory)
        assert "no longer fit into memory" in refusal(folder, config)
    same_results(rljax.resume(folder, algorithm=own, config=config, progress=False), whole)


def test_seeds_stay_in_order_however_batches_were_cut(config, tmp_path):
    """Seven seeds of which two batches of three and a half are done, and those between them are not."""
    seven = {**OPTIONS, "seeds": 7}
    whole = rljax.run(own, config, devices=1, **seven)
    rljax.run(own, config, devices=1, out=tmp_path / "x", checkpoint_every=1e6, **seven)
    (saved,) = checkpoints.load(tmp_path / "x")
    shutil.rmtree(tmp_path / "x/checkpoints/0000")
    for number, rows in (("0000", [4, 5]), ("0001", [0, 1])):
        write(tmp_path / "x", number, saved.rows(np.array(rows))._replace(lanes=2))
    resumed = rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False)
    np.testing.assert_allclose(resumed.states.params, whole.states.params, rtol=1e-6)
    np.testing.assert_allclose(resumed.eval_returns, whole.eval_returns, rtol=1e-6)
    got, want = (r.summary["final_return"]["per_seed"] for r in (resumed, whole))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    loaded = rljax.load(tmp_path / "x", algorithm=own, config=config)
    np.testing.assert_allclose(loaded.states.params, whole.states.params, rtol=1e-6)


# --- what can be wrong with a folder -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halfway(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "halfway"
    with pytest.MonkeyPatch.context() as monkeypatch:
        stopped(monkeypatch, out, own, config, 10)
    return out


@pytest.fixture
def folder(halfway, tmp_path):
    return shutil.copytree(halfway, tmp_path / "x")


def damage(path, how):
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size > 300):
        data = file.read_bytes()
        file.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "foreign": b"hello" * 99}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign", "emptied"])
def test_a_damaged_checkpoint_is_passed_over(config, whole, folder, how, capsys):
    newest = folder / "checkpoints/0000/000010"
    if how == "emptied":
        shutil.rmtree(newest)
        newest.mkdir()
    else:
        damage(newest, how)
    same_results(rljax.resume(folder, algorithm=own, config=config, progress=False), whole)
    assert "000010 is not an intact checkpoint" in capsys.readouterr().err


def refusal(folder, config, **options):
    with pytest.raises(rljax.UsageError) as error:
        rljax.resume(folder, **{"algorithm": own, "config": config, "progress": False, **options})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_when_no_checkpoint_is_whole(config, folder):
    for name in ("000009", "000010"):
        damage(folder / "checkpoints/0000" / name, "truncated")
    assert "there is no other" in refusal(folder, config)


def test_an_error_on_the_way_leaves_what_the_newest_checkpoint_holds(config, whole, folder, monkeypatch):
    add_chunk = Record.add_chunk

    def fail(record, *arguments):
        add_chunk(record, *arguments)
        if record.updates == 20:
            raise RuntimeError("the device is lost")

    with monkeypatch.context() as patched:
        patched.setattr(Record, "add_chunk", fail)
        patched.setattr("rljax.experiment.loop._CHUNK_SECONDS", 0.0)
        with pytest.raises(RuntimeError, match="the device is lost") as error:
            rljax.resume(folder, algorithm=own, config=config, progress=False)
    assert error.value.__notes__ == [
        f"What was done before, of 3 of 3 runs, is in {folder}, and `rljax resume {folder}` continues."
    ]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["interrupted"], summary["env_steps"]) == (True, 190)
    assert summary["final_return"]["not_finite"] == [0, 1, 2]
    assert len((folder / "curves.csv").read_text().splitlines()) == 1 + 3 * 2  # evaluated at 0 and at 12 updates
    same_results(rljax.resume(folder, algorithm=own, config=config, progress=False), whole)


def test_another_format(config, folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    assert "format 1" in refusal(folder, config)


def test_a_changed_config(config, folder):
    assert "rate was 0.1 and is 0.2" in refusal(folder, dataclasses.replace(config, rate=0.2))
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"rate": 0.1', '"rate": 0.2'))
    assert "was changed" in refusal(folder, dataclasses.replace(config, rate=0.2))
    path.write_text(path.read_text()[:100])
    assert "damaged" in refusal(folder, config)
    path.write_text("{}")
    assert "was changed since rljax wrote it" in refusal(folder, config)
    path.write_text('{"format": 1, "recipe": 3}')
    assert "was changed since rljax wrote it" in refusal(folder, config)
    path.unlink()
    assert "not the folder of a run" in refusal(folder, config)


def test_what_wrappers_were_called_with_is_checked(tmp_path, monkeypatch, capsys):
    one, other = (own.Config(env=envs.scale_reward(toys.walk, factor), num_updates=2) for factor in (1.0, 100.0))
    stopped(monkeypatch, tmp_path / "x", own, one, 1)
    assert "env.label was 'walk+scale_reward(1.0)' and is" in refusal(tmp_path / "x", other)
    path = tmp_path / "x/config.json"
    about = json.loads(path.read_text())
    about["config"]["env"] |= {"label": "walk+scale_reward(100.0)", "recipe": [None, ["scale_reward", [100.0]]]}
    path.write_text(json.dumps(about))
    assert "was changed" in refusal(tmp_path / "x", other)
    sweep = {"env": [one.env, other.env]}
    legend = []
    monkeypatch.setattr(plot, "learning_curves", lambda path, drawn, title: legend.extend(drawn))
    rljax.run(own, one, out=tmp_path / "y", sweep=sweep, **{**OPTIONS, "progress": True})
    labels = ["walk+scale_reward(1.0)", "walk+scale_reward(100.0)"]
    assert legend == [f"env={label}" for label in labels]
    told = capsys.readouterr().out
    assert all(label in told for label in labels)
    rows = (tmp_path / "y/curves.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == np.repeat(labels, len(rows) // 2).tolist()
    values = [c["values"]["env"] for c in json.loads((tmp_path / "y/summary.json").read_text())["configurations"]]
    assert [value["recipe"][1] for value in values] == [["scale_reward", [1.0]], ["scale_reward", [100.0]]]
    legend.clear()
    rljax.run(own, one, out=tmp_path / "z", sweep={"env": [one.env, envs.scale_reward(toys.walk, 1.0)]}, **OPTIONS)
    assert legend == [f"env={labels[0]} ({i})" for i in range(2)]  # none in place of another


def test_another_software_is_said(config, folder, monkeypatch, capsys):
    monkeypatch.setattr(spec, "versions", lambda: {"jax": "0.0.1"})
    rljax.resume(folder, algorithm=own, config=config, progress=False)
    assert "begun on another version" in capsys.readouterr().err


def test_a_package_that_is_not_installed_ends_no_run(monkeypatch):
    def version(package):
        if package == "rljax-engine":  # on the path, as a clone is
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions.versions.__wrapped__()
    assert (found["rljax"], found["jax"]) == ("not installed", "1.2.3")


def test_a_longer_run_needs_a_horizon_for_its_schedules(config, folder):
    assert "no schedule_steps" in refusal(folder, config, total_steps=1000)
    assert "integer" in refusal(folder, config, total_steps=1e3)
    assert "folder must be the path of a folder, got None" in refusal(None, config)


def test_what_is_ones_own_has_to_be_given(folder):
    with pytest.raises(rljax.UsageError, match="algorithm is a custom one"):
        rljax.resume(folder)
    with pytest.raises(rljax.UsageError, match="has no sweep"):
        rljax.resume(folder, algorithm=own, env=toys.walk, sweep={"rate": [0.1]})
    with pytest.raises(rljax.UsageError, match="environment is a custom one"):
        rljax.resume(folder, algorithm=own)
    assert rljax.load(folder, algorithm=own, env=toys.walk).states.params.shape == (3, 2)


def test_a_run_without_checkpoints_holds_no_states(config, tmp_path):
    rljax.run(own, config, out=tmp_path / "x", **{**OPTIONS, "evaluations": 0})
    with pytest.raises(rljax.UsageError, match="checkpoint_every"):
        rljax.load(tmp_path / "x")
    for every, out in ((-1, tmp_path / "y"), (True, tmp_path / "y"), (1, None)):
        with pytest.raises(rljax.UsageError, match="checkpoint_every"):
            rljax.run(own, config, out=out, checkpoint_every=every)


def test_a_full_disk_leaves_the_earlier_checkpoints(config, whole, tmp_path, monkeypatch, capsys):
    """Every write from the fifth on fails; training continues, and the run can be resumed from what was written."""
    save, written = orbax.CheckpointManager.save, []

    def full(self, *arguments, **named):
        written.append(arguments)
        if len(written) >= 5:
            raise OSError(28, "No space left on device")
        return save(self, *arguments, **named)

    monkeypatch.setattr(orbax.CheckpointManager, "save", full)
    monkeypatch.setattr("rljax.experiment.loop._CHUNK_SECONDS", 0.0)
    same_results(rljax.run(own, config, out=tmp_path / "x", checkpoint_every=0, **OPTIONS), whole)
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "The run continues" in said
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "x/checkpoints/0000").iterdir()) == ["000003", "000004"]
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), whole)


def test_a_folder_with_checkpoints_is_refused_with_the_way_on(config, folder):
    with pytest.raises(rljax.UsageError, match="rljax resume"):
        rljax.run(own, config, out=folder)
    rljax.run(own, config, out=folder, overwrite=True, **OPTIONS)
    assert not (folder / "checkpoints").exists()


# --- killed --------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys; sys.path[:0] = [{root!r}, {tests!r}]
import rljax, toys
from toys import own
config = own.Config(env=toys.walk, num_updates=300)
rljax.experiment.loop._CHUNK_SECONDS = 0.0
options = dict(seeds=3, evaluations=4, eval_episodes=3, progress=False, devices=1)
if sys.argv[1] == "run":
    rljax.run(own, config, out=sys.argv[2], checkpoint_every=0, overwrite=True, **options)
else:
    rljax.resume(sys.argv[2], algorithm=own, config=config, progress=False)
"""


def killed_until_done(folder, kills, seed):
    """Kill the process again and again, while it trains or writes; the last time let it end."""
    tests = pathlib.Path(toys.__file__).parent
    script = SCRIPT.format(root=str(tests.parent), tests=str(tests))
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    rng = random.Random(seed)
    begun = False
    while kills:
        place = folder / "checkpoints/0000"
        command = [sys.executable, "-c", script, "resume" if begun else "run", str(folder)]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        before = set(place.glob("[0-9]*"))
        deadline = time.monotonic() + 300
        while process.poll() is None and not set(place.glob("[0-9]*")) - before:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, process.communicate()[1]
        process.kill()
        process.communicate()
        begun, kills = True, kills - 1
    command = [sys.executable, "-c", script, "resume", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "summary.json").read_text())


def check_killed(tmp_path, kills, seed):
    config = own.Config(env=toys.walk, num_updates=300)
    whole = rljax.run(own, config, devices=1, **OPTIONS)
    summary = killed_until_done(tmp_path / "x", kills, seed)
    assert summary["final_return"] == as_written(whole.summary["final_return"])
    assert same_bits(rljax.load(tmp_path / "x", algorithm=own, config=config).states, whole.states)
    saved = checkpoints.newest(tmp_path / "x/checkpoints/0000")
    for name, rows in whole.metrics.items():
        np.testing.assert_array_equal(saved.record.metrics[name], rows)


def test_killed_three_times(tmp_path):
    check_killed(tmp_path, 3, seed=0)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    check_killed(tmp_path, 20, seed=1)


# --- the command line ----------------------------------------------------------------------------------------------


def test_resume_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    monkeypatch.chdir(tmp_path)
    train = ["train", "q_learning", "--env", "Taxi-v3", "--total-steps", "400", "--evaluations", "1", "--seeds", "2"]
    assert cli.main([*train, "--eval-episodes", "2", "--checkpoint-every", "0", "--out", "x"]) == 0
    first = json.loads((tmp_path / "x/summary.json").read_text())["final_return"]
    assert cli.main(["resume", "x", "--no-progress", "--algorithm", "q_learning"]) == 0
    assert json.loads((tmp_path / "x/summary.json").read_text())["final_return"] == first
    capsys.readouterr()
    for arguments, words in (
        (["resume"], "Name the run's folder"),
        (["resume", "nowhere"], "not the folder of a run"),
        (["resume", "x", "--total-step", "3"], "--total-steps"),
        (["resume", "x", "--total-steps", "many"], "total-steps"),
        (["resume", "x", "--algorithm", "nothere.py"], "nothere.py"),
        (["resume", "x", "--algorithm", "q_lerning"], "did you mean q_learning"),
    ):
        assert cli.main(arguments) == 2
        said = capsys.readouterr().err.strip()
        assert words in said
        assert len(said.splitlines()) == 1
    assert cli.main(["resume", "--help"]) == 0
    assert "--total-steps" in capsys.readouterr().out


@pytest.mark.parametrize(("seeds", "threads"), [("1", 1), ("2", None)])
def test_a_lone_run_on_the_command_line_has_one_thread_and_other_numbers_are_told(
    tmp_path, monkeypatch, capsys, seeds, threads
):
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    command = [sys.executable, "-m", "rljax.cli", "train", "q_learning", "--env", "CliffWalking-v1", "--seeds", seeds]
    command += ["--total-steps", "200", "--evaluations", "0", "--eval-episodes", "1", "--checkpoint-every", "0"]
    env = {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}
    subprocess.run([*command, "--out", str(tmp_path / "x")], check=True, env=env, capture_output=True)
    about = json.loads((tmp_path / "x/config.json").read_text())
    assert about["threads"] == (threads or len(os.sched_getaffinity(0)))
    assert cli.main(["resume", str(tmp_path / "x"), "--no-progress"]) == 0  # JAX runs here with all threads
    assert ("XLA's threads were 1 and are" in capsys.readouterr().err) == (about["threads"] != devices.cpu_threads())


@pytest.mark.parametrize(("chosen", "threads"), [("300", 300), ("0", None), ("many", None), ("", None)])
def test_threads_are_those_that_xla_takes_from_its_variable(monkeypatch, chosen, threads):
    monkeypatch.setenv("NPROC", chosen)  # one device a core is shown here, and each has a thread
    assert devices.cpu_threads() == (threads or len(os.sched_getaffinity(0)))
