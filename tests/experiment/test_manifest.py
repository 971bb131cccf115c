"""What `config.json` records of a run, and what differs when it is resumed."""

import dataclasses
import json

import numpy as np
import toys
from resuming import OPTIONS, refusal, stopped
from toys import own

import rljax
from rljax import envs
from rljax.experiment import spec
from rljax.report import plot


def test_a_changed_config(config, folder):
    assert "rate was 0.1 and is 0.2" in refusal(folder, dataclasses.replace(config, rate=0.2))
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"rate": 0.1', '"rate": 0.2'))
    assert "was changed" in refusal(folder, dataclasses.replace(config, rate=0.2))
    path.write_text(path.read_text()[:100])
    assert "damaged" in refusal(folder, config)
    path.write_text("{}")
    assert "was changed since rljax wrote it" in refusal(folder, config)
    path.write_text('{"format": 1, "recipe": 3}')
    assert "was changed since rljax wrote it" in refusal(folder, config)
    path.unlink()
    assert "not the folder of a run" in refusal(folder, config)


def test_what_wrappers_were_called_with_is_checked(tmp_path, monkeypatch, capsys):
    one, other = (own.Config(env=envs.scale_reward(toys.walk, factor), num_updates=2) for factor in (1.0, 100.0))
    stopped(monkeypatch, tmp_path / "x", own, one, 1)
    assert "env.label was 'walk+scale_reward(1.0)' and is" in refusal(tmp_path / "x", other)
    path = tmp_path / "x/config.json"
    about = json.loads(path.read_text())
    about["config"]["env"] |= {"label": "walk+scale_reward(100.0)", "recipe": [None, ["scale_reward", [100.0]]]}
    path.write_text(json.dumps(about))
    assert "was changed" in refusal(tmp_path / "x", other)
    sweep = {"env": [one.env, other.env]}
    legend = []
    monkeypatch.setattr(plot, "learning_curves", lambda path, drawn, title: legend.extend(drawn))
    rljax.run(own, one, out=tmp_path / "y", sweep=sweep, **{**OPTIONS, "progress": True})
    labels = ["walk+scale_reward(1.0)", "walk+scale_reward(100.0)"]
    assert legend == [f"env={label}" for label in labels]
    told = capsys.readouterr().out
    assert all(label in told for label in labels)
    rows = (tmp_path / "y/curves.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == np.repeat(labels, len(rows) // 2).tolist()
    values = [c["values"]["env"] for c in json.loads((tmp_path / "y/summary.json").read_text())["configurations"]]
    assert [value["recipe"][1] for value in values] == [["scale_reward", [1.0]], ["scale_reward", [100.0]]]
    legend.clear()
    rljax.run(own, one, out=tmp_path / "z", sweep={"env": [one.env, envs.scale_reward(toys.walk, 1.0)]}, **OPTIONS)
    assert legend == [f"env={labels[0]} ({i})" for i in range(2)]  # none in place of another


def test_another_software_is_said(config, folder, monkeypatch, capsys):
    monkeypatch.setattr(spec, "versions", lambda: {"jax": "0.0.1"})
    rljax.resume(folder, algorithm=own, config=config, progress=False)
    assert "began with different versions" in capsys.readouterr().err
