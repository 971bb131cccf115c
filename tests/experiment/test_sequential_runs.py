"""Runs whose number of seeds follows from their results."""

import itertools
import json

import numpy as np
import pytest
import toys
from resuming import same_results
from toys import own

import rljax
from rljax import cli
from rljax.experiment import loop
from rljax.report import sequential

OPTIONS = {"evaluations": 2, "eval_episodes": 2, "progress": False}


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.walk, num_updates=4)


@pytest.fixture(scope="module")
def fixed(config):
    return rljax.run(own, config, seeds=48, **OPTIONS)


def width_between(result, last):
    """A half-width that the interval has at the last of these looks, and at none before."""
    final = np.array(result.summary["final_return"]["per_seed"])
    looks = list(itertools.takewhile(lambda seeds: seeds <= last, sequential.looks()))
    ends = [sequential.interval(final[:seeds], look) for look, seeds in enumerate(looks, start=1)]
    halves = [(high - low) / 2 for low, high in ends]
    assert halves[-1] < min(halves[:-1])
    return f"{np.mean([halves[-1], min(halves[:-1])]):.6g}"


@pytest.fixture(scope="module")
def whole(config, fixed, tmp_path_factory):
    """A run that ends at the third look, and its folder."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return rljax.run(own, config, seeds=f"until {width_between(fixed, 48)}", out=out, **OPTIONS), out


def test_seeds_are_added_until_the_interval_is_narrow_enough(config, fixed, whole):
    """They are the seeds of a run with as many from the start."""
    result, out = whole
    assert result.seeds.tolist() == list(range(48))
    final = np.array(result.summary["final_return"]["per_seed"])
    np.testing.assert_allclose(final, fixed.summary["final_return"]["per_seed"], rtol=1e-6)
    about = result.summary["sequential"]
    assert (about["until"], about["look"], about["is_reached"]) == (width_between(fixed, 48), 3, True)
    assert about["interval"] == list(sequential.interval(final, 3))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seeds"] == 48
    assert summary["sequential"] == about
    loaded = rljax.load(out, algorithm=own, config=config)
    assert loaded.states.params.shape == (48, 2)
    assert loaded.evaluations.returns.shape == (48, 3)
    assert loaded.metrics["env_steps"].shape == (48, 4)


def test_a_stopped_run_resumes_to_the_same_seeds_and_bits(config, whole, tmp_path, monkeypatch):
    begun, train = [], loop.train

    def killed(*arguments):
        begun.append(arguments)
        if len(begun) == 2:  # in the second batch
            raise SystemExit
        return train(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", killed)
        with pytest.raises(SystemExit):
            rljax.run(own, config, until=whole[0].summary["sequential"]["until"], out=tmp_path / "x", **OPTIONS)
    resumed = rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False)
    same_results(resumed, whole[0])
    assert resumed.summary["sequential"] == whole[0].summary["sequential"]


def test_a_run_needs_no_folder_and_a_callback_ends_its_batches(config):
    result = rljax.run(own, config, seeds="until 0.001%", callback=lambda progress: progress.stop(), **OPTIONS)
    assert result.states.params.shape == (16, 2)
    assert not result.summary["sequential"]["is_reached"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seeds": "many"}, 'seeds must be an integer, or "until 5%"'),
        ({"seeds": "until"}, 'seeds must be an integer, or "until 5%"'),
        ({"seeds": "until few"}, "until takes a part of the IQM, such as 5%"),
        ({"until": "5%", "seeds": 10}, "chooses the number of seeds: leave seeds=10 out"),
        ({"until": "5%", "sweep": {"rate": [0.1]}}, "until is for runs of one configuration: leave sweep out"),
        ({"until": "5%", "cluster": "ray", "out": "x"}, "leave halving, cluster and distributed out"),
    ],
)
def test_bad_widths_are_refused(config, options, sentence):
    with pytest.raises(rljax.UsageError, match=sentence):
        rljax.run(own, config, **options)


@pytest.mark.parametrize("words", [["--seeds", "until 5%"], ["--num-seeds=until 5%"], ["--until", "5%"]])
def test_the_command_line_takes_it_as_seeds(monkeypatch, words, tmp_path):
    given = {}
    for name in ("config.json", "summary.json"):
        (tmp_path / name).touch()
    monkeypatch.setattr("rljax.experiment.run.run", lambda algorithm, config, **options: given.update(options))
    assert (
        cli.main(["train", "ppo", "--env", "CartPole-v1", "--total-steps", "512", *words, "--out", str(tmp_path)]) == 0
    )
    assert (given["seeds"], given["until"]) == (16, "5%")
