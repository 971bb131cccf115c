"""The animated episode of a report."""

import base64
import io
import re
import shutil

import jax
import numpy as np
import PIL.Image
import pytest

import rljax
from rljax import evaluation, q_learning
from rljax.experiment import watching
from rljax.report import figures, rollouts, runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "grid"


@pytest.fixture(scope="module")
def trained(folder):
    config = q_learning.Config(env=rljax.make("GridWorld-misc"), total_steps=2000)
    return rljax.run(q_learning, config, seeds=2, evaluations=1, eval_episodes=2, out=folder, progress=False)


def gifs(path):
    return [base64.b64decode(found) for found in re.findall(r"src='data:image/gif;base64,([^']+)'", path.read_text())]


def test_a_report_shows_an_episode_of_the_best_seed(trained, folder, tmp_path):
    (gif,) = gifs(rljax.write_report(folder, out=tmp_path / "x.html"))
    played = watching.played(trained, trained.best_seed, episodes=rollouts.EPISODES)[0].episodes
    assert PIL.Image.open(io.BytesIO(gif)).n_frames == len(played[0].rewards) + 1
    assert gifs(rljax.write_report(folder, out=tmp_path / "y.html", animate=False)) == []


def test_a_report_shows_how_often_a_policy_takes_each_action(trained, folder):
    ((_, one),) = rollouts.of_entries(runs.read([folder]), rollouts.with_env(None)).items()
    (bars,) = figures.actions(one.actions, one.space)["data"]
    policy, env = trained.policy(trained.best_seed), trained.config.env
    recorded = evaluation.record(jax.random.key(0), env, policy, rollouts.EPISODES, 500)
    counts = np.zeros(env.action_space.n)
    for i, length in enumerate(recorded.episodes.measures["length"].tolist()):
        np.add.at(counts, np.asarray(recorded.actions)[:length, i], 1)
    assert bars["x"] == list(range(env.action_space.n))
    np.testing.assert_allclose(bars["y"], counts / counts.sum(), rtol=1e-4)


def test_actions_with_a_start_in_parts_and_continuous_ones_have_figures():
    (bars,) = figures.actions(np.array([3, 3, 5]), rljax.Discrete(3, start=3))["data"]
    assert (bars["x"], bars["y"]) == ([3, 4, 5], [0.66667, 0, 0.33333])
    parts = figures.actions(np.array([[0, 2], [1, 2]]), rljax.MultiDiscrete((2, 3)))["data"]
    assert [part["y"] for part in parts] == [[0.5, 0.5], [0, 0, 1]]
    (line,) = figures.actions(np.array([[-1.0], [1.0], [1.0], [0.9]]), rljax.Box(-1, 1, (1,)))["data"]
    assert (line["y"][0], line["y"][-1], sum(line["y"])) == (0.25, 0.5, 1)


def test_a_run_without_states_has_a_report_without_an_episode(trained, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "grid")
    shutil.rmtree(tmp_path / "grid" / "checkpoints")
    assert gifs(rljax.write_report(tmp_path / "grid", out=tmp_path / "x.html")) == []
    assert "The report has no rollout of" in capsys.readouterr().err
