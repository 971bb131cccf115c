"""Exporting the policy of a run's folder."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import onnxruntime
import pytest

import rljax
from rljax import cli, q_learning
from rljax.export import loader

FIELDS = {"total_steps": 400, "num_envs": 2}
OPTIONS = {"seeds": 2, "evaluations": 1, "eval_episodes": 2, "progress": False, "devices": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two seeds in Taxi, with the policies of its evaluations."""
    out = tmp_path_factory.mktemp("runs") / "x"
    config = q_learning.Config(env=rljax.make("Taxi-v3"), **FIELDS)
    return rljax.run(q_learning, config, out=out, keep="all", **OPTIONS), out


@pytest.fixture(scope="module")
def folder(trained):
    return trained[1]


OBS = np.arange(500, dtype=np.int32)


def actions(path):
    return loader.load(str(path))[0]({"obs": OBS})["action"]


def test_the_seed_and_the_checkpoint_are_those_asked_for(folder, tmp_path):
    found = {}
    for seed, checkpoint in ((0, "last"), (1, "last"), (0, "best"), (None, "last")):
        path, _ = rljax.export_policy(folder, tmp_path / "x.npz", "numpy", seed=seed, checkpoint=checkpoint)
        found[seed, checkpoint] = actions(path)
        policy = rljax.best(folder) if seed is None else rljax.policy(folder, seed, checkpoint)
        np.testing.assert_array_equal(found[seed, checkpoint], policy(jax.random.key(0), OBS))
    assert (found[0, "last"] != found[1, "last"]).any()


def test_the_best_seed_is_exported_unless_another_one_is_asked_for(trained, tmp_path):
    for best in (0, 1):
        returns = {**trained[0].summary["final_return"], "per_seed": [float(seed == best) for seed in range(2)]}
        result = dataclasses.replace(trained[0], summary={**trained[0].summary, "final_return": returns})
        path, _ = rljax.export_policy(result, tmp_path / "x.npz", "numpy")
        assert loader.load(str(path))[1]["seed"] == best


def test_what_is_for_folders_is_refused_for_results(trained, tmp_path):
    with pytest.raises(rljax.UsageError, match="takes configuration for the folder of a run"):
        rljax.export_policy(trained[0], tmp_path / "x.npz", "numpy", configuration=0)


def test_metadata_describe_the_policy(folder, tmp_path):
    path, loading = rljax.export_policy(folder, tmp_path / "x.safetensors", "safetensors", seed=1)
    metadata = loader.load(str(path))[1]
    versions = metadata.pop("versions")
    assert versions["jax"] == jax.__version__
    assert metadata == {
        "algorithm": "q_learning", "environment": "Taxi-v3", "seed": 1, "checkpoint": "last",
        "observation_space": {"type": "Discrete", "n": 500, "start": 0},
        "action_space": {"type": "Discrete", "n": 6, "start": 0},
        "inputs": {"obs": ["int32"]}, "outputs": ["action"], "initial_hidden_state": {},
    }  # fmt: skip
    assert loading.name == "rljax_policy.py"


def test_of_a_sweep_the_configuration_is_printed_and_in_the_metadata(tmp_path, capsys):
    config = q_learning.Config(env=rljax.make("FrozenLake-misc"), **FIELDS)
    rljax.run(q_learning, config, sweep={"step_size": [0.0, 0.5]}, out=tmp_path / "x", **OPTIONS)
    command = ["export", str(tmp_path / "x"), "--format", "numpy", "--out", str(tmp_path / "x.npz")]
    found = []
    for more in ([], ["--configuration", "0"], ["--configuration", "1"]):
        assert cli.main([*command, *more]) == 0
        metadata = loader.load(str(tmp_path / "x.npz"))[1]
        number, values = metadata["configuration"], metadata["values"]
        assert values == {"step_size": [0.0, 0.5][number]}
        assert f"FrozenLake-misc, configuration {number} (step_size {values['step_size']:g})" in capsys.readouterr().out
        found.append(number)
    assert found[1:] == [0, 1]


def test_a_safetensors_header_of_any_length_is_no_zip_file(folder, tmp_path):
    path, _ = rljax.export_policy(folder, tmp_path / "x.safetensors", "safetensors", seed=0)
    expected, data = actions(path), path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    length = int.from_bytes(b"PK\0", "little") + 2**16  # which begins a zip file's first four bytes
    path.write_bytes(length.to_bytes(8, "little") + data[8:size].ljust(length) + data[size:])
    np.testing.assert_array_equal(actions(path), expected)


def test_the_loader_needs_only_numpy(folder, tmp_path):
    for format in ("numpy", "safetensors"):
        path, _ = rljax.export_policy(folder, tmp_path / format, format, seed=0)
        code = (
            "import sys, numpy as np, rljax_policy\n"
            f"act, _ = rljax_policy.load({str(path)!r})\n"
            "print(act({'obs': np.arange(500, dtype=np.int32)})['action'].tolist())\n"
            "print([name for name in ('jax', 'rljax', 'safetensors') if name in sys.modules])"
        )
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=tmp_path, env=alone, capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        assert json.loads(lines[0]) == actions(path).tolist()
        assert lines[1] == "[]"


def test_the_command_exports_every_format(folder, tmp_path, capsys):
    for format in ("stablehlo", "onnx", "safetensors", "numpy"):
        out = tmp_path / "deep" / f"x.{format}"
        assert cli.main(["export", str(folder), "--format", format, "--out", str(out), "--seed", "1"]) == 0
        assert "the policy of seed 1 of q_learning in Taxi-v3" in capsys.readouterr().out
        assert out.exists()
    session = onnxruntime.InferenceSession(tmp_path / "deep" / "x.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"obs": OBS})[0], actions(tmp_path / "deep" / "x.numpy"))
    exported = jax.export.deserialize(bytearray((tmp_path / "deep" / "x.stablehlo").read_bytes()))
    np.testing.assert_array_equal(exported.call(OBS)[0], actions(tmp_path / "deep" / "x.numpy"))


INVALID = {
    "no folder": (["{tmp}/none", "--format", "onnx", "--out", "{tmp}/x"], "is not the folder of a run"),
    "no format": (["{run}", "--out", "{tmp}/x"], "--format"),
    "format": (["{run}", "--format", "tflite", "--out", "{tmp}/x"], "tflite"),
    "seed": (["{run}", "--format", "numpy", "--out", "{tmp}/x", "--seed", "9"], "There is no seed 9"),
    "checkpoint": (["{run}", "--format", "numpy", "--out", "{tmp}/x", "--checkpoint", "first"], "--checkpoint is"),
    "update": (["{run}", "--format", "numpy", "--out", "{tmp}/x", "--checkpoint", "3"], "checkpoint is 'last'"),
    "configuration": (["{run}", "--format", "numpy", "--out", "{tmp}/x", "--configuration", "4"], "no configuration 4"),
    "a folder as out": (["{run}", "--format", "numpy", "--out", "{tmp}"], "is a folder"),
    "below a file": (["{run}", "--format", "numpy", "--out", "{run}/config.json/x"], "cannot be created"),
    "no name": (["--format", "numpy"], "Name the run's folder"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_exports_end_in_one_sentence(name, folder, tmp_path, capsys):
    arguments, sentence = INVALID[name]
    given = [text.format(run=folder, tmp=tmp_path) for text in arguments]
    assert cli.main(["export", *given]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert sentence in lines[0]


def test_a_file_of_the_loaders_name_is_kept(folder, tmp_path):
    (tmp_path / "rljax_policy.py").write_text("mine = 1\n")
    with pytest.raises(rljax.UsageError, match="write to another folder"):
        rljax.export_policy(folder, tmp_path / "x.npz", "numpy")
    assert (tmp_path / "rljax_policy.py").read_text() == "mine = 1\n"


def test_a_missing_package_names_the_extra(folder, tmp_path, monkeypatch):
    for format, package in (("onnx", "onnx"), ("safetensors", "safetensors.numpy")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(rljax.UsageError, match="the extra `export`"):
            rljax.export_policy(folder, tmp_path / "x", format)


def test_a_run_without_states_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(rljax.UsageError, match="has no states"):
        rljax.export_policy(tmp_path, tmp_path / "x", "numpy")
