"""Checkpoints: damaged ones, full disks, and other formats."""

import shutil

import pytest
from orbax import checkpoint as orbax
from resuming import OPTIONS, damage, refusal, same_results
from toys import in_chunks_of, own

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


def test_a_run_without_checkpoints_cannot_be_loaded(config, tmp_path):
    rljax.run(own, config, out=tmp_path / "x", **{**OPTIONS, "evaluations": 0})
    with pytest.raises(rljax.UsageError, match="checkpoint_every"):
        rljax.load(tmp_path / "x")
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
