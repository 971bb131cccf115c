"""A search: Optuna's suggestions in batches, as one program, resumed to the same bits."""

import json
import shutil

import numpy as np
import optuna
import pytest
from resuming import same_results, stopped
from toys import own, walk

import rljax
from rljax.experiment import compilation, sweeps
from rljax.report import statistics

SPACE = {"rate": rljax.log_uniform(0.01, 1.0), "env.params.height": rljax.uniform(0.5, 2.0), "poison_at": [500, 1000]}
OPTIONS = {
    **{"sweep": SPACE, "search": "optuna", "samples": 14, "search_batch": 6, "seeds": 4, "seed": 3},
    **{"evaluations": 2, "eval_episodes": 3, "progress": False, "devices": 1},
}


@pytest.fixture(scope="module")
def config():
    return own.Config(env=walk, num_updates=20)


@pytest.fixture(scope="module")
def searched(config, tmp_path_factory):
    """A finished search, its folder, and the lanes of the programs that it compiled."""
    out, lanes, build = tmp_path_factory.mktemp("search") / "x", [], compilation._build

    def note(*inputs):
        lanes.append(len(inputs[3]))
        return build(*inputs)

    compilation.forget()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compilation, "_build", note)
        result = rljax.run(own, config, out=out, **OPTIONS)
    return result, out, lanes


def scores(result):
    """What each configuration counts with: on the even seeds."""
    return [statistics.score(np.array(one.summary["final_return"]["per_seed"])[::2]) for one in result.results]


def test_all_batches_run_in_one_program(searched):
    """14 configurations are batches of 5, 5 and 4, of four seeds each."""
    result, out, lanes = searched
    assert lanes == [20]
    assert len(list((out / "checkpoints").iterdir())) == 3
    assert len(result.results) == len({str(point) for point in result.points}) == 14
    assert all(0.01 <= point["rate"] <= 1 and point["poison_at"] in (500, 1000) for point in result.points)
    assert [one.config.rate for one in result.results] == [point["rate"] for point in result.points]
    assert json.loads((out / "config.json").read_text())["sweep"] == list(result.points)


def test_suggestions_are_those_of_a_study_that_hears_of_the_even_seeds(searched):
    result, _, _ = searched
    sampler = optuna.samplers.TPESampler(seed=3, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {
        "rate": optuna.distributions.FloatDistribution(0.01, 1.0, log=True),
        "env.params.height": optuna.distributions.FloatDistribution(0.5, 2.0),
        "poison_at": optuna.distributions.CategoricalDistribution((0, 1)),
    }
    found = []
    for first, last in ((0, 5), (5, 10), (10, 14)):
        trials = [study.ask(space) for _ in range(first, last)]
        found += [{**trial.params, "poison_at": (500, 1000)[trial.params["poison_at"]]} for trial in trials]
        for trial, score in zip(trials, scores(result)[first:last], strict=True):
            study.tell(trial, score)
    assert found == list(result.points)


def test_the_best_is_chosen_on_the_even_seeds_and_reported_on_the_odd(searched):
    result, _, _ = searched
    best = result.summary["best"]
    assert best["configuration"] == int(np.argmax(scores(result)))
    assert (best["chosen_on_seeds"], best["reported_on_seeds"]) == ([0, 2], [1, 3])
    per_seed = result.results[best["configuration"]].summary["final_return"]["per_seed"]
    assert best["final_return"]["per_seed"] == per_seed[1::2]


def same(left, right):
    assert left.points == right.points
    for mine, theirs in zip(left.results, right.results, strict=True):
        same_results(mine, theirs)


@pytest.fixture(scope="module")
def killed(config, tmp_path_factory):
    """The folder of a search that died in its second batch."""
    out = tmp_path_factory.mktemp("search") / "killed"
    with pytest.MonkeyPatch.context() as monkeypatch:
        stopped(monkeypatch, out, own, config, 30, **OPTIONS)
    return out


@pytest.fixture
def folder(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "x")


def test_a_killed_search_resumes_to_the_same_bits(searched, config, folder):
    """And so does a finished one."""
    result, _, _ = searched
    recorded = json.loads((folder / "config.json").read_text())
    assert len(recorded["sweep"]) == 10
    loaded = rljax.load(folder, configuration=7, algorithm=own, config=config)
    assert loaded.config.rate == result.points[7]["rate"]
    same(rljax.resume(folder, algorithm=own, config=config, progress=False), result)
    assert json.loads((folder / "config.json").read_text())["sweep"] == list(result.points)
    same(rljax.resume(folder, algorithm=own, config=config, progress=False), result)


def test_a_stopped_search_has_the_configurations_so_far(searched, config, tmp_path):

    def stop(progress):
        if next(iter(progress.runs)) == (5, 0) and progress.updates:
            progress.stop()

    part = rljax.run(own, config, out=tmp_path / "x", callback=stop, **OPTIONS)
    assert part.summary["interrupted"]
    begun = [one is not None for one in part.results]
    assert begun == [True] * 10 + [False] * 4
    assert part.points[10:] == ({},) * 4
    same(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), searched[0])


def test_a_changed_suggestion_is_refused(config, folder, monkeypatch):
    ask = optuna.Study.ask
    monkeypatch.setattr(optuna.Study, "ask", lambda study, space: ask(study, dict(reversed(space.items()))))
    with pytest.raises(rljax.UsageError, match="Optuna suggests other configurations here"):
        rljax.resume(folder, algorithm=own, config=config, progress=False)


def test_cma_es_moves_towards_the_better(config):
    """The higher the rate, the higher the return; the height does nothing to a greedy policy's own return's order."""
    space = {"rate": rljax.uniform(0.0, 1.0), "poison_at": rljax.log_uniform(0.4, 10_000)}
    given = {**OPTIONS, "sweep": space, "search_sampler": "cmaes", "samples": 40, "search_batch": 8, "seeds": 2}
    result = rljax.run(own, config, **{**given, "evaluations": 0})
    rates = [point["rate"] for point in result.points]
    assert np.mean(rates[-8:]) > np.mean(rates[:8]) + 0.15
    assert all(isinstance(point["poison_at"], int) for point in result.points)


def test_values_keep_their_kinds_in_the_folder(config):
    space = sweeps.space(config, SPACE)
    described = json.loads(json.dumps(rljax.experiment.description.describe(space.samplers)))
    assert sweeps.space_of(config, described) == space


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sweep": None, "samples": None}, "search is for a sweep"),
        ({"samples": None}, "needs its number of configurations"),
        ({"halving": 2}, "search and halving cannot be combined"),
        ({"sweep": {"width": [2, 3]}}, "one compiled program, which the values of width change"),
        ({"sweep": {"width": rljax.uniform(1, 4)}}, "one compiled program, which the values of width change"),
        ({"sweep": {"rates": [1.0]}}, "no field at 'rates'"),
        ({"sweep": {"rate": []}}, "at least one value"),
        ({"sweep": {"rate": rljax.uniform(-1, 1)}}, "rate must be at least 0"),
        ({"sweep": {"rate": rljax.uniform(0, 1)}, "search_sampler": "cmaes"}, "needs two ranges or more"),
        ({"search_sampler": "cmaes"}, "no choices or lists"),
        ({"search_sampler": "grid"}, "search_sampler must be one of tpe, cmaes"),
        ({"search": "hyperopt"}, "search must be one of optuna"),
        ({"search_batch": 0}, "search_batch must be at least 1"),
        ({"search": None}, "search_sampler and search_batch are for a search"),
    ],
)
def test_what_cannot_be_searched_is_refused(config, changes, said):
    with pytest.raises(rljax.UsageError, match=said) as error:
        rljax.run(own, config, **{**OPTIONS, **changes})
    assert "\n" not in str(error.value)


def test_a_search_cannot_be_made_longer_or_given_another_sweep(searched, config):
    for given, said in (({"total_steps": 10**6}, "cannot be made longer"), ({"sweep": SPACE}, "leave sweep= out")):
        with pytest.raises(rljax.UsageError, match=said):
            rljax.resume(searched[1], algorithm=own, config=config, progress=False, **given)
