"""What each built-in logger writes, read back by its own package."""

import csv
import importlib
import json
import math
import struct

import pytest

from rljax.report import loggers

CONFIG = {"env": {"name": "walk"}, "rate": 0.1, "missing": None}
SUMMARY = {"final_return": {"iqm": 3.0, "mean": 3.5, "min": math.nan, "max": 4.0}}
LOGGED = [(10, {"train/loss": 0.5, "train/entropy": 1.25}), (10, {"eval/return": 2.0}), (20, {"train/loss": 0.25})]


def write(name, folder, series=""):
    (make,), shared = loggers.chosen(name, folder)
    assert not shared
    logger = make(loggers.Place(folder, "own on walk", series))
    logger.start(CONFIG)
    for step, metrics in LOGGED:
        logger.log(metrics, step)
    logger.finish(SUMMARY)


@pytest.mark.parametrize("series", ["", "seed_0003"])
def test_csv(tmp_path, series):
    write("csv", tmp_path, series)
    with (tmp_path / (f"log/{series}.csv" if series else "log.csv")).open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "name", "value"]
    assert rows[1:] == [
        ["10", "train/loss", "0.5"],
        ["10", "train/entropy", "1.25"],
        ["10", "eval/return", "2"],
        ["20", "train/loss", "0.25"],
    ]


def test_json_lines(tmp_path):
    write("jsonl", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0] == {"config": CONFIG}
    assert lines[1:4] == [{"step": step, **metrics} for step, metrics in LOGGED]
    assert lines[4]["summary"]["final_return"]["min"] is None


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # a resumed run writes everything again
        write("tensorboard", tmp_path, "seed_0003")
    events = reader.EventAccumulator(str(tmp_path / "tensorboard/seed_0003"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 0.5), (20, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("eval/return")] == [(10, 2.0)]


def records_of(data):
    """The records of a LevelDB log, the format of W&B's offline files, after their header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a block's end is too short for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    records = importlib.import_module("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    write("wandb", tmp_path, "seed_0003")
    wandb.teardown()  # it writes in another process, which may lag behind
    (found,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    history, config, summary = {}, {}, {}
    for data in records_of(found.read_bytes()):
        record = records.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history[row["_step"]] = row
        elif kind == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "summary":
            summary |= {(item.key or item.nested_key[0]): item.value_json for item in record.summary.update}
    assert config["rate"] == 0.1
    assert (history[10]["train/loss"], history[10]["eval/return"], history[20]["train/loss"]) == (0.5, 2.0, 0.25)
    assert "final_return" in summary


def test_trackio(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    sqlite = pytest.importorskip("trackio.sqlite_storage")
    monkeypatch.setattr(importlib.import_module("trackio.utils"), "TRACKIO_DIR", tmp_path)
    monkeypatch.setattr(sqlite, "TRACKIO_DIR", tmp_path, raising=False)
    write("trackio", tmp_path / "x")
    assert importlib.import_module("trackio.context_vars").current_run.get() is None  # nothing is left for the exit
    rows = sqlite.SQLiteStorage.get_logs("rljax", "x")
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [0.5, 0.25]
    assert [row["step"] for row in rows if "eval/return" in row] == [10]


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    write("mlflow", tmp_path / "x", "seed_0003")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("rljax").experiment_id])
    assert run.info.run_name == "x/seed_0003"
    assert run.data.params["rate"] == "0.1"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.5), (20, 0.25)]
    assert run.info.status == "FINISHED"
