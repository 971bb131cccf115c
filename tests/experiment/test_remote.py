"""Runs whose folder is at a URL."""

import pathlib
import shutil
import sys
import tempfile

import fsspec
import pytest
import toys
from resuming import OPTIONS, Stop
from toys import in_chunks_of, own, same_bits

import rljax
from rljax import cli
from rljax.experiment import checkpoints, loop, remote


@pytest.fixture
def files(monkeypatch, tmp_path):
    """The files in memory, and a new folder of staging folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def names(files, root):
    return {path.removeprefix(f"/{root}/") for path in files.find(f"/{root}")}


def killed(monkeypatch, url, config, uploads):
    """Start a run that dies after this number of uploads, one update a chunk."""
    upload, seen = remote.Remote.upload, []

    def upload_and_die(self):
        if len(seen) == uploads:
            raise Stop
        upload(self)
        seen.append(self.local)

    with monkeypatch.context() as patched:
        patched.setattr(remote.Remote, "upload", upload_and_die)
        patched.setattr(loop, "train", in_chunks_of(1))
        with pytest.raises(Stop):
            rljax.run(own, config, out=url, checkpoint_every=0, **OPTIONS)
    shutil.rmtree(seen[0], ignore_errors=True)  # as the machine is lost


def test_a_killed_run_resumes_from_its_url_on_another_machine_to_the_same_bits(files, monkeypatch, config, whole):
    killed(monkeypatch, "memory://x", config, 11)
    assert {"config.json", "curves.csv", "metrics.csv", "writer.txt"} <= names(files, "x")
    assert len({name.split("/")[2] for name in names(files, "x") if name.startswith("checkpoints/")}) == 2
    partly = rljax.load("memory://x", algorithm=own, config=config)
    assert partly.metrics["env_steps"].shape == (3, 10)
    result = rljax.resume("memory://x", algorithm=own, config=config, progress=False)
    assert same_bits((result.states, result.metrics), (whole.states, whole.metrics))
    loaded = rljax.load("memory://x", algorithm=own, config=config)
    assert same_bits((loaded.states, loaded.metrics), (whole.states, whole.metrics))
    assert callable(rljax.policy("memory://x", 1, algorithm=own, config=config))
    assert {"summary.json", "learning_curve.png"} <= names(files, "x")
    assert list(pathlib.Path(tempfile.gettempdir()).glob("rljax-*")) == []  # no staging folder is left


def test_results_at_a_url_are_replaced_only_if_asked_for(files, config):
    files.pipe({"/x/notes.txt": b"mine", "/x/learning_curve.png": b"old", "/x/checkpoints/0000/000009/_": b"old"})
    quick = {**OPTIONS, "evaluations": 0}
    with pytest.raises(rljax.UsageError, match="memory://x already holds results: `rljax resume memory://x` continues"):
        rljax.run(own, config, out="memory://x", **quick)
    assert files.cat("/x/learning_curve.png") == b"old"
    rljax.run(own, config, out="memory://x", overwrite=True, **quick)
    assert "summary.json" in names(files, "x")
    assert not {"learning_curve.png", "checkpoints/0000/000009/_"} & names(files, "x")
    assert files.cat("/x/notes.txt") == b"mine"


def test_a_second_writer_ends_the_first_ones_writes(files, config, capsys):
    def take(progress):
        files.pipe("/x/writer.txt", b"another")

    with pytest.raises(rljax.NotWritten, match="Another process writes to memory://x") as error:
        rljax.run(own, config, out="memory://x", checkpoint_every=0, callback=take, **{**OPTIONS, "evaluations": 0})
    assert error.value.result.states is not None
    assert "summary.json" not in names(files, "x")
    (kept,) = error.value.__notes__
    assert (pathlib.Path(kept.removeprefix("What memory://x lacks is in ").rstrip(".")) / "summary.json").exists()
    assert "Another process writes to memory://x: this one writes nothing more there. The run continues." in (
        capsys.readouterr().err
    )


def test_the_command_line_takes_urls(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "train", in_chunks_of(1))
    algorithm = tmp_path / "own.py"
    algorithm.write_text("from toys import Config, act, init, update")
    env = f"{toys.__file__}:walk"
    common = ["--quiet", "--evaluations", "0"]
    arguments = ["--env", env, "--num-updates", "3", "--eval-episodes", "2", "--out", "memory://y/z", *common]
    assert cli.main(["train", str(algorithm), *arguments]) == 0
    assert "summary.json are in memory://y/z" in capsys.readouterr().out
    assert cli.main(["train", str(algorithm), *arguments]) == 2
    assert "memory://y/z already holds results" in capsys.readouterr().err
    assert cli.main(["resume", "memory://y/z", "--quiet"]) == 0
    assert "summary.json are in memory://y/z" in capsys.readouterr().out
    assert cli.main(["resume", "memory://nothing", "--quiet"]) == 2
    assert "memory://nothing is not the folder of a run: it has no config.json." in capsys.readouterr().err


def test_what_cannot_be_used_is_refused_in_one_sentence(files, config, monkeypatch, tmp_path):
    def refused(url):
        with pytest.raises(rljax.UsageError) as error:
            rljax.run(own, config, out=url, **OPTIONS)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused("s4://bucket/x").startswith("s4://bucket/x has an unknown scheme: use a path, or s3://, gs://")

    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "s3fs", None)
        assert refused("s3://bucket/x") == "s3:// needs s3fs: pip install 'rljax-engine[remote]'."

    def denied(*arguments, **settings):
        raise PermissionError("Access Denied\nby the server")

    with monkeypatch.context() as patched:
        patched.setattr(type(files), "pipe_file", denied)
        assert refused("memory://x") == (
            "memory://x cannot be written (Access Denied): check the address and the credentials."
        )


def test_a_file_url_is_a_path(tmp_path, config):
    rljax.run(own, config, out=f"file://{tmp_path}/x", **{**OPTIONS, "evaluations": 0})
    assert (tmp_path / "x" / "summary.json").exists()
    assert checkpoints.load(tmp_path / "x")
    assert rljax.load(f"file://{tmp_path}/x", algorithm=own, config=config).states is not None
