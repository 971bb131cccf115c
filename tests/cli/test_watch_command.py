"""`rljax watch` and `rljax playground`: their options, and whose code they import."""

import json
import pathlib

import pytest
import toys
from PIL import Image

from rljax import cli

TOYS = pathlib.Path(toys.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a custom algorithm in a custom environment, started on the command line."""
    out = tmp_path_factory.mktemp("runs") / "own"
    custom = [f"{TOYS}:own", "--env", f"{TOYS}:walk", "--wrap", "time_limit=5"]
    assert (
        cli.main(
            ["train", *custom, "--seeds", "2", "--evaluations", "1", "--keep", "all", "--out", str(out), "--quiet"]
        )
        == 0
    )
    return str(out)


@pytest.fixture
def called(folder, tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder: its exit code, and what it printed."""
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def call(*arguments):
        code = cli.main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def test_a_runs_code_is_imported_only_if_it_is_named_or_trusted(folder, called, tmp_path):
    code, printed = called("watch", folder)
    assert code == 2
    assert printed.count("\n") == 1
    assert f"--algorithm {TOYS}:own, or trust the folder, --trust." in printed
    code, printed = called("watch", folder, "--algorithm", f"{TOYS}:own")
    assert code == 2
    assert f"--env {TOYS}:walk" in printed
    code, printed = called("playground", "--out", "p", "--policy", folder)
    assert code == 2
    assert "--trust" in printed
    assert list(tmp_path.iterdir()) == []
    named = ["--algorithm", f"{TOYS}:own", "--env", f"{TOYS}:walk"]
    assert called("watch", folder, *named, "--max-steps", "2", "--seeds", "1") == (
        0,
        "policy.gif has 3 pictures of policies in walk+time_limit(5)\n",
    )
    with Image.open("policy.gif") as image:
        assert (image.n_frames, image.size[0]) == (3, 2 * 306 + 6)  # before and after training


def test_an_environment_to_play_in_need_not_be_named_twice(folder, called, tmp_path):
    options = ["--policy", folder, "--episodes", "2", "--max-steps", "2", "--algorithm", f"{TOYS}:own"]
    code, printed = called("playground", "--out", "p", *options, "--envs", f"{TOYS}:walk")
    assert code == 0, printed
    assert "walk+time_limit(5)" in printed
    code, printed = called("playground", "--out", "q", *options, "--envs", f"{TOYS}:other")
    assert code == 2
    assert not (tmp_path / "q").exists()


def test_a_trusted_run_plays_in_the_playground(folder, called, tmp_path):
    code, printed = called(
        "playground", "--out", "p", "--policy", folder, "--trust", "--episodes", "2", "--envs", f"{TOYS}:walk"
    )
    assert code == 0, printed
    assert "index.html and results.json are in p" in printed
    (one,) = json.loads((tmp_path / "p/results.json").read_text())
    assert (one["policy"], one["env_id"], len(one["episodes"])) == (folder, "walk+time_limit(5)", 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["watch"], "Name the run's folder, before any option"),
        (["watch", "--out", "x.gif"], "Name the run's folder, before any option"),
        (["watch", "missing"], "missing is not the folder of a run: it has no config.json"),
        (["watch", "missing", "--out", "x.avi"], "must end with .gif or .mp4"),
        (["watch", "FOLDER", "--seeds", "a", "--trust"], "'a' is not an integer: write --seeds 0,1,2"),
        (["watch", "FOLDER", "--checkpoints", "best,b", "--trust"], "'b' is not an integer: write --checkpoints last"),
        (["watch", "FOLDER", "--map", "--trust", "--max-steps", "1"], "no exact model"),
        (["watch", "FOLDER", "--policy", "lazy"], "invalid choice: 'lazy'"),
        (["playground"], "required: --out"),
        (["playground", "--out", "p", "--policy", "lazy"], "There is no policy 'lazy'"),
    ],
)
def test_mistakes_end_in_one_sentence(folder, called, arguments, words):
    code, printed = called(*(folder if argument == "FOLDER" else argument for argument in arguments))
    assert code == 2
    assert words in printed
    assert printed.strip().count("\n") == 0


def test_help_lists_the_options(called):
    code, printed = called("watch", "--help")
    assert code == 0
    assert all(option in printed for option in ("--checkpoints", "--fps", "--trust", "--no-map", "--max-steps"))
