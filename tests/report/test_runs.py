"""Runs that are read from their folders."""

import fsspec
import numpy as np
import pytest
import toys
from made_runs import made
from toys import own

import rljax
from rljax.report import configs, runs


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "rates"
    config = own.Config(env=toys.walk, num_updates=10)
    values = {"rate": [0.1, 0.2], "env.params.height": [1.0, 3.0]}
    settings = {"seeds": 3, "evaluations": 2, "eval_episodes": 2, "progress": False}
    return rljax.run(own, config, sweep=values, out=out, **settings), out


def test_an_entry_has_what_the_result_has(sweep):
    result, out = sweep
    entries = runs.read([out])
    assert [entry.label for entry in entries][:2] == ["rates: rate=0.1, height=1", "rates: rate=0.1, height=3"]
    for entry, one in zip(entries, result.results, strict=True):
        np.testing.assert_array_equal(entry.final, one.summary["final_return"]["per_seed"])
        np.testing.assert_allclose(entry.eval_returns, one.eval_returns, rtol=1e-7)
        np.testing.assert_array_equal(entry.eval_steps, one.eval_steps)
        np.testing.assert_allclose(entry.metrics["episode_return"], one.metrics["episode_return"], rtol=1e-7)
        np.testing.assert_array_equal(entry.metrics["update"][0], np.arange(1, 11))
        assert entry.config["rate"] == one.config.rate
        assert entry.config["env"]["params.height"] == one.config.env.params.height
        assert entry.env == f"walk (height={one.config.env.params.height:g})"
        speed = one.summary["env_steps_per_second"]
        assert entry.seconds_per_step * speed == pytest.approx(12)  # runs side by side


def test_a_run_that_has_not_ended_has_its_latest_returns(template, tmp_path):
    folder = made(template, tmp_path / "x", [[1.0, 2.0], [3.0, np.nan]])
    (folder / "summary.json").unlink()
    (entry,) = runs.read([folder])
    assert not entry.is_final
    np.testing.assert_array_equal(entry.final, [2.0, 3.0])


def test_a_line_of_metrics_that_is_being_written_is_left_out(template, tmp_path):
    folder = made(template, tmp_path / "x", [1.0] * 6)
    with (folder / "metrics.csv").open("a") as file:
        file.write("0,51,5")
    (entry,) = runs.read([folder])
    assert entry.metrics["update"].shape == (6, 50)


def test_metrics_are_read_from_parquet_too(template, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import csv, parquet

    folder = made(template, tmp_path / "x", [1.0] * 6)
    (expected,) = (entry.metrics for entry in runs.read([folder]))
    table = csv.read_csv(folder / "metrics.csv")
    (folder / "metrics").mkdir()
    for i, part in enumerate((table.slice(0, 100), table.slice(100))):
        parquet.write_table(pyarrow.table(part), folder / "metrics" / f"part-{i:06d}.parquet")
    (folder / "metrics.csv").unlink()
    (entry,) = runs.read([folder])
    for name, values in expected.items():
        np.testing.assert_array_equal(entry.metrics[name], values)


def test_names_belong_to_folders(template, tmp_path):
    first, second = made(template, tmp_path / "a" / "x", [1.0]), made(template, tmp_path / "b" / "x", [2.0])
    assert [entry.label for entry in runs.read([first, second])] == [str(first), str(second)]
    named = runs.read([f"big={first}", second])
    assert [(entry.label, entry.method) for entry in named] == [("big", "big"), (str(second), "own")]


def test_runs_are_read_from_urls(template, tmp_path):
    memory = fsspec.filesystem("memory")
    for name, returns in (("x", [1.0] * 5), ("y=1", [2.0] * 5)):
        memory.put(str(made(template, tmp_path / name, returns)), f"/runs/{name}", recursive=True)
    given = ["memory://runs/x", "big=memory://runs/x", "memory://runs/y=1"]
    with runs.fetched(given) as local:
        entries = runs.read(local)
        assert [entry.label for entry in entries] == ["memory://runs/x", "big", "y=1"]
        np.testing.assert_array_equal(entries[2].final, [2.0] * 5)
        assert len(entries[0].metrics["env_steps"]) == 5
        assert "`rljax resume memory://runs/x`" in configs.command(entries[0])
    (place,) = rljax.compare("memory://runs/x", "memory://runs/y=1").places
    memory.store.clear()
    assert [entry.label for entry in place.entries] == ["y=1", "x"]


def test_the_environment_leaves_out_what_only_the_learner_sees(template, tmp_path):
    label = "Pong(a=1)+time_limit(50)+normalize_observations(('velocity',))+frame_stack(4)"
    (entry,) = runs.read([made(template, tmp_path / "x", [1.0], env=label)])
    assert entry.env == "Pong(a=1)+time_limit(50)"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "Name the folder of at least one run"),
        (["nowhere"], "There is no folder nowhere"),
        (["=x"], "A run has a name and a folder"),
        ([""], "A run is named by its folder"),
        ([3], "A run is named by its folder"),
    ],
)
def test_what_is_no_run_is_refused(given, sentence):
    with pytest.raises(rljax.UsageError, match=sentence):
        runs.read(given)


def test_damaged_folders_are_refused(template, tmp_path):
    with pytest.raises(rljax.UsageError, match=r"is not the folder of a run: it has no config.json"):
        runs.read([tmp_path])
    folder = made(template, tmp_path / "x", [1.0])
    with pytest.raises(rljax.UsageError, match="is given twice"):
        runs.read([folder, f"y={folder}"])
    (folder / "metrics.csv").write_text("run,update\n1,2,3\n")
    with pytest.raises(rljax.UsageError, match="rows of 3 numbers and 2 names"):
        _ = runs.read([folder])[0].metrics
    (folder / "curves.csv").write_text("seed,update,env_steps,return\n0,x,0,1\n")
    with pytest.raises(rljax.UsageError, match="that rljax did not write"):
        runs.read([folder])
    (folder / "curves.csv").unlink()
    (folder / "summary.json").unlink()
    with pytest.raises(rljax.UsageError, match="has no evaluations yet"):
        runs.read([folder])
