"""The trainable for Ray Tune: in this process, with Tune's functions replaced by notes."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from toys import own, walk

import rljax
from rljax.experiment import shipping

tune = pytest.importorskip("ray.tune")
OPTIONS = {"seeds": 3, "evaluations": 4, "eval_episodes": 3}


@pytest.fixture(scope="module")
def config():
    return own.Config(env=walk, num_updates=20)


class Stop(Exception):
    """The end of a trial."""


class Trial:
    """What Tune knows of a trial."""

    def __init__(self, monkeypatch, folder, last=10**9, checkpoint=None):
        self.reports, self.folder, self.last = [], folder, last
        resources = SimpleNamespace(required_resources={"CPU": 1})
        monkeypatch.setenv("NPROC", "1")  # what this process uses is decided
        monkeypatch.setattr(shipping, "_users_modules", dict)  # they are imported here
        monkeypatch.setattr(tune, "get_context", lambda: SimpleNamespace(get_trial_resources=lambda: resources))
        monkeypatch.setattr(tune, "get_checkpoint", lambda: checkpoint)
        monkeypatch.setattr(tune, "report", self.report)

    def report(self, metrics, checkpoint):
        self.reports.append(metrics)
        self.checkpoint = tune.Checkpoint(shutil.copytree(checkpoint.path, self.folder / str(len(self.reports))))
        if len(self.reports) == self.last:
            raise Stop


def scores(result):
    """The interquartile mean of three seeds at each evaluation: a quarter of them is less than one."""
    return result.eval_returns.mean(axis=0)[1:]


def test_a_trial_reports_the_evaluations_of_a_run(config, tmp_path, monkeypatch):
    trial = Trial(monkeypatch, tmp_path)
    rljax.tune_trainable(own, config, **OPTIONS)({"rate": 0.5})
    run = rljax.run(own, config, rate=0.5, progress=False, **OPTIONS)
    np.testing.assert_allclose([one["return"] for one in trial.reports], scores(run), rtol=1e-6)
    assert [one["updates"] for one in trial.reports] == [5, 10, 15, 20]
    assert [one["env_steps"] for one in trial.reports] == [50, 100, 150, 200]
    assert [one["length"] for one in trial.reports] == [3.0] * 4


def test_a_trial_continues_from_a_checkpoint_with_its_own_values(config, tmp_path, monkeypatch):
    trainable = rljax.tune_trainable(own, config, **OPTIONS)
    first = Trial(monkeypatch, tmp_path / "first", last=2)
    with pytest.raises(Stop):
        trainable({"rate": 0.5})
    same = Trial(monkeypatch, tmp_path / "same", checkpoint=first.checkpoint)
    trainable({"rate": 0.5})
    whole = Trial(monkeypatch, tmp_path / "whole")
    trainable({"rate": 0.5})
    assert first.reports + same.reports == whole.reports
    faster = Trial(monkeypatch, tmp_path / "faster", checkpoint=first.checkpoint)
    trainable({"rate": 5.0})
    assert [one["updates"] for one in faster.reports] == [15, 20]
    gains = [after["return"] - first.reports[-1]["return"] for after in (same.reports[-1], faster.reports[-1])]
    np.testing.assert_allclose(gains[1], 10 * gains[0], rtol=0.05)  # rewards are noisy


def test_what_tune_cannot_use_is_refused(config, tmp_path, monkeypatch):
    for given, said in (
        ({"evaluations": 0}, "pass evaluations=1 or more"),
        ({"halving": 2}, r"tune_trainable\(\) cannot change halving"),
        ({"ratio": 2}, "ratio is neither an option"),
    ):
        with pytest.raises(rljax.UsageError, match=said):
            rljax.tune_trainable(own, config, **given)
    Trial(monkeypatch, tmp_path)
    with pytest.raises(rljax.UsageError, match="no field at 'rato'"):
        rljax.tune_trainable(own, config)({"rato": 1.0})
    Trial(monkeypatch, tmp_path, checkpoint=tune.Checkpoint(tmp_path))
    with pytest.raises(rljax.UsageError, match=r"not a checkpoint of rljax\.tune_trainable"):
        rljax.tune_trainable(own, config, **OPTIONS)({"rate": 1.0})
