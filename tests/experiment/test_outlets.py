"""Metrics, policies, loggers and callbacks of a run: complete, and without an effect on its bits."""

import csv
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import toys
from resuming import OPTIONS, as_written, same_results, stopped
from toys import in_chunks_of, own

import rljax
from rljax.experiment import loop, metrics_file


class Recorder:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.config, self.summary, self.logged = None, None, []

    def start(self, config):
        assert self.config is None
        self.config = config

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self, summary):
        assert self.summary is None
        self.summary = summary


def rows_of(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def check_metrics(columns, result, updates=50, seeds=3):
    """The file has a row for every update and run, with the numbers of the result."""
    order = np.lexsort((columns["update"], columns["run"]))
    sorted_columns = {name: values[order].reshape(seeds, updates) for name, values in columns.items()}
    np.testing.assert_array_equal(sorted_columns["update"], np.tile(np.arange(1, updates + 1), (seeds, 1)))
    np.testing.assert_array_equal(sorted_columns["run"], np.repeat(np.arange(seeds), updates).reshape(seeds, updates))
    for name, values in result.metrics.items():
        np.testing.assert_allclose(sorted_columns[name], values, rtol=1e-7)


def test_everything_that_listens_leaves_the_bits_unchanged(config, whole, tmp_path):
    seen, recorder = [], Recorder()
    result = rljax.run(
        own,
        config,
        out=tmp_path / "x",
        keep="all",
        log=["csv", "jsonl", "tensorboard", recorder],
        callback=[seen.append, lambda progress: progress.states],
        **OPTIONS,
    )
    same_results(result, whole)
    check_metrics(rows_of(tmp_path / "x/metrics.csv"), whole)
    chunks = [p.metrics["episode_return"] for p in seen if not p.is_evaluation]
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), whole.metrics["episode_return"])
    evaluations = [p for p in seen if p.is_evaluation]
    np.testing.assert_array_equal(np.stack([p.returns for p in evaluations], axis=1), whole.eval_returns)
    assert [p.env_steps for p in evaluations] == whole.eval_steps.tolist()
    assert (seen[-1].updates, seen[-1].num_updates, seen[-1].runs.seeds.tolist()) == (50, 50, [0, 1, 2])
    assert len(repr(seen[-1])) < 100


def test_a_logger_gets_means_over_seeds_at_every_update(config, whole):
    recorder = Recorder()
    rljax.run(own, config, log=recorder, **OPTIONS)
    logged = [(step, m["train/episode_return"]) for step, m in recorder.logged if "train/episode_return" in m]
    assert [step for step, _ in logged] == list(range(10, 510, 10))
    np.testing.assert_allclose([x for _, x in logged], whole.metrics["episode_return"].mean(axis=0), rtol=1e-6)
    evaluated = [m for _, m in recorder.logged if "eval/return" in m]
    np.testing.assert_allclose([m["eval/return_lowest"] for m in evaluated], whole.eval_returns.min(axis=0))
    assert [step for step, m in recorder.logged if "eval/return" in m] == whole.eval_steps.tolist()
    assert recorder.config["rate"] == 0.1
    assert as_written(recorder.summary["final_return"]) == as_written(whole.summary["final_return"])


@pytest.mark.parametrize("count", [1, 7])
def test_what_is_logged_does_not_depend_on_chunks(config, whole, monkeypatch, count):
    """Windows of four updates; the last is shorter."""
    monkeypatch.setattr("rljax.experiment.logs.MAX_POINTS", 13)
    monkeypatch.setattr(loop, "train", in_chunks_of(count))
    recorder = Recorder()
    rljax.run(own, config, log=recorder, **OPTIONS)
    logged = {step: m["train/episode_return"] for step, m in recorder.logged if "train/episode_return" in m}
    assert list(logged) == [*range(40, 500, 40), 500]
    np.testing.assert_allclose(logged[80], whole.metrics["episode_return"][:, 4:8].mean(), rtol=1e-6)
    np.testing.assert_allclose(logged[500], whole.metrics["episode_return"][:, 48:].mean(), rtol=1e-6)


def test_runs_of_a_sweep_are_logged_apart(config):
    """One instance gets all series, with their names in front; a class gets an instance for each."""
    made = []

    class Kept(Recorder):
        def __init__(self):
            super().__init__()
            made.append(self)

    shared = Recorder()
    options = {**OPTIONS, "seeds": 2}
    sweep = rljax.run(own, config, sweep={"rate": [0.1, 0.2]}, log=[Kept, shared], log_each="run", **options)
    assert len(made) == 4
    assert [one.config["rate"] for one in made] == [0.1, 0.1, 0.2, 0.2]
    last = [[m["train/episode_return"] for _, m in one.logged if "train/episode_return" in m][-1] for one in made]
    expected = [r.metrics["episode_return"][seed, -1] for r in sweep.results for seed in (0, 1)]
    np.testing.assert_allclose(last, expected, rtol=1e-6)
    named = {name: value for _, metrics in shared.logged for name, value in metrics.items()}
    np.testing.assert_allclose(named["configuration_0001_seed_0001/train/episode_return"], expected[3], rtol=1e-6)
    assert shared.summary["configurations"][1] == made[2].summary


def test_a_logger_that_fails_ends_nothing(config, whole, capsys):
    class Failing(Recorder):
        def log(self, metrics, step):
            raise OSError("no network")

    other = Recorder()
    same_results(rljax.run(own, config, log=[Failing(), other], **OPTIONS), whole)
    assert capsys.readouterr().err.count("Failing failed in log() and is not used any more: OSError: no network") == 1
    assert other.summary is not None


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("tensorbord", "did you mean tensorboard"),
        ("csv", "pass out"),
        (3, "start\\(config\\)"),
        ([Recorder(), object()], "start\\(config\\)"),
    ],
)
def test_an_unusable_logger_is_refused_before_training(config, log, message):
    with pytest.raises(rljax.UsageError, match=message):
        rljax.run(own, config, log=log, **OPTIONS)


def test_a_refused_logger_removes_no_results(config, tmp_path):
    out = tmp_path / "x"
    rljax.run(own, config, out=out, **OPTIONS)
    with pytest.raises(rljax.UsageError, match="did you mean"):
        rljax.run(own, config, out=out, overwrite=True, log="tensorbord", **OPTIONS)
    assert (out / "summary.json").exists()


def test_a_missing_package_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(rljax.UsageError, match="pip install tensorboardX"):
        rljax.run(own, config, out=tmp_path / "x", log="tensorboard", **OPTIONS)


def test_a_callback_stops_a_run_which_can_be_resumed(config, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", in_chunks_of(1))

    def stop(progress):
        if progress.updates >= 20:
            progress.stop()

    out = tmp_path / "x"
    result = rljax.run(own, config, out=out, callback=stop, **OPTIONS)
    assert result.summary["interrupted"]
    assert result.metrics["env_steps"].shape == (3, 20)
    assert np.isfinite(result.summary["final_return"]["per_seed"]).all()
    same_results(rljax.resume(out, algorithm=own, config=config, progress=False), whole)
    check_metrics(rows_of(out / "metrics.csv"), whole)


def test_an_error_in_a_callback_is_raised_with_its_line(config, tmp_path):
    def fail(progress):
        raise RuntimeError("mine")

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="mine") as error:
        rljax.run(own, config, out=tmp_path / "x", callback=fail, log=recorder, **OPTIONS)
    assert error.traceback[-1].name == "fail"
    assert recorder.summary == {}  # the logger has ended
    with pytest.raises(rljax.UsageError, match="callback must be a function"):
        rljax.run(own, config, callback=3, **OPTIONS)


def test_a_run_that_was_stopped_dead_keeps_its_metrics(config, whole, tmp_path, monkeypatch):
    """Resuming replaces the rows after the checkpoint by the same ones."""
    out = tmp_path / "x"
    stopped(monkeypatch, out, own, config, 10)
    columns = rows_of(out / "metrics.csv")
    assert columns["update"].max() == 10
    assert len(columns["update"]) == 30
    same_results(rljax.resume(out, algorithm=own, config=config, progress=False), whole)
    check_metrics(rows_of(out / "metrics.csv"), whole)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import rljax, toys
def kill(progress):
    if progress.updates >= 30:
        os.kill(os.getpid(), signal.SIGKILL)
rljax.run(toys.own, toys.own.Config(env=toys.walk), seeds=3, out="x", callback=kill, progress=False)
"""


def test_a_killed_run_keeps_its_metrics(whole, tmp_path):
    tests = pathlib.Path(toys.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tests)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tests.parent), "PATH": ""},
        check=False,
    )
    assert done.returncode == -9
    columns = rows_of(tmp_path / "x/metrics.csv")
    assert columns["update"].max() >= 30


def test_every_kth_update_is_written(config, whole, tmp_path):
    rljax.run(own, config, out=tmp_path / "x", metrics_every=20, **OPTIONS)
    columns = rows_of(tmp_path / "x/metrics.csv")
    assert columns["update"].tolist() == [20, 20, 20, 40, 40, 40]
    assert columns["run"].tolist() == [0, 1, 2] * 2
    np.testing.assert_allclose(columns["episode_return"][3:], whole.metrics["episode_return"][:, 39], rtol=1e-7)


@pytest.mark.parametrize("count", [1, 1000])
def test_a_large_table_is_written_as_parquet(config, whole, tmp_path, monkeypatch, count):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(metrics_file, "CSV_BYTES", 100)
    monkeypatch.setattr(metrics_file, "_PART_ROWS", 60)
    monkeypatch.setattr(loop, "train", in_chunks_of(count))
    rljax.run(own, config, out=tmp_path / "x", **OPTIONS)
    parts = sorted((tmp_path / "x/metrics").iterdir())
    assert not (tmp_path / "x/metrics.csv").exists()
    if count == 1:
        assert [len(pandas.read_parquet(part)) for part in parts] == [60, 60, 30]
    columns = pandas.read_parquet(tmp_path / "x/metrics")
    check_metrics({name: columns[name].to_numpy() for name in columns}, whole)
    assert columns["episode_return"].dtype == np.float32


def test_resuming_replaces_all_parquet_files(config, whole, tmp_path, monkeypatch):
    """The killed run wrote more and smaller ones."""
    pandas = pytest.importorskip("pandas")
    out = tmp_path / "x"
    monkeypatch.setattr(metrics_file, "CSV_BYTES", 100)
    with monkeypatch.context() as patched:
        patched.setattr(metrics_file, "_PART_ROWS", 3)
        stopped(patched, out, own, config, 10)
    assert len(list((out / "metrics").iterdir())) == 10
    rljax.resume(out, algorithm=own, config=config, progress=False)
    columns = pandas.read_parquet(out / "metrics")
    check_metrics({name: columns[name].to_numpy() for name in columns}, whole)


def test_without_parquet_the_table_stays_csv(config, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics_file, "CSV_BYTES", 100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rljax.run(own, config, out=tmp_path / "x", **OPTIONS)
    assert "pip install pyarrow" in capsys.readouterr().err
    check_metrics(rows_of(tmp_path / "x/metrics.csv"), whole)


def test_a_full_disk_is_reported_once_and_ends_nothing(config, whole, tmp_path, monkeypatch, capsys):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savetxt", full)
    monkeypatch.setattr(loop, "train", in_chunks_of(10))
    same_results(rljax.run(own, config, out=tmp_path / "x", **OPTIONS), whole)
    assert capsys.readouterr().err.count("Metrics cannot be written") == 1


def test_what_a_full_disk_refused_is_written_later(config, whole, tmp_path, monkeypatch):
    """The second and third of five chunks fail, after half of a row."""
    save, calls = np.savetxt, []

    def full(file, *arguments, **named):
        calls.append(arguments)
        if len(calls) in (2, 3):
            file.write(b"1,2")
            raise OSError(28, "No space left on device")
        save(file, *arguments, **named)

    monkeypatch.setattr(np, "savetxt", full)
    monkeypatch.setattr(loop, "train", in_chunks_of(10))
    rljax.run(own, config, out=tmp_path / "x", **OPTIONS)
    check_metrics(rows_of(tmp_path / "x/metrics.csv"), whole)


def test_solved_runs_are_frozen_and_end_the_experiment(config, whole, tmp_path, capsys):
    """Each run keeps the state of the evaluation that reached the return; those that reach none train on."""
    reached = np.sort(whole.eval_returns.max(axis=1))
    assert reached[0] < reached[1]
    stop_at = float(reached[:2].mean())  # the two better runs reach it
    result = rljax.run(own, config, out=tmp_path / "x", stop_at=stop_at, **{**OPTIONS, "progress": True})
    assert "Solved: 2 of 3 seeds, the median one after " in capsys.readouterr().out
    first = {seed: np.flatnonzero(whole.eval_returns[seed] >= stop_at) for seed in range(3)}
    marks = (whole.eval_steps // 10).tolist()
    expected = [
        {"seed": seed, "update": marks[at[0]], "env_steps": 10 * marks[at[0]]} for seed, at in first.items() if len(at)
    ]
    assert result.summary["solved"] == expected
    assert len(expected) == 2
    assert not result.summary["interrupted"]
    for run in expected:
        assert np.isnan(result.metrics["episode_return"][run["seed"], run["update"] :]).all()
        assert result.states.step[run["seed"]] == run["update"]
    for evaluation in (0, 1):  # two seeds reach this return there, before the first update or after it; one later
        stop_at = float(np.sort(whole.eval_returns[:, evaluation])[:2].mean())
        at = [marks[np.flatnonzero(returns >= stop_at)[0]] for returns in whole.eval_returns]
        assert sorted(at)[1] == marks[evaluation] < max(at)
        early = rljax.run(own, config, stop_at=stop_at, **OPTIONS)
        assert [run["update"] for run in early.summary["solved"]] == at
        env_steps = [np.minimum(10 * np.arange(1, max(at) + 1), 10 * update) for update in at]
        np.testing.assert_array_equal(early.metrics["env_steps"], env_steps)
    easy = rljax.run(own, config, out=tmp_path / "y", stop_at=-1e9, **OPTIONS)
    assert [run["update"] for run in easy.summary["solved"]] == [0, 0, 0]
    assert not easy.summary["interrupted"]
    loaded = rljax.load(tmp_path / "y", algorithm=own, config=config)
    assert toys.same_bits(loaded.states, easy.states)
    assert loaded.summary["solved"] == easy.summary["solved"]
    with pytest.raises(rljax.UsageError, match="stop_at and halving"):
        rljax.run(own, config, sweep={"rate": [0.1, 0.2]}, halving=2, stop_at=1.0, **OPTIONS)


def test_a_run_with_solved_seeds_resumes_to_the_same_bits(config, whole, tmp_path, monkeypatch):
    """One run has reached the return before the end, at an evaluation before the last."""
    stop_at = float(np.sort(whole.eval_returns[:, -2])[-1])
    solved = rljax.run(own, config, stop_at=stop_at, **OPTIONS)
    stopped(monkeypatch, tmp_path / "x", own, config, 45, stop_at=stop_at)
    resumed = rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False)
    same_results(resumed, solved)
    assert resumed.summary["solved"] == solved.summary["solved"]
    assert 38 in [run["update"] for run in solved.summary["solved"]]


def value_of(policy):
    """What the toy's policy acts with."""
    return float(policy(jax.random.key(0), np.zeros((1, 1)))[0])


@pytest.mark.parametrize("dead_at", [None, 30])
def test_the_policies_of_evaluations_are_kept(config, whole, tmp_path, monkeypatch, dead_at):
    out = tmp_path / "x"
    if dead_at:
        stopped(monkeypatch, out, own, config, dead_at, keep=("all",))
        result = rljax.resume(out, algorithm=own, config=config, progress=False)
    else:
        result = rljax.run(own, config, out=out, keep="all", **OPTIONS)
    marks = (whole.eval_steps // 10).tolist()
    # The metric of an update is what its policy acts with.
    for mark in marks[1:]:
        np.testing.assert_allclose(value_of(result.policy(1, mark)), whole.metrics["episode_return"][1, mark - 1])
    best = marks[int(np.argmax(whole.eval_returns[1]))]
    assert value_of(result.policy(1, "best")) == value_of(result.policy(1, best))
    loaded = rljax.policy(out, 1, "best", algorithm=own, config=config)
    assert value_of(loaded) == value_of(result.policy(1, "best"))
    assert value_of(result.policy(2)) == value_of(rljax.policy(out, 2, algorithm=own, config=config))
    with pytest.raises(rljax.UsageError, match="one of 0, "):
        result.policy(1, 49)
    with pytest.raises(rljax.UsageError, match="no seed 3"):
        result.policy(3)


def test_the_best_policy_is_the_one_of_the_best_evaluation(config, whole):
    every, best = (rljax.run(own, config, keep=keep, **OPTIONS) for keep in ("all", "best"))
    for seed in range(3):
        assert value_of(best.policy(seed, "best")) == value_of(every.policy(seed, "best"))
    assert whole.best_seed == int(np.argmax(whole.summary["final_return"]["per_seed"]))
    assert value_of(whole.best) == value_of(whole.policy(whole.best_seed))
    with pytest.raises(rljax.UsageError, match="keep"):
        whole.policy(0, "best")
    with pytest.raises(rljax.UsageError, match="keep takes last, best, all"):
        rljax.run(own, config, keep="worst", **OPTIONS)
