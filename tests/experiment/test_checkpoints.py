"""Checkpoints: damaged ones, full disks, and other formats."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from orbax import checkpoint as orbax
from resuming import OPTIONS, damage, refusal, same_results
from toys import in_chunks_of, own, same_bits

import rljax
from rljax.experiment import checkpoints, loop


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign", "emptied"])
def test_a_damaged_checkpoint_is_skipped(config, whole, folder, how, capsys):
    newest = folder / "checkpoints/0000/000010"
    if how == "emptied":
        shutil.rmtree(newest)
        newest.mkdir()
    else:
        damage(newest, how)
    same_results(rljax.resume(folder, algorithm=own, config=config, progress=False), whole)
    assert "000010 is not an intact checkpoint" in capsys.readouterr().err


def test_resume_refuses_a_folder_without_an_intact_checkpoint(config, folder):
    for name in ("000009", "000010"):
        damage(folder / "checkpoints/0000" / name, "truncated")
    assert "there is no other" in refusal(folder, config)


def test_another_format_is_refused(config, folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    assert "format 1" in refusal(folder, config)


def test_an_invalid_interval_is_refused(config, tmp_path):
    for every, out in ((-1, tmp_path / "y"), (True, tmp_path / "y"), (1, None)):
        with pytest.raises(rljax.UsageError, match="checkpoint_every"):
            rljax.run(own, config, out=out, checkpoint_every=every)


def test_a_full_disk_keeps_the_earlier_checkpoints(config, whole, tmp_path, monkeypatch, capsys):
    """Every write from the fifth on fails; training continues, and the run can be resumed from what was written."""
    save, written = orbax.CheckpointManager.save, []

    def full(self, *arguments, **named):
        written.append(arguments)
        if len(written) >= 5:
            raise OSError(28, "No space left on device")
        return save(self, *arguments, **named)

    monkeypatch.setattr(orbax.CheckpointManager, "save", full)
    monkeypatch.setattr(loop, "train", in_chunks_of(1))
    same_results(rljax.run(own, config, out=tmp_path / "x", checkpoint_every=0, **OPTIONS), whole)
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "The run continues" in said
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "x/checkpoints/0000").iterdir()) == ["000003", "000004"]
    same_results(rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False), whole)


EDITS = [
    ("updates", [110, 0, -5, "x", 9.0, 10**400]),
    ("env_steps", [7, None]),
    ("seconds", [-1e9, "1"]),
    ("eval_updates", [[0, 1, 2], []]),
    ("eval_steps", [[10], {}]),
    ("lanes", [0, 10**12]),
    ("rung", [-1, 1]),
    ("batch", ["0001", None]),
    ("axes", [[0] * 3, [None, None]]),
    ("frozen", [[[0, 5, 500, False]], [[]]]),
    ("kept", [1, None]),
    ("metrics", [[], ["loss"]]),
    ("arrays", [{}, {"keys": [[10**12], "float32"]}]),
    ("fingerprint", [0, None]),
    ("versions", [{}, "x", None]),
    ("device", ["TPU", None]),
    ("checksum", [0, None, "x"]),
    ("format", [None]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in EDITS for value in values])
def test_edited_metadata_is_noticed(folder, field, value, capsys):
    """Any number, and None for a field that is lost."""
    path = folder / "checkpoints/0000/000010/about/metadata"
    about = json.loads(path.read_text())
    about[field] = value
    if value is None:
        del about[field]
    path.write_text(json.dumps(about))
    assert checkpoints.newest(folder / "checkpoints/0000").record.updates == 9
    assert "000010 is not an intact checkpoint" in capsys.readouterr().err


def test_metadata_may_be_written_in_another_order(folder):
    path = folder / "checkpoints/0000/000010/about/metadata"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True))
    assert checkpoints.newest(folder / "checkpoints/0000").record.updates == 10


def test_a_run_with_edited_metadata_has_the_same_result(config, whole, folder):
    path = folder / "checkpoints/0000/000010/about/metadata"
    path.write_text(path.read_text().replace('"env_steps": 100', '"env_steps": 7'))
    same_results(rljax.resume(folder, algorithm=own, config=config, progress=False), whole)


def test_any_path_holds_checkpoints(config, whole, tmp_path):
    place = tmp_path
    while len(str(place)) < 3900:
        place /= "y" * 100
    names = ["lr[0.1]", "what?", "a*b", "{a,b}", "a b", "100%", "a\nb", "\u00e9", os.fsdecode(b"\xff")]
    for out in (*(tmp_path / name for name in names), place / "z"):
        rljax.run(own, config, out=out, checkpoint_every=1e6, **OPTIONS)
        assert same_bits(rljax.load(out, algorithm=own, config=config).states, whole.states)


def test_a_path_that_is_too_long_is_refused_before_training(config, tmp_path):
    place = tmp_path
    while len(str(place)) < 4075 - 101:
        place /= "y" * 100
    place /= "z" * (4080 - len(str(place)))
    with pytest.raises(rljax.UsageError, match=r"cannot be written \(File name too long\)"):
        rljax.run(own, config, out=place, **OPTIONS)


def test_without_short_names_for_folders_odd_paths_are_refused_before_training(config, tmp_path, monkeypatch):
    is_dir = pathlib.Path.is_dir
    monkeypatch.setattr(pathlib.Path, "is_dir", lambda path: "fd" not in path.parts and is_dir(path))
    for name in ("lr[0.1]", "what?", "a*b", os.fsdecode(b"\xff"), "y" * 200 + "/" + "z" * 200):
        with pytest.raises(rljax.UsageError, match="Checkpoints need a shorter path"):
            rljax.run(own, config, out=tmp_path / ("x" * 200) / ("y" * 250) / name, checkpoint_every=0, **OPTIONS)


LIMITED = """
import resource, sys
sys.path[:0] = [{root!r}, {tests!r}]
import rljax, toys
from toys import own
resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, resource.RLIM_INFINITY))
options = {{"seeds": 2, "evaluations": 1, "eval_episodes": 2, "progress": False, "checkpoint_every": 0, "devices": 1}}
try:
    rljax.run(own, own.Config(env=toys.walk, width=20000), out="x", **options)
except rljax.NotWritten as error:
    print(error)
"""


def test_a_limited_disk_is_one_sentence_for_each_file_and_leaves_no_temporary_files(tmp_path):
    """Orbax and TensorStore would print hundreds of lines."""
    tests = pathlib.Path(__file__).parents[1]
    program = LIMITED.format(root=str(tests.parent), tests=str(tests))
    environment = {**os.environ, "RLJAX_CACHE": "off"}  # JAX would warn that it cannot write there
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if "JAX has already started" not in line]
    assert len(said) == 1, done.stderr
    assert "No checkpoint could be written to x/checkpoints/0000 (File too large)" in said[0]
    assert "could not be written (File too large)" in done.stdout
    assert {path.name for path in (tmp_path / "x").iterdir()} <= {
        "config.json",
        "curves.csv",
        "metrics.csv",
        "summary.json",
    }
