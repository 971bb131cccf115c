"""Comparisons of runs, in Python and in the terminal."""

import jax
import numpy as np
import pytest
from made_runs import made

import rljax
from rljax import cli
from rljax.report import known_returns, scores

RNG = np.random.default_rng(0)
SHARED = RNG.normal(100, 10, 20)


@pytest.fixture(scope="module")
def folders(template, tmp_path_factory):
    """A run, one that is 5 higher on the same seeds, the same with other seeds, and one with three seeds."""
    out = tmp_path_factory.mktemp("runs")
    higher = SHARED + 5 + RNG.normal(0, 1, 20)
    return {
        "base": made(template, out / "base", SHARED),
        "higher": made(template, out / "higher", higher),
        "elsewhere": made(template, out / "elsewhere", higher, seed=1),
        "few": made(template, out / "few", [1.0, 2.0, 3.0]),
        "fewer": made(template, out / "fewer", [1.0, 2.0]),
    }


def test_runs_on_the_same_seeds_are_compared_in_pairs(folders):
    """The spread over seeds, which both runs share, drops out: a small difference shows."""
    (place,) = rljax.compare(folders["base"], folders["higher"]).places
    (pair,) = place.pairs
    assert (pair.first.label, pair.second.label) == ("higher", "base")
    assert pair.is_paired
    assert pair.can_tell
    assert pair.more_seeds == 0
    assert 4 < pair.found.ci95[0] < pair.found.difference < pair.found.ci95[1] < 6.5
    (apart,) = rljax.compare(folders["base"], folders["elsewhere"]).places[0].pairs
    assert not apart.is_paired
    assert apart.found.difference == pair.found.difference
    assert apart.probability == pair.probability
    assert not apart.can_tell
    assert apart.found.smallest > 3 * pair.found.smallest
    assert 10 < apart.more_seeds == apart.found.seeds - 20 < 200


def test_p_values_are_corrected_for_the_number_of_pairs(folders):
    (place,) = rljax.compare(*(folders[name] for name in ("base", "higher", "elsewhere"))).places
    assert [pair.found.p <= pair.p for pair in place.pairs] == [True] * 3
    assert {(pair.first.label, pair.second.label): pair.p / pair.found.p for pair in place.pairs}["higher", "base"] == 3


def test_the_terminal_says_whether_there_are_enough_seeds(folders, capsys):
    paths = [str(folders[name]) for name in ("base", "higher", "elsewhere")]
    assert cli.main(["compare", *paths[:2]]) == 0
    out = capsys.readouterr().out
    assert "20 seeds are enough to tell: higher is better than base" in out
    assert "yes, in pairs" in out
    assert cli.main(["compare", paths[0], paths[2]]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "20 seeds are not enough to tell elsewhere and base apart" in text
    (pair,) = rljax.compare(paths[0], paths[2]).places[0].pairs
    assert f"could show a difference of {pair.found.smallest:.1f}" in text
    assert f"would take about {pair.more_seeds:,.0f} more of each" in text
    assert cli.main(["compare", str(folders["few"]), str(folders["fewer"])]) == 0
    assert "3 and 2 seeds are too few to compare few and fewer: train at least 5" in " ".join(
        capsys.readouterr().out.split()
    )


def test_environments_are_compared_by_normalised_scores(template, tmp_path, capsys):
    """0 is a random policy's return, 1 the reference's; a custom environment has neither."""
    returns = {("a", "ALE/Pong-v5"): 14.6, ("b", "ALE/Pong-v5"): -20.7, ("a", "mine"): 3.0, ("b", "mine"): 5.0}
    folders = [
        f"{name}={made(template, tmp_path / str(i), np.full(6, value), env=env)}"
        for i, ((name, env), value) in enumerate(returns.items())
    ]
    refused = {
        "The return that counts as 1 in mine is not known": {},
        "The return of a random policy in mine is not known": {"references": {"mine": 5.0}},
        "No run is in min, which has a reference: did you mean mine?": {"references": {"min": 5.0}},
    }
    for sentence, settings in refused.items():
        with pytest.raises(rljax.UsageError, match=sentence):
            rljax.compare(*folders, **settings)
    entries = rljax.report.runs.read(folders)
    found = scores.normalised(entries, {"mine": 1.0}, {"mine": 5.0})
    assert found.envs == ["ALE/Pong-v5", "mine"]
    assert found.scales == [(-20.7, 14.6), (1.0, 5.0)]
    np.testing.assert_allclose([[task[0] for task in tasks] for tasks in found.tasks], [[1.0, 0.5], [0.0, 1.0]])
    assert [middle for middle, _ in scores.aggregate(found)] == [0.75, 0.5]
    assert scores.improvement(*found.tasks) == 0.5
    comparison = rljax.report.compare.of_entries(entries, lambda entry: 1.0, {"mine": 5.0})
    assert "Normalised scores over 2 environments" in repr(comparison)
    assert "0.750" in repr(comparison)
    assert cli.main(["compare", *folders, "--reference", "mine"]) == 2
    assert "--reference needs an environment and a return" in capsys.readouterr().err


def test_a_method_has_one_run_in_an_environment(template, tmp_path):
    paths = [
        made(template, tmp_path / str(i), [1.0, 2.0], env=f"ALE/{game}-v5") for i, game in enumerate(("Pong",) * 2)
    ]
    paths.append(made(template, tmp_path / "other", [1.0], env="ALE/Alien-v5"))
    with pytest.raises(rljax.UsageError, match="are both own in ALE/Pong-v5: name what belongs together"):
        rljax.compare(*paths)
    named = rljax.compare(f"a={paths[0]}", f"b={paths[1]}", f"a={paths[2]}")
    assert named.scores.methods == ["a"]
    assert any("without a normalised score: b" in note for note in named.notes)
    assert any("only the smallest number counts" in note for note in named.notes)


def test_names_of_atari_are_found():
    for env in ("ALE/MsPacman-v5", "MsPacmanNoFrameskip-v4", "atari/ms_pacman", "MsPacman-v4"):
        assert scores.human(env) == (307.3, 6951.6)
    assert scores.human("Breakout-MinAtar") is None
    assert scores.human("CartPole-v1") is None


def test_a_random_policy_is_measured_in_the_configurations_own_environment(template, tmp_path):
    """In `walk` an episode has 3 steps of reward action + u, so its return is 3 on average."""
    import toys

    assert scores.random_return(toys.walk) == pytest.approx(3.0, abs=0.15)
    folder = made(template, tmp_path / "x", [1.0])
    (entry,) = rljax.report.runs.read([folder])
    assert rljax.report.compare.randoms(lambda _: None)(entry) is None
    assert rljax.report.compare.randoms(lambda _: toys.walk)(entry) == pytest.approx(3.0, abs=0.15)
    other = toys.walk.replace(params=toys.Slope(height=2.0))
    with pytest.raises(rljax.UsageError, match=r"params was \[1.0, 3\] and is \[2.0, 3\]"):
        rljax.report.compare.randoms(lambda _: other)(entry)


def test_bad_comparisons_are_refused(folders, capsys):
    assert cli.main(["compare", str(folders["base"])]) == 2
    assert cli.main(["compare"]) == 2
    assert cli.main(["compare", str(folders["base"]), "--refrence", "x"]) == 2
    err = capsys.readouterr().err
    assert "Name at least two runs to compare" in err
    assert "Name the folder of at least one run" in err
    assert "did you mean --reference" in err
    with pytest.raises(rljax.UsageError, match="References are for runs in several environments"):
        rljax.compare(folders["base"], folders["higher"], references={"walk": 1.0})
    with pytest.raises(rljax.UsageError, match="references must be a dict such as"):
        rljax.compare(folders["base"], folders["higher"], references=3)


@pytest.mark.slow
@pytest.mark.parametrize("env", known_returns.RANDOM)
def test_known_returns_of_a_random_policy_are_what_is_measured(env):
    """Of 500 other episodes, within five standard errors of their difference."""
    made = rljax.make(env)
    returns = scores.random_returns(made, jax.random.key(1))
    error = np.std(returns) / np.sqrt(len(returns) / 2)
    assert np.mean(returns) == pytest.approx(known_returns.RANDOM[env], rel=1e-3, abs=5 * error + 1e-6)


def test_a_known_return_needs_no_code(template, tmp_path, monkeypatch):
    recipe = {"references": {"env": None}, "env": {"recipe": [["CartPole-v1", []]]}, "algorithm": None, "fields": None}
    label = "CartPole-v1+normalize_rewards(0.99)"
    (entry,) = rljax.report.runs.read([made(template, tmp_path / "x", [1.0], env=label, recipe=recipe)])
    monkeypatch.setattr(scores, "random_return", None)
    assert rljax.report.compare.randoms(lambda _: None)(entry) == known_returns.RANDOM["CartPole-v1"]
