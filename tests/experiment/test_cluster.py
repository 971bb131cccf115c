"""Experiments on a Ray cluster of two CPUs: the bits of a local run, errors as a local run raises them, signals."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import psutil
import pytest
import toys
from resuming import same_results
from toys import own

import rljax
from rljax import pbt
from rljax.experiment import checkpoints, cluster, folders, mailbox, options, shipping, worker

ray = pytest.importorskip("ray")
OPTIONS = {
    **{"seeds": 6, "evaluations": 3, "eval_episodes": 2, "progress": False, "sweep": {"rate": [0.1, 0.3]}},
    **{"runs_per_batch": 4, "devices": 1},
}
IDLE_TIME = "RAY_idle_worker_killing_time_threshold_ms"
TIMINGS = {"env_steps_per_second", "compile_seconds", "train_seconds", "device"}


@pytest.fixture(autouse=True)
def _imported_toys(monkeypatch):
    """The command line imports a named file anew: in this process, other tests may have done that to toys.py."""
    monkeypatch.setitem(sys.modules, "toys", toys)


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    """One cluster for all tests: they join the one that the program has connected to."""
    os.environ[IDLE_TIME] = "600000"  # a new worker takes seconds to import JAX
    own_cluster = {"address": "local", "num_cpus": 2, "object_store_memory": 2**27, "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    ray.init(**own_cluster, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)
    del os.environ[IDLE_TIME]


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.walk, num_updates=40)


@pytest.fixture(scope="module")
def local(config, tmp_path_factory):
    """The same batches, trained in this process."""
    out = tmp_path_factory.mktemp("local") / "x"
    return rljax.run(own, config, out=out, checkpoint_every=1e9, **OPTIONS), out


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("cluster") / "x"
    return rljax.run(own, config, out=out, cluster="ray", **OPTIONS), out


def files(folder):
    """What a finished experiment leaves, except timings."""
    summary = json.loads((folder / "summary.json").read_text())
    found = [{name: value for name, value in summary.items() if name not in TIMINGS}]
    return found + [(folder / name).read_text() for name in ("curves.csv", "metrics.csv")]


def test_a_cluster_gives_the_bits_and_files_of_a_local_run(local, trained):
    for mine, theirs in zip(trained[0].results, local[0].results, strict=True):
        same_results(mine, theirs)
    assert files(trained[1]) == files(local[1])
    assert sorted(path.name for path in trained[1].iterdir()) == sorted(path.name for path in local[1].iterdir())


def test_no_more_tasks_run_at_once_than_there_are_cpus(config, tmp_path):
    """A task that waits inside Ray lends its CPU to another one, for which Ray starts a third worker."""

    def init(key, config):
        (tmp_path / str(os.getpid())).touch()
        return own.init(key, config)

    noting = SimpleNamespace(**{**vars(own), "init": init})
    rljax.run(noting, config, out=tmp_path / "x", cluster="ray", **{**OPTIONS, "runs_per_batch": 2})
    workers = {path.name for path in tmp_path.iterdir() if path.name.isdecimal()} - {str(os.getpid())}
    assert 1 <= len(workers) <= 2


def test_states_are_read_when_they_are_asked_for(trained, monkeypatch):
    read, newest = [], checkpoints.newest

    def note(place):
        read.append(place.name)
        return newest(place)

    monkeypatch.setattr(checkpoints, "newest", note)
    result = rljax.resume(
        trained[1], algorithm=own, config=own.Config(env=toys.walk, num_updates=40), cluster="ray", progress=False
    )
    assert read == []
    assert result.results[0].states.params.shape == (6, 2)
    assert read == ["0000", "0001"]


def test_a_cluster_trains_into_a_url_and_resumes_from_it(local, config, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    url, seen = f"local://{tmp_path}/x", []

    def stop(progress):
        seen.append(progress.updates)
        progress.stop()

    partly = rljax.run(own, config, out=url, cluster="ray", checkpoint_every=0, callback=stop, **OPTIONS)
    assert seen
    first = next(result for result in partly.results if result is not None)  # only one may have begun
    assert first.states.params.shape[1:] == (2,)
    whole = rljax.resume(url, algorithm=own, config=config, cluster="ray", progress=False)
    for mine, theirs in zip(whole.results, local[0].results, strict=True):
        same_results(mine, theirs)
    assert files(tmp_path / "x") == files(local[1])
    assert list((tmp_path / "x" / "metrics").glob("*")) == []  # gathered in metrics.csv


def test_halving_over_several_tasks_gives_the_bits_of_a_local_run(config, tmp_path):
    given = {**OPTIONS, "sweep": {"rate": [0.1, 0.9, 0.5, 0.3]}, "seeds": 2, "halving": 2, "runs_per_batch": 3}
    here = rljax.run(own, config, out=tmp_path / "here", checkpoint_every=1e9, **given)
    there = rljax.run(own, config, out=tmp_path / "there", cluster="ray", **given)
    assert [c["updates"] for c in there.summary["configurations"]] == [10, 40, 20, 10]
    for mine, theirs in zip(there.results, here.results, strict=True):
        same_results(mine, theirs)
    assert files(tmp_path / "there")[:2] == files(tmp_path / "here")[:2]
    assert sorted(files(tmp_path / "there")[2].splitlines()) == sorted(files(tmp_path / "here")[2].splitlines())


def test_a_search_gives_the_bits_of_a_local_one(config, tmp_path):
    """Three batches of two configurations, each of two tasks: what is suggested depends on all returns before."""
    space = {"rate": rljax.log_uniform(0.01, 1.0), "env.params.height": rljax.uniform(0.5, 2.0)}
    given = {**OPTIONS, "sweep": space, "seeds": 2, "search": "optuna", "samples": 6, "search_batch": 2}
    given |= {"runs_per_batch": 2, "evaluations": 1}
    here = rljax.run(own, config, out=tmp_path / "here", **given)
    stopped = rljax.run(own, config, out=tmp_path / "there", cluster="ray", callback=Seen(1), **given)
    assert stopped.summary["interrupted"]
    there = rljax.resume(tmp_path / "there", algorithm=own, config=config, cluster="ray", progress=False)
    assert there.points == here.points
    for mine, theirs in zip(there.results, here.results, strict=True):
        same_results(mine, theirs)
    assert files(tmp_path / "there")[:2] == files(tmp_path / "here")[:2]


@pytest.mark.slow
def test_tunes_schedulers_stop_trials_early(config, tmp_path):
    """ASHA compares trials at 1 and 2 of 4 evaluations; the higher the rate, the better."""
    from ray import tune

    trainable = rljax.tune_trainable(own, config, seeds=2, evaluations=4, eval_episodes=2)
    rates = [0.9, 0.1, 0.5]
    tuner = tune.Tuner(
        trainable,
        param_space={"rate": tune.grid_search(rates)},
        tune_config=tune.TuneConfig(
            metric="return",
            mode="max",
            scheduler=tune.schedulers.ASHAScheduler(max_t=4, reduction_factor=2),
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert [one.metrics["training_iteration"] for one in results] == [4, 1, 1]
    assert [one.metrics["env_steps"] for one in results] == [400, 100, 100]
    best = results.get_best_result()
    assert best.config == {"rate": 0.9}
    run = rljax.run(own, config, rate=0.9, seeds=2, evaluations=4, eval_episodes=2, progress=False)
    returns = best.metrics_dataframe["return"]
    np.testing.assert_allclose(returns, run.eval_returns.mean(axis=0)[1:], rtol=1e-6)


def test_asynchronous_halving_promotes_at_least_those_of_synchronous_halving(config, tmp_path):
    """The higher the rate, the better; one configuration in a task, so that they have the same bits."""
    rates = [0.1, 0.9, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4]
    given = {**OPTIONS, "sweep": {"rate": rates}, "seeds": 2, "halving": 2, "runs_per_batch": 2, "cluster": "ray"}
    waiting = rljax.run(own, config, out=tmp_path / "waiting", **given)
    eager = rljax.run(own, config, out=tmp_path / "eager", asynchronous=True, **given)
    lengths = [[c["updates"] for c in one.summary["configurations"]] for one in (waiting, eager)]
    assert sorted(lengths[0]) == [5, 5, 5, 5, 10, 10, 20, 40]
    assert all(more >= less for less, more in zip(*lengths, strict=True))
    assert not eager.summary["interrupted"]
    assert eager.best_configuration == waiting.best_configuration == 1
    same_results(eager.results[1], waiting.results[1])
    resumed = rljax.resume(tmp_path / "eager", algorithm=own, config=config, progress=False)
    same_results(resumed.results[1], waiting.results[1])


class Seen:
    """A callback that keeps what it gets, and stops the experiment at an update."""

    def __init__(self, stop_at=10**9):
        self.progress, self.stop_at = [], stop_at

    def __call__(self, progress):
        self.progress.append(progress)
        if progress.updates >= self.stop_at:
            progress.stop()


def test_callbacks_and_loggers_hear_of_all_runs(config, local, tmp_path):
    seen = Seen()
    rljax.run(own, config, out=tmp_path / "x", cluster="ray", callback=seen, log="csv", **OPTIONS)
    runs = {run for one in seen.progress for run in one.runs}
    assert len(runs) == 12
    assert sum(one.metrics["env_steps"].size for one in seen.progress if not one.is_evaluation) == 12 * 40
    assert sum(one.is_evaluation for one in seen.progress) == 3 * 4
    with pytest.raises(rljax.UsageError, match=r"rljax\.load"):
        _ = seen.progress[0].states


def _wait(bits):
    if "JAX_NUM_CPU_DEVICES" in os.environ:  # on a worker
        time.sleep(0.02)
    return np.float32(0)


def _slow_update(key, state, config):
    zero = jax.pure_callback(
        _wait, jax.ShapeDtypeStruct((), np.float32), jax.random.bits(key), vmap_method="sequential"
    )
    new, metrics = own.update(key, state, config)
    return new._replace(params=new.params + zero), metrics


slow = SimpleNamespace(__name__="slow", Config=own.Config, init=own.init, update=_slow_update, act=own.act)
SLOW = {**OPTIONS, "sweep": None, "seeds": 4, "runs_per_batch": 2, "cluster": "ray"}


@pytest.fixture(scope="module")
def whole(config):
    """The slow algorithm, never stopped."""
    longer = rljax.replace(config, num_updates=100)
    return rljax.run(slow, longer, **{**SLOW, "cluster": None})


def resumed(folder, config, **given):
    return rljax.resume(folder, algorithm=slow, config=config, progress=False, **given)


def test_a_stopped_experiment_continues_with_and_without_a_cluster(config, whole, tmp_path):
    longer = rljax.replace(config, num_updates=100)
    stopped = rljax.run(slow, longer, out=tmp_path / "x", callback=Seen(1), **SLOW)
    assert stopped.summary["interrupted"]
    assert stopped.metrics["env_steps"].shape[1] < 100
    again = resumed(tmp_path / "x", longer, cluster="ray", callback=Seen(60))
    assert again.summary["interrupted"]
    done = resumed(tmp_path / "x", longer)
    assert not done.summary["interrupted"]
    same_results(done, whole)
    assert not (tmp_path / "x/locks").exists()


def test_a_task_that_runs_out_of_memory_asks_for_more():
    """Of nodes of 8 and 32 GiB: on the larger one, 4 tasks had 8 GiB each."""
    resources = [{"CPU": 2.0, "memory": 8.0}, {"CPU": 8.0, "memory": 32.0}]
    nodes = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": one} for one in resources])
    connection = cluster.Connection(nodes, "here", {"CPU": 2.0}, {})
    assert [connection.more_memory(before) for before in (None, 16.0, 20.0, 32.0)] == [16.0, 32.0, 32.0, None]
    assert cluster.Connection(nodes, "here", {"CPU": 2.0, "memory": 3.0}, {}).more_memory(None) == 6.0


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "was lost"),
        (signal.SIGTERM, "was asked to stop and has saved"),
        pytest.param(signal.SIGKILL, "ran out of its node's memory", marks=pytest.mark.slow),
    ],
)
def test_a_task_whose_worker_dies_or_is_sent_away_continues(config, whole, tmp_path, capsys, monkeypatch, number, said):
    """SIGTERM comes before a node ends: the worker saves, though no checkpoint is due."""
    sent = []
    if "memory" in said:  # as if Ray had killed it
        monkeypatch.setattr(ray.exceptions, "OutOfMemoryError", ray.exceptions.RayError)

    def end_a_worker(progress):
        workers = [
            child for child in psutil.Process().children(recursive=True) if child.name().startswith("ray::train")
        ]
        if progress.updates >= 10 and not sent and workers:
            workers[0].send_signal(number)
            sent.append(progress.updates)

    every = 0 if number == signal.SIGKILL else 1e9
    longer = rljax.replace(config, num_updates=100)
    result = rljax.run(slow, longer, out=tmp_path / "x", callback=end_a_worker, checkpoint_every=every, **SLOW)
    assert sent
    assert said in capsys.readouterr().err
    same_results(result, whole)


def test_workers_on_a_drained_node_are_asked_to_leave(monkeypatch):
    drained = {}
    monkeypatch.setattr(ray._private.state.state, "get_draining_nodes", lambda: drained)
    monkeypatch.setattr(mailbox, "_DRAINED_SECONDS", 0.0)
    box = mailbox.Mailbox()
    assert box.report([b"x"], "a") == ""
    drained["a"] = 1234
    assert [box.report([], node) for node in ("a", "b")] == [mailbox.LEAVE, ""]
    assert box.exchange(mailbox.STOP, []) == ([b"x"], set())
    assert box.report([], "a") == mailbox.STOP


def _broken_update(key, state, config):
    raise ZeroDivisionError("no such width")


def test_an_error_of_the_users_code_is_raised_with_its_line(config, tmp_path):
    broken = SimpleNamespace(**{**vars(own), "update": _broken_update})
    with pytest.raises(ZeroDivisionError, match="no such width") as error:
        rljax.run(broken, config, out=tmp_path / "x", **{**SLOW, "runs_per_batch": 4})
    assert rljax.errors.user_line(error.value).startswith("test_cluster.py, line ")


def refusal(config, folder, **given):
    started = time.monotonic()
    with pytest.raises(rljax.UsageError) as error:
        rljax.run(own, config, out=folder, **{**SLOW, **given})
    assert time.monotonic() - started < 60
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_wrong_address_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("ray=127.0.0.1:1", "ray://127.0.0.1:1"):
        assert "No Ray cluster answers at" in refusal(config, tmp_path / "x", cluster=address)
    for address in ("dask", "ray=", "ray://"):
        assert "cluster must be ray" in refusal(config, tmp_path / "x", cluster=address)


def test_resources_that_no_node_has_are_refused(config, tmp_path):
    assert "has GPU=4" in refusal(config, tmp_path / "x", task_resources="gpu=4")
    assert "has mine=1" in refusal(config, tmp_path / "x", task_resources="cpu=1, mine=1")
    for text in ("gpu", "cpu=-1", "cpu=1,cpu=2", "gpu=1.5", "memory=lots", "=1"):
        assert "task_resources must be" in refusal(config, tmp_path / "x", task_resources=text)
    assert options.resources_of("gpu=0.5,cpu=2,memory=4GiB,mine=1") == {
        **{"gpu": 0.5, "cpu": 2, "memory": 2**32, "mine": 1}
    }


def test_a_worker_with_another_version_is_refused(config, tmp_path, monkeypatch):
    known = {**worker.identity(), "jax": "0.1"}
    monkeypatch.setattr(worker, "identity", lambda: known)
    said = refusal(config, tmp_path / "x")
    assert "than this machine: install jax 0.1 there" in said


def test_workers_without_rljax_are_refused(monkeypatch):
    absent = ModuleType("rljax_of_this_machine")
    exec("def measure(): pass", absent.__dict__)
    monkeypatch.setitem(sys.modules, absent.__name__, absent)
    with pytest.raises(ray.exceptions.RayError) as error:
        ray.get(ray.remote(absent.measure).remote())
    said = cluster.Connection(ray, "here", {}, worker.identity()).refusal(error.value)
    assert "have no rljax" in str(said)


def test_a_folder_that_workers_do_not_see_is_refused(config, tmp_path, monkeypatch):
    elsewhere = str(tmp_path / "elsewhere")
    monkeypatch.setattr(cluster, "Job", lambda **given: shipping.Job(**{**given, "folder": elsewhere}))
    assert "does not see" in refusal(config, tmp_path / "x")


def test_a_folder_whose_workers_are_alive_is_refused(config, trained):
    with folders.task_locked(trained[1], 0, 1.0):
        for given in ({}, {"cluster": "ray"}):
            with pytest.raises(rljax.UsageError, match="in use by a worker"):
                rljax.resume(trained[1], algorithm=own, config=config, progress=False, **given)
        with pytest.raises(rljax.UsageError, match="Task 0"), folders.task_locked(trained[1], 0, 0.1):
            pass


def test_a_cluster_needs_a_folder(config):
    with pytest.raises(rljax.UsageError, match="pass out"):
        rljax.run(own, config, cluster="ray")


@pytest.mark.usefixtures("default_signals")
def test_sigterm_of_the_command_saves_everywhere(tmp_path):
    """The command joins the cluster of this module by its address."""
    address, out = ray.get_runtime_context().gcs_address, tmp_path / "x"
    given = ["--env", f"{toys.__file__}:walk", "--num-envs", "4", "--hidden-sizes", "8", "--num-steps", "8"]
    given += ["--num-epochs", "1", "--total-steps", "100000000", "--seeds", "2", "--runs-per-batch", "1"]
    given += ["--evaluations", "0", "--eval-episodes", "2", "--out", str(out), "--cluster", f"ray={address}"]
    command = [sys.executable, "-m", "rljax", "train", "ppo", *given]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while len(list(out.glob("locks/*"))) < 2:
            assert time.monotonic() < deadline
            assert started.poll() is None
            time.sleep(0.1)
        time.sleep(2)
        started.send_signal(signal.SIGTERM)
        said = started.communicate(timeout=300)[1]
    finally:
        started.kill()
    assert started.returncode == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1].startswith("rljax: Stopped after "), said
    assert json.loads((out / "summary.json").read_text())["interrupted"]
    assert len(list(out.glob("checkpoints/*"))) == 2


def test_a_population_on_a_cluster_is_that_of_one_program(config):
    given = {"population": 8, "interval": 5, "fraction": 0.4}
    explore = {"rate": (0.01, 1.0)}
    one = pbt.train(own, jax.random.key(3), config, explore, **given)
    many = rljax.train_population(own, jax.random.key(3), config, explore, members_per_task=3, **given)
    np.testing.assert_array_equal(many.parents, one.parents)
    assert (np.asarray(one.parents) != np.arange(8)).any()
    for mine, theirs in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    broken = SimpleNamespace(**{**vars(own), "update": _broken_update})
    with pytest.raises(ZeroDivisionError, match="no such width"):
        rljax.train_population(broken, jax.random.key(3), config, explore, **given)
