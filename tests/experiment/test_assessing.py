"""Evaluating a result again: other episodes, policies and environments."""

import sys

import jax
import numpy as np
import pytest
from toys import game, game_measures, own, walk

import rljax
from rljax import cli

OPTIONS = {"seeds": 6, "evaluations": 1, "eval_episodes": 2, "progress": False, "devices": 1}


@pytest.fixture(scope="module")
def result():
    return rljax.run(own, own.Config(env=walk, num_updates=4), **OPTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose environment and algorithm are listed ones."""
    out = tmp_path_factory.mktemp("runs") / "x"
    config = rljax.q_learning.Config(env=rljax.make("Taxi-v3"), total_steps=200)
    rljax.run(rljax.q_learning, config, out=out, **OPTIONS)
    return out


def test_every_seed_plays_its_own_policy(result):
    """Rewards are the policy's constant action and uniform noise, for three steps."""
    found = result.evaluate(200)
    actions = np.abs(np.asarray(result.states.params)).sum(axis=1)
    assert found.returns.shape == (6, 200)
    np.testing.assert_allclose(found.returns.mean(axis=1), 3 * (actions + 0.5), atol=0.15)
    np.testing.assert_array_equal(found.measures["length"], 3)
    np.testing.assert_array_equal(found.seeds, range(6))
    np.testing.assert_allclose(found.summary["iqm"], np.sort(found.returns.mean(axis=1))[1:5].mean(), rtol=1e-6)
    assert found.summary["ci95"][0] < found.summary["iqm"] < found.summary["ci95"][1]


def test_chosen_seeds_play_in_another_environment_from_the_same_key(result):
    steep = walk.replace(params=walk.params._replace(height=10.0))
    some = result.evaluate(5, seeds=[4, 1], env=steep)
    whole = result.evaluate(5)
    np.testing.assert_array_equal(some.seeds, [4, 1])
    actions = np.abs(np.asarray(result.states.params)).sum(axis=1)
    np.testing.assert_allclose(some.returns - whole.returns[[4, 1]], 27 * actions[[4, 1], None] * np.ones(5), rtol=1e-5)
    assert (result.evaluate(5, key=1).returns != whole.returns).any()


def test_measures_of_the_environment_are_those_of_its_episodes():
    result = rljax.run(own, own.Config(env=game, num_updates=2), **OPTIONS)
    found = result.evaluate(20, seeds=[3])
    action = np.abs(np.asarray(result.states.params[3])).sum()
    for name, expected in game_measures(found.measures["length"], action).items():
        np.testing.assert_allclose(found.measures[name], expected, rtol=1e-5, err_msg=name)


def test_of_a_sweep_the_configuration_is_named():
    sweep = rljax.run(own, own.Config(env=walk, num_updates=2), sweep={"env.params.height": [1.0, 2.5]}, **OPTIONS)
    assert sweep.results[1].evaluate(2).label == "own in walk, greedy, configuration 1 (env.params.height 2.5)"


INVALID = {
    "episodes": ({"episodes": 0}, "episodes must be"),
    "policy": ({"policy": "lucky"}, "policy must be greedy or stochastic"),
    "stochastic": ({"policy": "stochastic"}, "has no stochastic policy"),
    "spaces": ({"env": "CartPole-v1"}, "needs the observation_space of walk"),
    "seed": ({"seeds": [9]}, "There is no seed 9"),
    "checkpoint": ({"checkpoint": "best"}, "Only the final policies were kept"),
    "gymnasium": ({"gymnasium": "CartPole-v9"}, "Gymnasium cannot make CartPole-v9"),
    "spaces of gymnasium": ({"gymnasium": "CartPole-v1"}, "CartPole-v1 needs the observation_space of walk"),
    "key": ({"key": -1}, "key must be"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_evaluations_are_refused(name, result):
    arguments, sentence = INVALID[name]
    with pytest.raises(rljax.UsageError, match=sentence):
        result.evaluate(**arguments)


def test_the_command_prints_every_seed_and_their_mean(folder, capsys):
    assert cli.main(["eval", str(folder), "--episodes", "3", "--stochastic"]) == 0
    text = capsys.readouterr().out
    expected = rljax.load(folder)
    again = rljax.experiment.loading.result_of(folder).evaluate(3, policy="stochastic")
    assert expected.config.env.label == "Taxi-v3"
    assert "q_learning in Taxi-v3, stochastic: 3 episodes of each seed" in text
    for seed, returns in zip(again.seeds, again.returns, strict=True):
        row = next(line.split("│") for line in text.splitlines() if line.startswith(f"│ {seed:4} │"))
        assert float(row[2]) == pytest.approx(returns.mean(), abs=0.051)
        assert float(row[4]) == pytest.approx(returns.min(), abs=0.051)
    assert f"IQM of 6 seeds: {again.summary['iqm']:.1f}, 95% interval" in text


def test_invalid_commands_end_in_one_sentence(folder, tmp_path, capsys):
    for arguments, sentence in (
        ([str(tmp_path / "none")], "is not the folder of a run"),
        ([str(folder), "--episodes", "many"], "--episodes"),
        ([str(folder), "--env", "CartPole-v1"], "needs the observation_space of Taxi-v3"),
        ([str(folder), "--env.gravity", "5"], "gravity"),
        ([str(folder), "--seeds", "a"], "--seeds are integers"),
        ([str(folder), "--gymnasium", "Taxi-v4", "--env", "Taxi-v3"], "leave --env out"),
        (["--episodes", "3"], "Name the run's folder"),
    ):
        assert cli.main(["eval", *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert sentence in lines[0]


def test_gymnasium_is_named_where_it_is_missing(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(rljax.UsageError, match="the extra `gymnasium`"):
        result.evaluate(gymnasium="CartPole-v1")


def test_a_custom_environment_is_named_again_or_trusted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "custom.py").write_text(
        "import rljax\nenv = rljax.make('FrozenLake-misc').replace(recipe=(None,), name='mine')\n"
    )
    train = "train q_learning --env custom.py:env --seeds 1 --total-steps 200"
    assert cli.main([*train.split(), "--evaluations", "0", "--out", "x", "--quiet"]) == 0
    for more in ([], ["--env", "FrozenLake-misc"]):
        assert cli.main(["eval", "x", "--episodes", "2", *more]) == 2
        assert "only imported if you name it again" in capsys.readouterr().err
    for more, where in (
        (["--env", "custom.py:env"], "mine"),
        (["--env", "FrozenLake-misc", "--trust"], "FrozenLake-misc"),
    ):
        assert cli.main(["eval", "x", "--episodes", "2", *more]) == 0
        assert f"q_learning in {where}, greedy" in capsys.readouterr().out


@pytest.mark.slow
def test_a_recurrent_policy_begins_every_episode_with_its_initial_hidden_state(tmp_path):
    """In Gymnasium's CartPole, where `step` is called by the host, as in ours."""
    config = rljax.ppo.Config(env=rljax.make("CartPole-v1"), recurrent="gru", total_steps=64, num_envs=2, num_steps=8,
                              num_minibatches=1, hidden_sizes=(8,))  # fmt: skip
    result = rljax.run(rljax.ppo, config, **{**OPTIONS, "seeds": 1})
    ours, theirs = result.evaluate(200), result.evaluate(200, gymnasium="CartPole-v1")
    error = np.hypot(ours.returns.std(), theirs.returns.std()) / np.sqrt(200)
    assert abs(ours.returns.mean() - theirs.returns.mean()) < 3 * error
    assert jax.tree.leaves(result.best.initial_hidden_state(3))[0].shape == (3, 8)
