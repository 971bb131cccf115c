"""JSON and CSV files: written whole or not at all."""

import errno
import functools
import json
import pathlib

import numpy as np
import pytest

import rljax
from rljax.report import files
from rljax.report.statistics import summarize


def strict(path):
    """JSON as its standard has it, without NaN and infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_json_has_null_for_numbers_that_are_not_finite(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1.5, float("nan"), {"b": float("inf")}], "c": (np.float64("nan"), 2), "d": "ü"})
    assert strict(path) == {"a": [1.5, None, {"b": None}], "c": [None, 2], "d": "ü"}
    files.write_json(path, summarize(np.array([np.nan])))
    assert strict(path)["iqm"] is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_file_of_a_run_is_never_replaced_by_another_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in files.OF_A_RUN:
        with pytest.raises(rljax.UsageError, match="belongs to the run in"):
            files.destination(tmp_path / name, "report.html")
    assert files.destination(tmp_path / "report.html", "report.html") == tmp_path / "report.html"
    assert files.destination(tmp_path / "other" / "summary.json", "x") == tmp_path / "other" / "summary.json"


def test_a_table_is_written_whole(tmp_path):
    path = tmp_path / "curves.csv"
    env = rljax.make("CartPole-v1")
    rows = [[env.label, (8, 8), "0.5"], [rljax.envs.scale_reward(env, 100).label, None, 1e-9]]
    files.write_table(path, ["env", "sizes", "return"], iter(rows))
    assert path.read_text().splitlines() == [
        "env,sizes,return",
        'CartPole-v1,"(8, 8)",0.5',
        "CartPole-v1+scale_reward(100.0),,1e-09",
    ]


def fail_with(code, *_, **__):
    raise OSError(code, errno.errorcode[code])


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, when):
    path = tmp_path / "summary.json"
    files.write_json(path, {"old": 1})

    def half_written(part, text, **_):
        with open(part, "w", encoding="utf-8") as file:
            file.write(text[:3])
        fail_with(errno.ENOSPC)

    if when == "writing":
        monkeypatch.setattr(pathlib.Path, "write_text", half_written)
    else:
        monkeypatch.setattr(pathlib.Path, "replace", functools.partial(fail_with, errno.ENOSPC))
    with pytest.raises(rljax.UsageError, match=r"summary.json could not be written"):
        files.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert strict(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_an_object_that_is_not_json_keeps_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})
    assert strict(path) == {"old": 1}
