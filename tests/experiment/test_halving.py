"""Successive halving."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from toys import own, same_bits, walk

import rljax
from rljax import ppo
from rljax.experiment import compilation, halving
from rljax.experiment.history import Runs


@pytest.fixture(scope="module")
def config():
    env = rljax.make("CartPole-v1")
    return ppo.Config(env=env, total_steps=256, num_envs=4, num_steps=16, num_minibatches=2, hidden_sizes=(8,))


SWEEP = {"learning_rate": [1e-3, 1e-2], "env.params.gravity": [5.0, 9.8]}


@pytest.mark.parametrize(
    ("configurations", "updates", "factor", "expected", "total"),
    [
        (9, 27, 3, [(3, 3), (9, 1)], 6 * 3 + 2 * 9 + 27),
        (10, 100, 3, [(3, 4), (11, 2), (33, 1)], 6 * 3 + 2 * 11 + 33 + 100),
        (2, 10, 3, [(3, 1)], 3 + 10),
        (8, 3, 2, [(1, 4)], 4 + 4 * 3),
        (4, 10, None, [], 40),
        (1, 10, 2, [], 10),
    ],
)
def test_rungs_and_their_updates(configurations, updates, factor, expected, total):
    assert halving.rungs(configurations, updates, factor) == expected
    assert halving.total_updates(configurations, updates, factor) == total


def test_configurations_are_compared_by_the_interquartile_mean_on_even_seeds():
    runs = Runs.of([(configuration, seed) for configuration in (2, 5, 7, 8) for seed in range(8)])
    on_even_seeds = {2: [1, 1, 1, 1], 5: [3, 3, 3, -90], 7: [2, 2, 2, 90], 8: [np.nan] * 4}
    returns = np.full(len(runs), 50.0)
    for configuration, values in on_even_seeds.items():
        returns[(runs.configurations == configuration) & (runs.seeds % 2 == 0)] = values
    returns[runs.configurations == 5] -= 100.0 * (runs.seeds[runs.configurations == 5] % 2)
    for remaining, expected in ((1, {5}), (2, {5, 7}), (3, {2, 5, 7})):
        survives = halving.survivors(runs, returns, remaining)
        assert set(runs.configurations[survives]) == expected
        assert survives.sum() == 8 * remaining


def test_an_error_after_a_rung_keeps_the_survivors(tmp_path, monkeypatch):
    """Their batch is smaller and compiles anew."""
    base = own.Config(env=walk, num_updates=9)
    build, built = compilation.build, []

    def fail(*inputs):
        built.append(len(inputs[3]))
        if len(built) == 2:
            raise RuntimeError("no compiler")
        return build(*inputs)

    monkeypatch.setattr(compilation, "build", fail)
    options = {"seeds": 2, "sweep": {"rate": [0.1, 0.9, 0.5]}, "halving": 3, "evaluations": 1, "eval_episodes": 2}
    with pytest.raises(RuntimeError, match="no compiler") as error:
        rljax.run(own, base, out=tmp_path / "x", progress=False, devices=1, **options)
    assert built == [6, 2]
    assert "of 6 of 6 runs" in error.value.__notes__[0]
    summary = json.loads((tmp_path / "x/summary.json").read_text())
    assert [c["env_steps"] for c in summary["configurations"]] == [30, 30, 30]
    assert all(c["final_return"]["not_finite"] == [] for c in summary["configurations"])


def test_halving_drops_the_worst_and_shrinks_the_batch(tmp_path, monkeypatch):
    """Nine rates, a third of them after each rung; the higher the rate, the better."""
    base = own.Config(env=walk, num_updates=27)
    rates = [0.1, 0.9, 0.5, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6]
    options = {"seeds": 2, "sweep": {"rate": rates}, "evaluations": 3, "eval_episodes": 2, "devices": 1}
    lanes, build = [], compilation.build
    compared, survivors = {}, halving.survivors

    def note(*inputs):
        lanes.append(len(inputs[3]))
        return build(*inputs)

    def compare(runs, returns, remaining):
        compared.update(zip(runs, returns, strict=True))
        return survivors(runs, returns, remaining)

    monkeypatch.setattr(compilation, "build", note)
    monkeypatch.setattr(halving, "survivors", compare)
    result = rljax.run(own, base, halving=3, progress=False, out=tmp_path / "x", checkpoint_every=1e9, **options)
    assert lanes == [18, 6, 2]
    for configuration in (0, 2, 3, 4, 5, 6, 7, 8):  # dropped for its mean return over all episodes
        returns = [compared[configuration, seed] for seed in (0, 1)]
        np.testing.assert_allclose(result.results[configuration].summary["final_return"]["per_seed"], returns)
    lengths = {rate: one.metrics["env_steps"].shape[1] for rate, one in zip(rates, result.results, strict=True)}
    assert lengths == {rate: {0.9: 27, 0.8: 9, 0.7: 9}.get(rate, 3) for rate in rates}
    assert result.summary["best"]["configuration"] == 1
    assert result.summary["interrupted"] is False
    lengths = [(c["updates"], c["num_updates"]) for c in result.summary["configurations"]]
    assert lengths == [(one.metrics["env_steps"].shape[1], 27) for one in result.results]
    whole = rljax.run(own, rljax.replace(base, rate=0.9), progress=False, **{**options, "sweep": None})
    np.testing.assert_allclose(result.results[1].states.params, whole.states.params, rtol=1e-6)
    np.testing.assert_allclose(result.results[1].eval_returns, whole.eval_returns, rtol=1e-6)
    assert result.results[1].eval_steps.tolist() == [0, 90, 180, 270]
    loaded = rljax.load(tmp_path / "x", configuration=1, algorithm=own, config=base)
    assert same_bits(loaded.states, result.results[1].states)
    # Resuming from its folder gives the same, also from the first rung.
    curves = (tmp_path / "x/curves.csv").read_text()
    again = rljax.resume(tmp_path / "x", algorithm=own, config=base, progress=False)
    assert str(again.summary["configurations"]) == str(result.summary["configurations"])
    for batch in ("0001", "0002"):
        shutil.rmtree(tmp_path / "x/checkpoints" / batch)
    again = rljax.resume(tmp_path / "x", algorithm=own, config=base, progress=False)
    assert str(again.summary["configurations"]) == str(result.summary["configurations"])
    assert (tmp_path / "x/curves.csv").read_text() == curves


def test_a_dropped_configuration_is_never_the_best(capsys):
    """Returns that fall the longer one trains: those that were dropped have the highest."""

    def act(state, config):
        return own.act(state._replace(params=config.rate - state.step), config)

    falling = SimpleNamespace(__name__="falling", init=own.init, update=own.update, act=act)
    rates = [500.0, 400.0, 450.0]
    options = {"seeds": 2, "sweep": {"rate": rates}, "halving": 3, "evaluations": 0, "eval_episodes": 20}
    result = rljax.run(falling, own.Config(env=walk, num_updates=300), **options)
    assert [c["updates"] for c in result.summary["configurations"]] == [300, 100, 100]
    returns = [c["final_return"]["iqm"] for c in result.summary["configurations"]]
    assert returns[0] < returns[1] < returns[2]
    assert result.summary["best"]["configuration"] == 0
    assert result.summary["best_improves_on"][1:] == [None, None]
    assert result.summary["probability_of_improvement"][1:] == [[None] * 3] * 2
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if "of 300" in line]
    assert [row.split("│")[2].strip() for row in rows] == ["300 of 300", "100 of 300", "100 of 300"]
    assert "Best on one half of the seeds: rate 500;" in said
    assert "provisional" not in said


@pytest.mark.parametrize(
    "arguments", [{"halving": 3}, {"halving": 1, "sweep": SWEEP}, {"halving": 2.5, "sweep": SWEEP}]
)
def test_invalid_halving_is_refused(config, arguments):
    with pytest.raises(rljax.UsageError, match="halving"):
        rljax.run(ppo, config, progress=False, **arguments)
