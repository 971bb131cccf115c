"""The animated episode of a report."""

import base64
import io
import re
import shutil

import PIL.Image
import pytest

import rljax
from rljax import q_learning


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
    assert PIL.Image.open(io.BytesIO(gif)).n_frames > 1
    assert gif == trained.watch(seeds=trained.best_seed).gif()
    assert gifs(rljax.write_report(folder, out=tmp_path / "y.html", animate=False)) == []


def test_a_run_without_states_has_a_report_without_an_episode(trained, folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "grid")
    shutil.rmtree(tmp_path / "grid" / "checkpoints")
    assert gifs(rljax.write_report(tmp_path / "grid", out=tmp_path / "x.html")) == []
    assert "The report has no rollout of" in capsys.readouterr().err
