"""Sweeps: which configurations there are, which share a program, and what is made of their results."""

import csv
import dataclasses
import json
import math
import re
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from toys import in_chunks_of, own, walk

import rljax
from rljax import cli, ppo
from rljax.experiment import batching, compilation, loop, sweeps
from rljax.experiment.history import Record
from rljax.report import files


@pytest.fixture(scope="module")
def config():
    env = rljax.make("CartPole-v1")
    return ppo.Config(env=env, total_steps=256, num_envs=4, num_steps=16, num_minibatches=2, hidden_sizes=(8,))


def test_lists_make_a_grid(config):
    points = sweeps.points(config, {"learning_rate": [1e-4, 1e-3, 1e-2], "env.params.gravity": (5, 9.8)})
    assert [tuple(p.values.values()) for p in points] == [(a, b) for a in (1e-4, 1e-3, 1e-2) for b in (5.0, 9.8)]
    assert points[2].config.learning_rate == 1e-3
    assert points[2].config.env.params.gravity == 5.0
    assert points[2].config.env.params.force_mag == config.env.params.force_mag
    (group,) = sweeps.groups(points)
    assert group.points == tuple(range(6))
    np.testing.assert_allclose(group.config.learning_rate, np.repeat([1e-4, 1e-3, 1e-2], 2), rtol=1e-6)
    assert group.config.discount == config.discount  # what does not differ stays one number
    assert group.axes.learning_rate == 0
    assert group.axes.discount is None


def test_static_values_need_separate_programs(config):
    grid = {"learning_rate": [1e-4, 1e-3], "hidden_sizes": [(8,), [4, 4]], "value_clip": [None, 0.2, 1]}
    points = sweeps.points(config, grid)
    groups = sweeps.groups(points)
    assert len(points) == 12
    assert sorted(len(group.points) for group in groups) == [2, 2, 4, 4]  # two widths, with and without a clip
    assert sorted(i for group in groups for i in group.points) == list(range(12))
    for group in groups:
        assert len({(points[i].config.hidden_sizes, points[i].config.value_clip is None) for i in group.points}) == 1


def test_samplers_follow_their_distributions():
    env = rljax.make("CartPole-v1")
    config = rljax.dqn.Config(env=env)
    sweep = {
        "learning_rate": rljax.log_uniform(1e-5, 1e-1),
        "discount": rljax.uniform(0.9, 0.99),
        "target_period": rljax.log_uniform(1, 1000),
        "huber_delta": rljax.choice([1.0, 2.0]),
    }
    points = sweeps.points(config, sweep, samples=2000, seed=3)
    rates = np.log10([p.values["learning_rate"] for p in points])
    assert rates.min() > -5
    assert rates.max() < -1
    np.testing.assert_allclose(np.quantile(rates, [0.25, 0.5, 0.75]), [-4, -3, -2], atol=0.15)
    discounts = [p.values["discount"] for p in points]
    np.testing.assert_allclose(np.mean(discounts), 0.945, atol=0.003)
    assert {type(p.values["target_period"]) for p in points} == {int}
    assert np.mean([p.values["target_period"] == 1 for p in points]) == pytest.approx(
        np.log(1.5) / np.log(1000), abs=0.015
    )
    np.testing.assert_allclose(np.mean([p.values["huber_delta"] for p in points]), 1.5, atol=0.05)
    assert [p.values for p in sweeps.points(config, sweep, samples=3, seed=3)] == [p.values for p in points[:3]]
    assert sweeps.points(config, sweep, samples=3, seed=4)[0].values != points[0].values
    assert len(sweeps.groups(points)) == 1


def test_a_grid_is_crossed_with_draws(config):
    points = sweeps.points(config, {"discount": [0.9, 0.99], "learning_rate": rljax.log_uniform(1e-4, 1e-2)}, samples=3)
    assert [p.values["discount"] for p in points] == [0.9] * 3 + [0.99] * 3
    assert [p.values["learning_rate"] for p in points[:3]] == [p.values["learning_rate"] for p in points[3:]]


def test_dependent_values_are_set_together():
    """value_low above the old value_high, and a batch that only the new number of environments divides."""
    config = rljax.dqn.Config(env=rljax.make("CartPole-v1"))
    (point,) = sweeps.points(config, {"value_low": [200.0], "value_high": [300.0]})
    assert (point.config.value_low, point.config.value_high) == (200.0, 300.0)


def test_an_environment_can_be_swept(config):
    points = sweeps.points(config, {"env": ["CartPole-v1", "Acrobot-v1"]})
    assert [p.config.env.name for p in points] == ["CartPole-v1", "Acrobot-v1"]
    assert len(sweeps.groups(points)) == 2
    (point,) = sweeps.points(config, {"env": ["Acrobot-v1"], "env.params.max_steps_in_episode": [7]})
    assert (point.config.env.name, point.config.env.params.max_steps_in_episode) == ("Acrobot-v1", 7)


def test_the_annotation_decides_the_type_of_a_number(config):
    """A float field that holds a 1, or nothing, takes fractions, and its whole values share a program with these."""
    whole = rljax.replace(config, max_grad_norm=1)
    points = sweeps.points(whole, {"max_grad_norm": [0.5, 2], "target_kl": [0.01, 1]})
    assert [type(value) for point in points for value in point.values.values()] == [float] * 8
    assert len(sweeps.groups(points)) == 1
    (drawn,) = sweeps.points(whole, {"max_grad_norm": rljax.uniform(0.1, 0.2)}, samples=1)
    assert 0.1 < drawn.config.max_grad_norm < 0.2


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"lerning_rate": [1e-3]}, ["lerning_rate", "learning_rate"]),
        ({"env.params.gravty": [1.0]}, ["env.params.gravty", "gravity"]),
        ({"discount.x": [1.0]}, ["no fields"]),
        ({"learning_rate": []}, ["learning_rate", "empty"]),
        ({"learning_rate": 1e-3}, ["learning_rate", "list"]),
        ({"learning_rate": "fast"}, ["learning_rate", "list"]),
        ({"learning_rate": ["fast"]}, ["learning_rate must be a number or a schedule", "fast"]),
        ({"learning_rate": [math.nan]}, ["learning_rate", "finite"]),
        ({"learning_rate": [True]}, ["learning_rate", "finite numbers"]),
        ({"learning_rate": [-1.0]}, ["learning_rate", "at least 0"]),
        ({"num_envs": [2.5]}, ["num_envs", "integers"]),
        ({"num_minibatches": [7]}, ["divide"]),
        ({"hidden_sizes": [8]}, ["hidden_sizes", "tuples"]),
        ({"activation": [3]}, ["activation", "strings"]),
        ({"normalize_advantages": [1]}, ["normalize_advantages", "True or False"]),
        ({"env": ["CartPol-v1"]}, ["CartPole-v1"]),
        ({}, ["sweep must be a dict"]),
        ([1], ["sweep must be a dict"]),
        ({"learning_rate": rljax.uniform(0, 1)}, ["learning_rate", "samples"]),
    ],
)
def test_invalid_sweeps_are_refused(config, sweep, words):
    with pytest.raises(rljax.UsageError) as error:
        rljax.run(ppo, config, sweep=sweep, progress=False)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rljax.uniform(1, 1),
        lambda: rljax.uniform("a", 1),
        lambda: rljax.log_uniform(0, 1),
        lambda: rljax.uniform(0, math.inf),
        lambda: rljax.choice([]),
        lambda: rljax.choice(3),
    ],
)
def test_invalid_samplers_are_refused(make):
    with pytest.raises(rljax.UsageError):
        make()


def test_samples_without_samplers_is_refused(config):
    with pytest.raises(rljax.UsageError, match="only lists"):
        sweeps.points(config, {"discount": [0.9]}, samples=3)
    with pytest.raises(rljax.UsageError, match="samples is for a sweep"):
        rljax.run(ppo, config, samples=3)


# --- many configurations --------------------------------------------------------------------------------------------


SWEEP = {"learning_rate": [1e-3, 1e-2], "env.params.gravity": [5.0, 9.8]}


@pytest.fixture(scope="module")
def swept(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "x"
    build, built = compilation.build, []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(compilation, "build", lambda *inputs: built.append(inputs) or build(*inputs))
        options = {"evaluations": 2, "eval_episodes": 4, "devices": 1, "progress": False}
        result = rljax.run(ppo, config, seeds=3, seed=5, sweep=SWEEP, out=out, **options)
    assert len(built) == 1  # one program for four configurations
    return result, out


def test_a_sweep_gives_the_same_bits_as_a_plain_vmap(config, swept):
    result, _ = swept
    keys = jax.random.split(jax.random.key(5), 3)[np.tile(np.arange(3), 4)]
    params = config.env.params.replace(gravity=jnp.tile(jnp.repeat(jnp.array([5.0, 9.8]), 3), 2))
    stacked = dataclasses.replace(
        config, learning_rate=jnp.repeat(jnp.array([1e-3, 1e-2]), 6), env=config.env.replace(params=params)
    )
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, stacked)
    states, metrics = jax.jit(jax.vmap(ppo.train, (0, axes)))(keys, stacked)
    for i, one in enumerate(result.results):
        rows = slice(3 * i, 3 * i + 3)
        for got, want in zip(jax.tree.leaves(one.states), jax.tree.leaves(states), strict=True):
            np.testing.assert_array_equal(got, want[rows])
        for name, values in metrics.items():
            np.testing.assert_array_equal(one.metrics[name], values[rows], err_msg=name)
    assert result.configs[3].learning_rate == 1e-2
    assert result.points[1] == {"learning_rate": 1e-3, "env.params.gravity": 9.8}


def test_a_sweep_writes_its_files(swept):
    result, out = swept
    assert {p.name for p in out.iterdir()} == {
        *("checkpoints", "config.json", "curves.csv", "learning_curve.png", "metrics.csv", "summary.json")
    }
    rows = list(csv.DictReader((out / "curves.csv").open()))
    assert len(rows) == 4 * 3 * 3
    fields = ["configuration", "learning_rate", "env.params.gravity", "seed", "update", "env_steps", "return", "length"]
    assert list(rows[0]) == fields
    for i, one in enumerate(result.results):
        mine = [row for row in rows if int(row["configuration"]) == i]
        assert {float(row["env.params.gravity"]) for row in mine} == {result.points[i]["env.params.gravity"]}
        np.testing.assert_allclose([float(row["return"]) for row in mine], one.eval_returns.ravel(), rtol=1e-6)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["fields"] == list(SWEEP)
    assert [c["values"] for c in summary["configurations"]] == list(result.points)
    for c, one in zip(summary["configurations"], result.results, strict=True):
        assert c["final_return"]["per_seed"] == pytest.approx(one.summary["final_return"]["per_seed"])
        assert {"iqm", "ci95", "per_seed"} <= set(c["final_return"])
    assert summary["best"]["chosen_on_seeds"] == [0, 2]
    assert summary["best"]["reported_on_seeds"] == [1]
    assert len(summary["best_improves_on"]) == 4
    assert len(json.loads((out / "config.json").read_text())["sweep"]) == 4


def test_static_fields_are_trained_group_by_group(capsys):
    sweep = {"width": [2, 3], "num_updates": [5, 10], "rate": [0.1, 0.2]}
    result = rljax.run(own, own.Config(env=walk), seeds=2, sweep=sweep, evaluations=1, eval_episodes=2)
    assert [one.states.params.shape for one in result.results] == [(2, 2)] * 4 + [(2, 3)] * 4
    assert [one.metrics["env_steps"].shape for one in result.results] == [(2, 5), (2, 5), (2, 10), (2, 10)] * 2
    captured = capsys.readouterr()
    assert "8 configurations x 2 seeds = 16 runs, by 4 compiled programs" in captured.err
    plans = re.findall(r"4 runs of (\d+) updates side by side: ([\d.]+) (\w+) .*; about \d+ s plus", captured.err)
    assert [int(updates) for updates, _, _ in plans] == [5, 10, 5, 10]
    assert all(float(size) > 0 for _, size, _ in plans)
    assert captured.err.count("all 4 batches: about") == 1
    assert "num_updates" in captured.out
    assert re.search(r"on the other half its IQM return is [-\d.]+\.$", captured.out.strip())  # one seed, no interval
    assert result.summary["best"]["configuration"] in (3, 7)  # faster for longer


def refusing(*widths):
    """The toy algorithm, which raises an error for these widths."""

    def update(key, state, config):
        if config.width in widths:
            raise ZeroDivisionError("no such width")
        return own.update(key, state, config)

    return SimpleNamespace(__name__="refusing", init=own.init, act=own.act, update=update)


def test_an_error_in_a_later_group_keeps_the_earlier_ones(tmp_path):
    """The error is raised unchanged, with a note if earlier groups are done."""
    options = {"seeds": 2, "evaluations": 1, "eval_episodes": 2, "progress": False}
    base, sweep = own.Config(env=walk, num_updates=5), {"width": [2, 3]}
    with pytest.raises(ZeroDivisionError, match="no such width") as error:
        rljax.run(refusing(3), base, sweep=sweep, out=tmp_path / "x", **options)
    out = tmp_path / "x"
    note = f"The results so far, of 2 of 4 runs, are in {out}, and `rljax resume {out}` continues it."
    assert error.value.__notes__[-1] == note
    assert error.traceback[-1].name == "update"
    summary = json.loads((tmp_path / "x/summary.json").read_text())
    assert summary["interrupted"] is True
    (first,) = summary["configurations"]
    alone = rljax.run(own, base, **options)
    assert first["final_return"] == json.loads(files.as_json(alone.summary["final_return"]))
    assert len(list(csv.DictReader((tmp_path / "x/curves.csv").open()))) == 4
    assert (tmp_path / "x/learning_curve.png").exists()
    with pytest.raises(ZeroDivisionError) as error:
        rljax.run(refusing(2, 3), base, sweep=sweep, out=tmp_path / "y", **options)
    assert not any("results so far" in note for note in getattr(error.value, "__notes__", []))
    assert not (tmp_path / "y/summary.json").exists()


def test_a_limit_too_low_for_a_later_group_can_be_raised(tmp_path):
    base, out = own.Config(env=walk, num_updates=5), tmp_path / "x"
    options = {"seeds": 2, "evaluations": 0, "eval_episodes": 2, "progress": False}
    with pytest.raises(rljax.UsageError, match="memory_limit"):
        rljax.run(own, base, sweep={"width": [2, 20_000]}, memory_limit=100_000, checkpoint_every=0, out=out, **options)
    assert [c["configuration"] for c in json.loads((out / "summary.json").read_text())["configurations"]] == [0]
    result = rljax.resume(out, algorithm=own, config=base, memory_limit="1GiB", progress=False)
    assert [r.states.params.shape for r in result.results] == [(2, 2), (2, 20_000)]


def test_a_configuration_is_not_the_best_before_all_its_seeds_have_started(tmp_path, monkeypatch):
    """The first batch, of five runs, has all seeds of the first configuration and two of the second."""
    build, built = compilation.build, []

    def fail(*inputs):
        built.append(inputs)
        if len(built) == 3:
            raise RuntimeError("no compiler")
        return build(*inputs)

    monkeypatch.setattr(compilation, "build", fail)
    monkeypatch.setattr(batching, "lanes_that_fit", lambda experiment, batch, memory, available: min(batch.lanes, 5))
    base, sweep = own.Config(env=walk, num_updates=5), {"rate": [0.1, 0.9, 0.5]}
    options = {"seeds": 3, "evaluations": 0, "eval_episodes": 2, "progress": False, "devices": 1}
    with pytest.raises(RuntimeError, match="no compiler"):
        rljax.run(own, base, sweep=sweep, out=tmp_path / "x", **options)
    summary = json.loads((tmp_path / "x/summary.json").read_text())
    assert [(c["configuration"], c["updates"]) for c in summary["configurations"]] == [(0, 5), (1, 0)]
    assert "best" not in summary


def test_a_sweep_on_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = ["--total-steps", "64", "--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8", "--evaluations", "1"]
    command = ["train", "ppo", "--env", "CartPole-v1", "--seeds", "2", *tiny, "--eval-episodes", "2"]
    swept = ["--sweep", "learning_rate=1e-4,3e-4", "--sweep", "discount=uniform(0.9,0.99)", "--samples", "2"]
    assert cli.main([*command, *swept, "--out", "x"]) == 0
    summary = json.loads((tmp_path / "x/summary.json").read_text())
    assert [c["values"]["learning_rate"] for c in summary["configurations"]] == [1e-4, 1e-4, 3e-4, 3e-4]
    assert "learning_rate" in capsys.readouterr().out
    for wrong, word in (
        ("learning_rate", "needs a field"),
        ("lerning_rate=1,2", "learning_rate"),
        ("discount=uniform(1)", "two numbers"),
        ("activation=tanh,3", "activation"),
    ):
        assert cli.main([*command, "--sweep", wrong, "--out", "y"]) == 2
        said = capsys.readouterr().err.strip()
        assert word in said
        assert len(said.splitlines()) == 1


def press_at(monkeypatch, updates, **runs_of):
    """Press Ctrl-C after this many updates of a configuration, one update a chunk."""
    add_chunk = Record.add_chunk

    def press(record, *given):
        add_chunk(record, *given)
        if record.updates == updates and record.runs.configurations[0] == runs_of["configuration"]:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Record, "add_chunk", press)
    monkeypatch.setattr(loop, "train", in_chunks_of(1))


@pytest.mark.parametrize(("stopped", "best"), [(1, None), (2, 1)])
def test_after_an_interrupt_only_those_trained_longest_are_compared(stopped, best, tmp_path, monkeypatch, capsys):
    """Three groups; the one that is stopped has the highest return of all."""
    config, sweep = own.Config(env=walk, num_updates=8), {"width": [2, 3, 4]}
    press_at(monkeypatch, 6, configuration=stopped)
    with pytest.raises(rljax.Interrupted) as of:
        rljax.run(own, config, seeds=2, sweep=sweep, evaluations=0, eval_episodes=20, out=tmp_path / "x")
    summary = json.loads((tmp_path / "x/summary.json").read_text())
    assert [(c["updates"], c["num_updates"]) for c in summary["configurations"]] == [(8, 8)] * stopped + [(6, 8)]
    returns = [c["final_return"]["iqm"] for c in summary["configurations"]]
    assert returns == sorted(returns)
    assert of.value.result.summary["interrupted"]
    said = capsys.readouterr().out
    assert "6 of 8" in said
    if best is None:
        assert not {"best", "best_improves_on", "probability_of_improvement"} & set(summary)
        assert "There is no best configuration yet" in said
    else:
        assert summary["best"]["configuration"] == best
        assert [of is None for of in summary["best_improves_on"]] == [False, False, True]
        assert "provisional" in said


def test_the_best_is_named_only_where_it_means_something(tmp_path):
    """Not with one seed, where it would be chance, and not among environments."""
    config, options = (
        own.Config(env=toys.walk, num_updates=3),
        {"evaluations": 0, "eval_episodes": 2, "progress": False},
    )
    options |= {"checkpoint_every": 1e6}
    assert "best" in rljax.run(own, config, sweep={"rate": [0.1, 9.0]}, seeds=2, out=tmp_path / "x", **options).summary
    one = rljax.run(own, config, sweep={"rate": [0.1, 9.0, 0.2]}, seeds=1, out=tmp_path / "y", **options)
    assert "best" not in one.summary
    assert rljax.load(tmp_path / "y", algorithm=own, env=toys.walk).config.rate == 9.0  # has the highest return
    envs_sweep = {"env": [toys.walk, rljax.envs.time_limit(toys.walk, 2)]}
    assert "best" not in rljax.run(own, config, sweep=envs_sweep, seeds=2, out=tmp_path / "z", **options).summary


def test_halving_that_compares_nothing_is_reported(capsys):
    config = own.Config(env=toys.walk, num_updates=3)
    options = {"seeds": 2, "evaluations": 0, "eval_episodes": 2, "progress": False}
    rljax.run(own, config, sweep={"rate": [0.1, 0.2]}, halving=5, **options)
    why = "2 configurations are trained in full length, without halving=5, since it has 3 updates."
    assert why in capsys.readouterr().err
    rljax.run(own, config, sweep={"width": [2, 3]}, halving=2, **options)
    said = capsys.readouterr().err
    assert said.count("shares its compiled program with no other") == 2
    rljax.run(own, config, sweep={"rate": [0.1, 0.2]}, halving=2, **options)
    assert "without halving" not in capsys.readouterr().err


def test_a_name_needs_a_config_or_an_environment():
    for name, words in (("ppo", "ppo needs its own Config"), ("mine", "There is no algorithm 'mine'")):
        with pytest.raises(rljax.UsageError, match=words):
            rljax.run(name, None)
