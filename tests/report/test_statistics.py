"""Statistics over seeds, and the files of a run."""

import errno
import functools
import json
import pathlib
import struct
import subprocess
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import rljax
from rljax.experiment import folders
from rljax.report import console, files, plot
from rljax.report.statistics import bootstrap_interval, improvement_interval, interquartile_mean, summarize

# Statistics


def middle_half(values):
    """The interquartile mean from its definition: sorted, a quarter (rounded down) dropped at either end."""
    values = sorted(values)
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 11, 20, 30])
def test_interquartile_mean_is_the_mean_of_the_middle_half(size):
    values = np.random.default_rng(size).normal(size=(size, 3)) ** 3
    np.testing.assert_allclose(interquartile_mean(values), [middle_half(column) for column in values.T], rtol=1e-12)
    # That of rliable: scipy's mean trimmed by a quarter of all values.
    np.testing.assert_allclose(interquartile_mean(values[:, 0]), stats.trim_mean(values[:, 0], 0.25, axis=None))


def test_interquartile_mean_by_hand_ignores_outliers():
    assert interquartile_mean(np.array([1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1e9])) == 3.5
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, 4.0, 100.0])) == 3.0
    assert interquartile_mean(np.array([0.0, 2.0, 4.0, 7.0, 8.0, 100.0, -50.0])) == np.mean([0, 2, 4, 7, 8])
    np.testing.assert_array_equal(interquartile_mean(np.arange(8.0).reshape(2, 4), axis=1), [1.5, 5.5])


def test_interval_contains_the_interquartile_mean_and_shrinks_with_seeds():
    widths = []
    for size in (8, 32, 128):
        values = np.random.default_rng(size).normal(size=(size, 20))
        low, high = bootstrap_interval(values)
        middle = interquartile_mean(values)
        assert low.shape == high.shape == (20,)
        assert np.all((low < middle) & (middle < high))
        widths.append((high - low).mean())
    # With the square root of the number of seeds.
    assert 1.6 < widths[0] / widths[1] < 2.5
    assert 1.6 < widths[1] / widths[2] < 2.5


def test_interval_covers_as_often_as_it_says():
    # Columns are independent populations of 20 seeds; the interquartile mean of each one's distribution is zero.
    values = np.random.default_rng(0).normal(size=(20, 300))
    low, high = bootstrap_interval(values)
    assert 0.87 <= np.mean((low < 0) & (high > 0)) <= 0.99
    low, high = bootstrap_interval(values[:, :100], confidence=0.5)
    assert 0.35 <= np.mean((low < 0) & (high > 0)) <= 0.65


def test_interval_of_a_column_is_that_of_the_column_alone():
    values = np.random.default_rng(1).normal(size=(6, 3))
    low, high = bootstrap_interval(values)
    alone = bootstrap_interval(values[:, 1])
    np.testing.assert_allclose([low[1], high[1]], alone, rtol=1e-12)
    np.testing.assert_allclose(bootstrap_interval(values), (low, high), rtol=1e-12)


def test_one_seed_has_no_interval():
    low, high = bootstrap_interval(np.array([3.0]))
    assert np.isnan(low)
    assert np.isnan(high)
    low, high = bootstrap_interval(np.ones((1, 4)))
    assert np.all(np.isnan(low))
    assert low.shape == high.shape == (4,)


def test_equal_seeds_have_an_interval_of_no_width():
    for values in (np.full(7, 500.0), np.full((5, 3), -1.5)):
        low, high = bootstrap_interval(values)
        np.testing.assert_array_equal(low, values[0])
        np.testing.assert_array_equal(high, values[0])


def test_a_curve_with_a_gap_warns_of_nothing():
    values = np.random.default_rng(2).normal(size=(5, 3))
    values[2, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_interval(values)
    assert np.all(np.isfinite(low[[0, 2]]))
    assert np.all(low[[0, 2]] < high[[0, 2]])


def test_summary_of_finite_seeds():
    values = np.array([3.0, 1.0, 2.0, 100.0, 4.0])
    summary = summarize(values)
    assert list(summary) == ["iqm", "ci95", "mean", "median", "min", "max", "per_seed", "not_finite"]
    assert (summary["iqm"], summary["mean"], summary["median"]) == (3.0, 22.0, 3.0)
    assert (summary["min"], summary["max"]) == (1.0, 100.0)
    assert summary["per_seed"] == list(values)
    assert summary["not_finite"] == []
    assert summary["ci95"][0] < 3.0 < summary["ci95"][1]
    assert summary["ci95"] == [float(end) for end in bootstrap_interval(values)]


def test_summary_names_seeds_without_a_number_and_leaves_them_out():
    summary = summarize(np.array([1.0, np.nan, 2.0, 3.0, np.inf, -np.inf, 2.0, 2.0]))
    assert summary["not_finite"] == [1, 4, 5]
    assert (summary["iqm"], summary["mean"], summary["min"], summary["max"]) == (2.0, 2.0, 1.0, 3.0)
    assert len(summary["per_seed"]) == 8
    assert np.isnan(summary["per_seed"][1])
    rest = summarize(np.array([1.0, 2.0, 3.0, 2.0, 2.0]))
    assert summary["ci95"] == rest["ci95"]


@pytest.mark.parametrize(
    ("returns", "cells"),
    [
        ([0.7421, 0.7402, 0.75], "0.744 │ needs 5 seeds │  0.742 │      0.740"),
        ([-99.96, 9.0, 9.0], "-27.3 │ needs 5 seeds │    9.0 │     -100.0"),
        ([np.nan], "nan │ needs 5 seeds │    nan │        nan"),
    ],
)
def test_small_returns_are_printed_with_more_places(returns, cells, capsys):
    final = summarize(np.array(returns))
    summary = {"algo": "own", "env": "walk", "seeds": len(returns), "env_steps": 10, "final_return": final}
    console.print_summary(summary | {"env_steps_per_second": 5.0, "compile_seconds": 1.0, "diverged": []})
    assert cells in capsys.readouterr().out
    with console.progress_bar("own", 10, True) as show:
        show(10, 5.0, returns[0])
    digits = {0.7421: "0.742", -99.96: "-100.0"}.get(returns[0], "nan")
    assert f"return {digits}." in capsys.readouterr().err


def test_few_seeds_have_no_interval_because_it_would_hold_too_seldom():
    values = np.random.default_rng(0).normal(size=(5, 2000))
    low, high = bootstrap_interval(values)
    assert 0.86 <= np.mean((low < 0) & (high > 0)) <= 0.92
    assert np.isnan(bootstrap_interval(values[:4])).all()
    assert np.isnan(improvement_interval(values[:4, 0], values[:, 1])).all()
    assert not np.isnan(improvement_interval(values[:, 0], values[:, 1])).any()


def test_summary_of_one_seed_and_of_none():
    one = summarize(np.array([np.nan, 7.0]))
    assert (one["iqm"], one["mean"], one["not_finite"]) == (7.0, 7.0, [0])
    assert np.all(np.isnan(one["ci95"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = summarize(np.array([np.nan, np.nan]))
    assert none["not_finite"] == [0, 1]
    assert np.isnan(none["iqm"])
    assert np.isnan(none["max"])


# JSON and tables


def strict(path):
    """JSON as its standard has it, without NaN and infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_json_has_null_where_there_is_no_number(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1.5, float("nan"), {"b": float("inf")}], "c": (np.float64("nan"), 2), "d": "ü"})
    assert strict(path) == {"a": [1.5, None, {"b": None}], "c": [None, 2], "d": "ü"}
    files.write_json(path, summarize(np.array([np.nan])))
    assert strict(path)["iqm"] is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_config_is_described_as_plain_data(tmp_path):
    env = rljax.Env(
        reset=len,
        step=len,
        observation_space=rljax.Box(-1, 1, (3,)),
        action_space=rljax.Discrete(2),
        params={"gravity": jnp.float32(9.5), "limits": jnp.array([1.0, jnp.inf])},
        name="mine",
        wrappers=("time_limit",),
    )
    config = rljax.ppo.Config(env=env, learning_rate=np.array([0.5, 0.25]), num_envs=np.int64(8), hidden_sizes=(3,))
    files.write_json(tmp_path / "config.json", config.describe(config))
    written = strict(tmp_path / "config.json")
    assert written["env"] == {
        "name": "mine",
        "params": {"gravity": 9.5, "limits": [1.0, None]},
        "wrappers": ["time_limit"],
        "recipe": [None],
    }
    assert written["learning_rate"] == [0.5, 0.25]
    assert (written["num_envs"], written["hidden_sizes"]) == (8, [3])
    assert (written["value_clip"], written["anneal_learning_rate"], written["activation"]) == (None, True, "tanh")


def test_a_table_is_written_whole(tmp_path):
    path = tmp_path / "curves.csv"
    env = rljax.make("CartPole-v1")
    rows = [[env, (8, 8), "0.5"], [rljax.envs.scale_reward(env, 100), None, 1e-9]]
    files.write_table(path, ["env", "sizes", "return"], iter(rows))
    assert path.read_text().splitlines() == [
        "env,sizes,return",
        'CartPole-v1,"(8, 8)",0.5',
        "CartPole-v1+scale_reward(100.0),,1e-09",
    ]


# Writing


def fail_with(code, *_, **__):
    raise OSError(code, errno.errorcode[code])


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path, monkeypatch, when):
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


def test_what_cannot_be_json_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "summary.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})
    assert strict(path) == {"old": 1}


# The folder


def test_a_folder_is_made_with_its_parents(tmp_path):
    folder = folders.prepare(str(tmp_path / "a" / "b"), overwrite=False)
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    assert folders.prepare(folder, overwrite=False) == folder


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(rljax.UsageError, match=r"in use.*overwrite"):
        folders.prepare(tmp_path, overwrite=False)
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_config_alone_does_not_put_a_folder_in_use(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    folders.prepare(tmp_path, overwrite=False)
    assert (tmp_path / "config.json").read_text() == "{}"


def test_overwrite_removes_the_files_of_a_run_and_nothing_else(tmp_path):
    for name in ("config.json", "summary.json", "curves.csv", "learning_curve.png", "notes.txt"):
        (tmp_path / name).write_text(name)
    folders.prepare(tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 5  # nothing goes before the new run is known to be possible
    folders.begin(tmp_path, {"seeds": 3})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "notes.txt"]
    assert json.loads((tmp_path / "config.json").read_text()) == {"seeds": 3}


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(rljax.UsageError, match="a file is in its way"):
            folders.prepare(out, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["mkdir", "TemporaryFile"])
def test_an_unwritable_folder_is_refused(tmp_path, monkeypatch, place):
    (tmp_path / "summary.json").write_text("{}")
    owner = pathlib.Path if place == "mkdir" else files.tempfile
    monkeypatch.setattr(owner, place, functools.partial(fail_with, errno.EACCES))
    with pytest.raises(rljax.UsageError, match=r"cannot be written \(EACCES\)"):
        folders.prepare(tmp_path, overwrite=True)
    assert (tmp_path / "summary.json").read_text() == "{}"


# The picture


def png_size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def test_learning_curve_is_a_picture_with_something_in_it(tmp_path):
    from matplotlib import image

    steps = np.linspace(0, 2e6, 6)
    returns = np.linspace(0, 400, 6) + np.random.default_rng(0).normal(scale=30, size=(5, 6))
    path = tmp_path / "learning_curve.png"
    plot.learning_curve(path, steps, returns, "ppo on CartPole-v1")
    width, height = png_size(path)
    assert 800 <= width <= 2000
    assert 400 <= height <= 1500
    assert 10_000 < path.stat().st_size < 500_000
    pixels = image.imread(path)[..., :3]
    blue = (pixels[..., 2] > 0.6) & (pixels[..., 0] < 0.3)
    assert pixels[0, 0].min() == 1.0
    # The line of the interquartile mean crosses most of the width and rises through most of the height.
    rows, columns = np.nonzero(blue)
    assert np.ptp(columns) > 0.7 * width
    assert np.ptp(rows) > 0.4 * height
    assert rows[columns < np.quantile(columns, 0.1)].mean() > rows[columns > np.quantile(columns, 0.9)].mean()


def test_learning_curve_of_one_seed_and_with_a_gap_warns_of_nothing(tmp_path):
    path = tmp_path / "learning_curve.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.learning_curve(path, np.array([0, 500, 1000]), np.array([[1.0, np.nan, 3.0]]), "one seed")
    assert path.stat().st_size > 5_000


def test_a_picture_that_cannot_be_written_is_a_usage_error(tmp_path):
    with pytest.raises(rljax.UsageError, match="could not be written"):
        plot.learning_curve(tmp_path / "missing" / "learning_curve.png", np.arange(2), np.ones((2, 2)), "nowhere")


def test_importing_rljax_is_light():
    heavy = ("matplotlib", "seaborn", "pandas", "scipy.stats", "gymnax", "tyro")
    code = f"import sys, rljax; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
