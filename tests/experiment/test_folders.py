"""The folder of a run: created, refused, overwritten, and held by one process."""

import errno
import functools
import json
import pathlib
import shutil
import tempfile
from typing import Any

import pytest
from resuming import OPTIONS
from toys import in_chunks_of, own

import rljax
from rljax.experiment import folders, history, loop


def fail_with(code, *_, **__):
    raise OSError(code, errno.errorcode[code])


def test_a_folder_is_created_with_its_parents(tmp_path):
    folder = folders.prepare(str(tmp_path / "a" / "b"), overwrite=False)
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    assert folders.prepare(folder, overwrite=False) == folder


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(rljax.UsageError, match=r"already holds results.*overwrite"):
        folders.prepare(tmp_path, overwrite=False)
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_folder_with_only_a_config_is_not_in_use(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    folders.prepare(tmp_path, overwrite=False)
    assert (tmp_path / "config.json").read_text() == "{}"


def test_overwrite_removes_only_the_files_of_a_run(tmp_path):
    for name in ("config.json", "summary.json", "curves.csv", "learning_curve.png", "notes.txt"):
        (tmp_path / name).write_text(name)
    folders.prepare(tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 5  # nothing goes before the new run is known to be possible
    folders.clear(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "notes.txt"]


@pytest.mark.parametrize("name", ["checkpoints", "summary.json"])
def test_overwrite_removes_links_and_not_their_targets(tmp_path, name):
    target, out = tmp_path / "target", tmp_path / "out"
    (target / "0000").mkdir(parents=True)
    out.mkdir()
    (out / name).symlink_to(target)
    folders.clear(out)
    assert list(out.iterdir()) == []
    assert [entry.name for entry in target.iterdir()] == ["0000"]
    (out / name).symlink_to(tmp_path / "nowhere")
    folders.clear(out)
    assert list(out.iterdir()) == []


def test_what_overwrite_cannot_remove_is_reported(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(shutil, "rmtree", functools.partial(fail_with, errno.EACCES))
    with pytest.raises(rljax.UsageError, match=r"checkpoints cannot be removed \(EACCES\)"):
        folders.clear(tmp_path)


@pytest.mark.parametrize("checkpoint_every", [None, 0])
@pytest.mark.parametrize("again", [False, True])
def test_a_run_writes_nothing_into_the_folder_of_a_later_run(
    config, tmp_path, monkeypatch, capsys, checkpoint_every, again
):
    """Its folder is removed while it trains, and another run makes a new one at the same path, or none does."""
    add_chunk, out = history.Record.add_chunk, tmp_path / "x"

    def take_away(self, *arguments):
        add_chunk(self, *arguments)
        if out.is_dir() and self.updates < 30:
            shutil.rmtree(out)
            if again:
                out.mkdir()

    monkeypatch.setattr(history.Record, "add_chunk", take_away)
    monkeypatch.setattr(loop, "train", in_chunks_of(20))
    with pytest.raises(rljax.NotWritten, match="was deleted or replaced") as error:
        rljax.run(own, config, out=out, checkpoint_every=checkpoint_every, **OPTIONS)
    assert error.value.result.summary["env_steps"] == 500
    assert not out.exists() if not again else list(out.iterdir()) == []
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(rljax.UsageError, match="a file is in the way"):
            folders.prepare(out, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["mkdir", "NamedTemporaryFile"])
def test_an_unwritable_folder_is_refused(tmp_path, monkeypatch, place):
    (tmp_path / "summary.json").write_text("{}")
    owner = pathlib.Path if place == "mkdir" else tempfile
    monkeypatch.setattr(owner, place, functools.partial(fail_with, errno.EACCES))
    with pytest.raises(rljax.UsageError, match=r"cannot be written \(EACCES\)"):
        folders.prepare(tmp_path, overwrite=True)
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_folder_in_use_is_refused_before_anything_runs(config, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(rljax.UsageError, match="already holds results"):
        rljax.run(own, config, out=tmp_path)
    assert (tmp_path / "summary.json").read_text() == "{}"
    rljax.run(own, config, out=tmp_path, overwrite=True, progress=False, evaluations=1, eval_episodes=2)
    assert json.loads((tmp_path / "summary.json").read_text())["algo"] == "own"


def test_two_runs_cannot_train_into_one_folder(config, tmp_path):
    options: dict[str, Any] = {"seeds": 2, "evaluations": 0, "eval_episodes": 2, "progress": False, "overwrite": True}
    out = tmp_path / "x"
    rljax.run(own, config, out=out, checkpoint_every=0, **options)
    summary = (out / "summary.json").read_bytes()
    with folders.locked(out):
        with pytest.raises(rljax.UsageError, match="is in use by another process"):
            rljax.run(own, config, out=out, **options)
        with pytest.raises(rljax.UsageError, match="is in use by another process"):
            rljax.resume(out, algorithm=own, config=config, total_steps=1000, progress=False)
    assert "total_steps" not in json.loads((out / "config.json").read_text())
    assert (out / "summary.json").read_bytes() == summary
    rljax.resume(out, algorithm=own, config=config, progress=False)
