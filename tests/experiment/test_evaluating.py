"""Evaluations of a run: which policy, in which environment, and what they measure besides the return."""

import csv
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from resuming import OPTIONS, as_written, same_results, stopped
from toys import own, same_bits

import rljax
from rljax import core, q_learning

CHANCE = 0.7


def act(state, config, greedy=True):
    """Action 4; or 4 or 0 by chance."""

    def policy(key, obs):
        four = greedy | jax.random.bernoulli(key, CHANCE, obs.shape[:1])
        return jnp.where(four, 4, 0)

    return policy


chancy = SimpleNamespace(__name__="chancy", Config=own.Config, init=own.init, update=own.update, act=act)


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.game)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "x"
    seen, logged = [], []
    logger = SimpleNamespace(
        start=lambda config: None, log=lambda metrics, step: logged.append(metrics), finish=lambda summary: None
    )
    options = {**OPTIONS, "eval_policy": "stochastic", "eval_episodes": 500, "evaluations": 2}
    result = rljax.run(chancy, config, out=out, callback=seen.append, log=logger, **options)
    return SimpleNamespace(result=result, out=out, seen=seen, logged=logged)


def test_a_stochastic_policy_has_the_expected_measures_and_the_greedy_one_the_exact(config, run):
    """Episodes of 1 to 3 steps bump 4 times a step, with a probability."""
    for measures, chance, tolerance in (
        (run.result.summary["final_measures"], CHANCE, 0.25),
        (rljax.run(chancy, config, **OPTIONS).summary["final_measures"], 1.0, 1e-5),
    ):
        per_step = np.array(measures["bumps"]["per_seed"]) / measures["length"]["per_seed"]
        np.testing.assert_allclose(per_step, 4 * chance, atol=tolerance)
    bumps, lengths = (run.result.summary["final_measures"][name]["mean"] for name in ("bumps", "length"))
    # 1,500 episodes of two steps on average: the standard error is 4 * sqrt(0.7 * 0.3 / 3000) = 0.033.
    assert abs(bumps / lengths - 4 * CHANCE) < 0.13


def test_every_place_reports_the_same_measures(run, config):
    result = run.result
    names = ["length", "bumps", "distance", "draw", "loss", "speed", "win"]
    assert list(result.eval_measures) == list(result.summary["final_measures"]) == names
    np.testing.assert_allclose(sum(result.eval_measures[name] for name in ("win", "draw", "loss")), 1.0, rtol=1e-6)
    np.testing.assert_allclose(result.eval_measures["length"], result.eval_returns)  # a reward of one a step
    assert len(np.unique(result.eval_measures["bumps"])) > 5

    rows = list(csv.DictReader((run.out / "curves.csv").open()))
    assert list(rows[0]) == ["seed", "update", "env_steps", "return", *names]
    frame = result.frame(evaluations=True)
    loaded = rljax.load(run.out, algorithm=chancy, config=config)
    evaluated = [progress for progress in run.seen if progress.is_evaluation]
    logged = [metrics for metrics in run.logged if "eval/return" in metrics]
    assert len(evaluated) == len(logged) == 3
    for name in names:
        expected = result.eval_measures[name]
        np.testing.assert_allclose([float(row[name]) for row in rows], expected.ravel(), rtol=1e-6)
        np.testing.assert_array_equal(frame[name].to_numpy().reshape(-1, 3).T, expected)
        np.testing.assert_array_equal(loaded.evaluations.measures[name], expected)
        np.testing.assert_array_equal(np.stack([progress.measures[name] for progress in evaluated], 1), expected)
        np.testing.assert_allclose([metrics[f"eval/{name}"] for metrics in logged], expected.mean(0), rtol=1e-6)
    written = json.loads((run.out / "summary.json").read_text())
    assert written["final_measures"] == as_written(result.summary["final_measures"])
    assert (written["eval_policy"], written["eval_env"]) == ("stochastic", None)
    assert as_written(loaded.summary["final_measures"]) == written["final_measures"]


def test_the_table_and_the_picture_say_what_was_evaluated(config, tmp_path, capsys):
    env = rljax.envs.time_limit(toys.game, 2)
    options = {**OPTIONS, "progress": True, "eval_policy": "stochastic", "eval_env": env}
    result = rljax.run(chancy, config, **options)
    shown = capsys.readouterr()
    assert "Evaluated: stochastic return in game+time_limit(2)." in shown.out
    assert "Final evaluation, means with 95% intervals: length 1." in shown.out
    assert "stochastic return 1." in shown.err
    assert ", bumps " in shown.err
    assert result.plot().axes[0].get_ylabel() == "stochastic return in game+time_limit(2)"


def test_another_environment_gives_its_returns_for_the_same_states(tmp_path):
    """Three times as steep, against the evaluation by hand with the run's keys."""
    config = own.Config(env=toys.walk)
    steep = toys.walk.replace(params=toys.Slope(height=3.0))
    result = rljax.run(own, config, eval_env=steep, **OPTIONS)
    plain = rljax.run(own, config, **OPTIONS)
    assert same_bits(result.states, plain.states)
    keys = jax.random.split(jax.random.key(0), 3)
    for seed in range(3):
        _, _, key_evaluation = core.training_keys(keys[seed])
        key = jax.random.fold_in(jax.random.split(key_evaluation)[1], 0)
        state = jax.tree.map(lambda x, seed=seed: x[seed], result.states._replace(step=jnp.full(3, 50)))
        by_hand = rljax.evaluate(key, steep, own.act(state, config), 3).mean()
        np.testing.assert_allclose(result.summary["final_return"]["per_seed"][seed], by_hand, rtol=1e-5)
    distance = np.abs(np.asarray(result.states.params)).sum(axis=1)
    gained = np.subtract(result.summary["final_return"]["per_seed"], plain.summary["final_return"]["per_seed"])
    np.testing.assert_allclose(gained, 2 * 3 * distance, rtol=1e-4)  # two more, in each of three steps


def test_two_environments_of_the_same_structure_do_not_share_a_program():
    config, returns = own.Config(env=toys.walk), []
    for height in (0.0, 1.0):
        env = toys.walk.replace(params=toys.Slope(height=height))
        returns.append(rljax.run(own, config, eval_env=env, **OPTIONS).summary["final_return"]["mean"])
    assert returns[1] > returns[0] + 1


@pytest.mark.slow
def test_a_policy_keeps_its_statistics_in_another_environment():
    """Trained where observations are standardized, evaluated where the environment does not say so."""
    env = rljax.envs.normalize_observations("CartPole-v1")
    config = rljax.ppo.Config(env=env, total_steps=256, num_envs=2, num_steps=64, num_minibatches=1, num_epochs=1)
    options = {**OPTIONS, "seeds": 1, "evaluations": 0, "eval_episodes": 4}
    inside = rljax.run(rljax.ppo, config, **options)
    outside = rljax.run(rljax.ppo, config, eval_env="CartPole-v1", **options)
    assert inside.summary["final_return"]["per_seed"] == outside.summary["final_return"]["per_seed"]


def test_a_run_with_both_resumes_to_the_same_bits_from_its_folder(tmp_path, monkeypatch):
    config = q_learning.Config(env="GridWorld-misc", total_steps=600, epsilon=0.5)
    maze = ("S..", "#..", "#.G")
    walls = (".......#G", "..#....#.", "S.#....#.", "..#......", ".....#.#.", ".........")
    with pytest.raises(rljax.UsageError, match=r"eval_env .* needs the observation_space of GridWorld-misc, Discrete"):
        rljax.run(q_learning, config, eval_env=rljax.make("GridWorld-misc", desc=maze), **OPTIONS)
    env = rljax.envs.time_limit(rljax.make("GridWorld-misc", desc=walls), 20)
    options = {**OPTIONS, "eval_env": env, "eval_policy": "stochastic"}
    whole = rljax.run(q_learning, config, **options)
    stopped(monkeypatch, tmp_path / "x", q_learning, config, 2, **options)
    recorded = json.loads((tmp_path / "x/config.json").read_text())
    assert recorded["eval_policy"] == "stochastic"
    assert recorded["eval_env"]["config"]["label"] == env.label
    same_results(rljax.resume(tmp_path / "x", progress=False), whole)
    assert whole.eval_measures["length"].max() <= 20


def test_a_custom_environment_is_passed_again(tmp_path, monkeypatch):
    config, out = own.Config(env=toys.walk), tmp_path / "x"
    steep = toys.walk.replace(params=toys.Slope(height=3.0))
    whole = rljax.run(own, config, eval_env=steep, **OPTIONS)
    stopped(monkeypatch, out, own, config, 2, **OPTIONS, eval_env=steep)
    given = {"algorithm": own, "config": config, "progress": False}
    assert rljax.load(out, algorithm=own, config=config).states.params.shape == (3, 2)  # it evaluates nothing
    with pytest.raises(rljax.UsageError, match=r"evaluated in a custom environment.*pass it as eval_env="):
        rljax.resume(out, **given)
    with pytest.raises(rljax.UsageError, match=r"The eval_env is not the one that this run began with: params"):
        rljax.resume(out, eval_env=toys.walk, **given)
    same_results(rljax.resume(out, eval_env=steep, **given), whole)
    plain = tmp_path / "y"
    stopped(monkeypatch, plain, own, config, 2, **OPTIONS)
    with pytest.raises(rljax.UsageError, match="evaluated in the environment that it trains in: leave eval_env out"):
        rljax.resume(plain, eval_env=steep, **given)


def test_what_cannot_be_evaluated_is_refused_before_training(config):
    with pytest.raises(rljax.UsageError, match="own has no stochastic policy: leave eval_policy"):
        rljax.run(own, config, eval_policy="stochastic", **OPTIONS)
    with pytest.raises(rljax.UsageError, match="eval_policy must be one of greedy, stochastic, got 'sampled'"):
        rljax.run(own, config, eval_policy="sampled", **OPTIONS)
    with pytest.raises(rljax.UsageError, match="There is no environment 'CartPole-v9'"):
        rljax.run(own, config, eval_env="CartPole-v9", **OPTIONS)
    with pytest.raises(rljax.UsageError, match="needs the action_space of game"):
        rljax.run(own, config, eval_env=toys.walk, **OPTIONS)
    wider = toys.game.replace(observation_space=rljax.Box(-9, 9, (1,)))
    result = rljax.run(own, config, eval_env=wider, **{**OPTIONS, "seeds": 1})  # bounds of observations may differ
    assert result.eval_returns.shape == (1, 5)
