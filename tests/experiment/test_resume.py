"""Runs that were stopped, killed or extended, and are resumed to the same bits."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from resuming import OPTIONS, as_written, refusal, same_results, stopped, write
from toys import in_chunks_of, own, same_bits

import rljax
from rljax import cli, envs
from rljax.backend import devices
from rljax.experiment import checkpoints, loop
from rljax.experiment.history import Record


@pytest.mark.parametrize("saves", [1, 20, 51])
def test_a_stopped_run_resumes_to_the_same_bits(config, whole, tmp_path, monkeypatch, saves):
    stopped(monkeypatch, tmp_path / "x", own, config, saves)
    kept = sorted(path.name for path in (tmp_path / "x/checkpoints/0000").iterdir())
    assert kept == [f"{n:06d}" for n in range(max(saves - 1, 1), saves + 1)]
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), whole)
    assert json.loads((tmp_path / "x/summary.json").read_text())["interrupted"] is False
    # Resuming a finished run gives its results again.
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), whole)


def test_diverged_runs_stay_frozen_after_a_resume(config, tmp_path, monkeypatch):
    poisoned = dataclasses.replace(config, poison_at=10)
    uninterrupted = rljax.run(own, poisoned, **{**OPTIONS, "seeds": 8})
    assert uninterrupted.summary["diverged"]
    stopped(monkeypatch, tmp_path / "x", own, poisoned, 20, seeds=8)
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=poisoned, progress=False), uninterrupted)


def test_a_sweep_resumes_group_by_group(config, tmp_path, monkeypatch):
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


def test_a_sweep_of_environments_resumes_from_its_folder(tmp_path, monkeypatch):
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
    """A custom network, which plain data cannot describe."""

    def __init__(self, width):
        self.width = width

    def __repr__(self):
        return f"Wide({self.width})"

    def init(self, key, obs):
        return ()

    def apply(self, params, obs):
        return jnp.zeros((len(obs), self.width))


def test_a_sweep_of_objects_needs_them_to_resume(tmp_path, monkeypatch):
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
    with pytest.raises(
        rljax.UsageError, match=r"sweep of env contains custom objects, .*: pass the sweep= given to rljax.run"
    ):
        rljax.load(tmp_path / "x", **given)
    for other, why in (
        (sweep | {"network": [Wide(1)]}, "samples is for"),
        ({"env": sweep["env"]}, "only lists"),
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
    plain = {"network": [(np.int64(1), 2)]}  # numbers are plain data in any container
    rljax.run(own, config, sweep=plain, out=tmp_path / "y", checkpoint_every=0, **OPTIONS)
    assert rljax.load(tmp_path / "y", **given).config.network == (1, 2)


def test_ctrl_c_reports_how_to_resume(config, whole, tmp_path, monkeypatch):
    save, pressed = checkpoints.Writer.save, []

    def interrupt(writer, place, saved):
        save(writer, place, saved)
        if saved.record.updates == 30 and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoints.Writer, "save", interrupt)
    monkeypatch.setattr(loop, "train", in_chunks_of(1))
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


def test_ctrl_c_while_extending_a_sweep_loses_nothing(tmp_path, monkeypatch):
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
    monkeypatch.setattr(loop, "train", in_chunks_of(1))
    with pytest.raises(rljax.Interrupted, match=r"Stopped after 60 of 100 updates on average; the results") as stop:
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


def test_ctrl_c_during_the_final_evaluation_loses_nothing(config, whole, tmp_path, monkeypatch):
    evaluate = loop.evaluate

    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", interrupt)
    with pytest.raises(
        rljax.Interrupted, match=r"Stopped after 50 of 50 updates; the results so far are in .*x\.$"
    ) as stop:
        rljax.run(own, config, out=tmp_path / "x", checkpoint_every=1e6, **OPTIONS)
    same_results(stop.value.result, whole)  # all the same who runs others after this one wants to stop
    assert same_bits(rljax.load(tmp_path / "x", algorithm=own, config=config).states, whole.states)


def test_a_checkpoint_that_no_longer_fits_into_memory_is_kept(config, whole, folder, monkeypatch):
    with monkeypatch.context() as patched:

        def out_of_memory(*arguments):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")

        patched.setattr(loop, "train", out_of_memory)
        assert "no longer fit into memory" in refusal(folder, config)
    same_results(rljax.resume(folder, algorithm=own, config=config, progress=False), whole)


def test_seeds_stay_in_order_after_any_split_into_batches(config, tmp_path):
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


def test_an_error_keeps_the_newest_checkpoint(config, whole, folder, monkeypatch):
    add_chunk = Record.add_chunk

    def fail(record, *arguments):
        add_chunk(record, *arguments)
        if record.updates == 20:
            raise RuntimeError("the device is lost")

    with monkeypatch.context() as patched:
        patched.setattr(Record, "add_chunk", fail)
        patched.setattr(loop, "train", in_chunks_of(1))
        with pytest.raises(RuntimeError, match="the device is lost") as error:
            rljax.resume(folder, algorithm=own, config=config, progress=False)
    assert error.value.__notes__ == [
        f"The results so far, of 3 of 3 runs, are in {folder}, and `rljax resume {folder}` continues it."
    ]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["interrupted"], summary["env_steps"]) == (True, 190)
    assert summary["final_return"]["not_finite"] == [0, 1, 2]
    assert len((folder / "curves.csv").read_text().splitlines()) == 1 + 3 * 2  # evaluated at 0 and at 12 updates
    same_results(rljax.resume(folder, algorithm=own, config=config, progress=False), whole)


def test_extending_a_run_needs_schedule_steps(config, folder):
    for length in (1000, 1e3):
        assert "no schedule_steps" in refusal(folder, config, total_steps=length)
    assert "integer" in refusal(folder, config, total_steps=1e3 + 0.5)
    assert "folder must be the path of a folder, got None" in refusal(None, config)


def test_custom_algorithms_and_environments_must_be_passed(folder):
    with pytest.raises(rljax.UsageError, match="algorithm is a custom one"):
        rljax.resume(folder)
    with pytest.raises(rljax.UsageError, match="has no sweep"):
        rljax.resume(folder, algorithm=own, env=toys.walk, sweep={"rate": [0.1]})
    with pytest.raises(rljax.UsageError, match="environment is a custom one"):
        rljax.resume(folder, algorithm=own)
    assert rljax.load(folder, algorithm=own, env=toys.walk).states.params.shape == (3, 2)


def test_a_folder_with_checkpoints_is_refused_with_the_command_to_resume(config, folder):
    with pytest.raises(rljax.UsageError, match="rljax resume"):
        rljax.run(own, config, out=folder)
    rljax.run(own, config, out=folder, overwrite=True, **OPTIONS)
    assert [path.name for path in (folder / "checkpoints/0000").iterdir()] == ["000001"]


# --- killed --------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, threading, time
sys.path[:0] = [{root!r}, {tests!r}]
import rljax, toys
from rljax.experiment import checkpoints, loop, spec
from toys import own

what, folder, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
save, saved = checkpoints.Writer.save, threading.Event()
checkpoints.Writer.save = lambda *arguments: (save(*arguments), saved.set())

def die():
    saved.wait()
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)

if seconds >= 0:
    threading.Thread(target=die, daemon=True).start()
config = own.Config(env=toys.walk, num_updates=300)
loop.train = toys.in_chunks_of(1)
options = dict(seeds=3, evaluations=4, eval_episodes=3, progress=False, devices=1)
if what == "run":
    rljax.run(own, config, out=folder, checkpoint_every=0, overwrite=True, **options)
else:
    rljax.resume(folder, algorithm=own, config=config, progress=False)
"""


def killed_until_done(folder, kills, seed):
    """Runs that die again and again, soon after a checkpoint, while they train or write; the last one may end."""
    tests = pathlib.Path(toys.__file__).parent
    script = SCRIPT.format(root=str(tests.parent), tests=str(tests))
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    rng = random.Random(seed)
    for number in range(kills + 1):
        seconds, expected = (rng.uniform(0, 0.5), -signal.SIGKILL) if number < kills else (-1.0, 0)
        command = [sys.executable, "-c", script, "resume" if number else "run", str(folder), str(seconds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == expected, done.stderr
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


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    check_killed(tmp_path, 1, seed=0)


@pytest.mark.slow
def test_a_run_killed_twenty_times_resumes_to_the_same_bits(tmp_path):
    check_killed(tmp_path, 20, seed=1)


# --- the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_resumes_a_run(tmp_path, monkeypatch, capsys):
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


@pytest.mark.parametrize(("seeds", "threads"), [("1", 1), pytest.param("2", None, marks=pytest.mark.slow)])
def test_a_single_run_uses_one_thread_and_resume_reports_another_number(tmp_path, monkeypatch, capsys, seeds, threads):
    command = [sys.executable, "-m", "rljax", "train", "q_learning", "--env", "CliffWalking-v1", "--seeds", seeds]
    command += ["--total-steps", "200", "--evaluations", "0", "--eval-episodes", "1", "--checkpoint-every", "0"]
    env = {name: value for name, value in os.environ.items() if name not in ("NPROC", "XLA_FLAGS")}
    subprocess.run([*command, "--out", str(tmp_path / "x")], check=True, env=env, capture_output=True)
    about = json.loads((tmp_path / "x/config.json").read_text())
    assert about["threads"] == (threads or len(os.sched_getaffinity(0)))
    assert cli.main(["resume", str(tmp_path / "x"), "--no-progress"]) == 0  # JAX runs here with all threads
    assert ("This run used 1 XLA threads" in capsys.readouterr().err) == (about["threads"] != devices.cpu_threads())
