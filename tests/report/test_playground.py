"""The playground: what `results.json` holds, and its page, which needs nothing else."""

import datetime
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import toys

import rljax
from rljax.experiment.results import Parts, Result
from rljax.report import playground, playground_page


@pytest.fixture(scope="module")
def trained():
    """The result of two seeds, of which the second takes actions of 5."""
    states = toys.State(jnp.array([[1.0, 0.0], [2.0, 3.0]]), jnp.zeros(2, jnp.int32))
    return Result(
        parts=lambda: Parts(states, {}, []),
        eval_steps=np.zeros(0),
        eval_returns=np.zeros((2, 0)),
        eval_measures={},
        summary={"final_return": {"per_seed": [1.0, 5.0]}},
        algorithm=toys.own,
        config=toys.Config(env=toys.walk),
        seeds=np.arange(2),
    )


@pytest.fixture(scope="module")
def played(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("playground") / "new"
    policies = {"random": "random", "<own>": trained}
    return out, rljax.playground(out, envs=[toys.walk], policies=policies, episodes=6, max_steps=3, seed=4)


def test_results_have_returns_and_lengths_of_all_episodes(played):
    out, results = played
    assert json.loads((out / "results.json").read_text()) == results
    assert [(one["env_id"], one["policy"]) for one in results] == [("walk", "random"), ("walk", "<own>")]
    for one in results:
        fields = "env_id policy average_return best_return worst_return episodes reward_per_step generated_at"
        assert list(one) == fields.split()
        returns = np.array([episode["return"] for episode in one["episodes"]])
        assert [episode["length"] for episode in one["episodes"]] == [3] * 6
        assert one["average_return"] == pytest.approx(returns.mean())
        assert (one["best_return"], one["worst_return"]) == (returns.max(), returns.min())
        assert one["reward_per_step"] == pytest.approx(returns.sum() / 18)
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(one["generated_at"])
        assert datetime.timedelta(0) <= age + datetime.timedelta(seconds=1)
    random, own = results
    assert random["best_return"] < 6  # rewards are the action, 0 or 1, plus at most 1
    assert 15 < own["worst_return"] < own["best_return"] < 18


def test_the_page_is_complete_in_itself(played):
    page = (played[0] / "index.html").read_text()
    assert "<td>&lt;own&gt;</td>" in page
    assert page.count("class='chip'") == 2 * 5
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", page)
    assert "2 policies in 1 environment, 6 episodes of at most 3 steps each" in page


def test_another_seed_gives_other_episodes(played, tmp_path):
    settings = {"envs": toys.walk, "policies": "random", "episodes": 6, "max_steps": 3}
    (other,) = playground.playground(tmp_path, seed=1, **settings)
    assert other["episodes"] != played[1][0]["episodes"]


def test_environments_are_those_of_the_policies_unless_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(playground, "_result", lambda key, one, *_: (one.env.name, one.name))
    monkeypatch.setattr(playground_page, "page", lambda *_: "")
    monkeypatch.setattr(playground, "ENVS", ("MountainCar-v0", "FrozenLake-misc"))
    assert playground.playground(tmp_path) == [
        ("MountainCar-v0", "random"),
        ("MountainCar-v0", "heuristic"),
        ("FrozenLake-misc", "random"),
    ]
    assert "There is no heuristic for FrozenLake-misc." in capsys.readouterr().err
    rules = playground.playground(tmp_path, policies="heuristic")
    assert [name for name, _ in rules] == list(rljax.envs.heuristics.RULES)


def test_mistakes_are_sentences(trained, tmp_path):
    (tmp_path / "file").write_text("")
    for settings, words in (
        ({"policies": []}, "Name at least one policy"),
        ({"policies": ["lazy"]}, "There is no policy 'lazy': name random, heuristic or the folder of a run"),
        ({"policies": [3]}, "its Result, got 3"),
        ({"policies": {"own": trained}, "envs": ["CartPole-v1"]}, "own was trained in walk"),
        ({"policies": ["heuristic"], "envs": [toys.walk]}, "No policy can play"),
        ({"envs": ["CartPol-v1"]}, "did you mean CartPole-v1"),
        ({"episodes": 0}, "episodes must be an integer"),
        ({"max_steps": 0.5}, "max_steps must be an integer"),
        ({"seed": -1}, "seed must be an integer"),
        ({"policies": "random", "envs": [toys.walk], "out": tmp_path / "file"}, "cannot be created"),
    ):
        with pytest.raises(rljax.UsageError, match=words):
            playground.playground(**{"out": tmp_path / "x", **settings})
