"""The examples do what they show."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest
import toys
from PIL import Image
from tiny_ppo import TINY

import rljax
from rljax import cli, schedules

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def imported(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


ALL = {"torso", "actor", "critic"}

KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import toys
from rljax import cli
from rljax.experiment import checkpoints, loop

save, saves = checkpoints.Writer.save, []

def save_and_die(writer, *arguments):
    save(writer, *arguments)
    writer.close()
    saves.append(writer)
    if len(saves) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints.Writer.save = save_and_die
loop.train = toys.in_chunks_of(1)
cli.main(sys.argv[1:])
"""


def test_a_kl_penalty_is_a_few_lines_and_resumes_after_sigkill(tmp_path, monkeypatch):
    source = (EXAMPLES / "kl_penalty.py").read_text().split('"""', 2)[2]
    assert len([line for line in source.splitlines() if line.strip()]) < 30
    example = imported("kl_penalty")
    monkeypatch.chdir(tmp_path)
    options = [f"--{name.replace('_', '-')}" for name in TINY]
    values = [str(value[0] if isinstance(value, tuple) else value) for value in TINY.values()]
    arguments = ["train", f"{EXAMPLES}/kl_penalty.py:ppo_kl", "--env", "CartPole-v1", "--out", "x", "--seeds", "2"]
    arguments += ["--kl-coefficient", "linear(1, 0.5)", "--checkpoint-every", "0", "--evaluations", "1"]
    arguments += [part for pair in zip(options, values, strict=True) for part in pair]
    path = [str(EXAMPLES.parent), str(pathlib.Path(toys.__file__).parent)]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    command = [sys.executable, "-c", KILLED.format(path=path), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "x/summary.json").exists()
    assert cli.main(["resume", "x", "--no-progress"]) == 0
    config = example.Config(env="CartPole-v1", kl_coefficient=schedules.linear(1, 0.5), **TINY)
    keys = jax.random.split(jax.random.key(0), 2)
    states, metrics = jax.jit(jax.vmap(example.ppo_kl.train, (0, None)))(keys, config)
    loaded = rljax.load(tmp_path / "x", algorithm=example.ppo_kl)
    for got, want in zip(jax.tree.leaves(loaded.states.params), jax.tree.leaves(states.params), strict=True):
        assert abs(got - want).max() < 1e-5
    assert metrics["kl_coefficient"][0].tolist() == [1.0, 0.75]
    assert (metrics["kl"] > 0.0).all()


def test_custom_networks_train_and_a_frozen_torso_is_not_learned():
    results = imported("custom_networks").main(seeds=2, **{k: v for k, v in TINY.items() if k != "hidden_sizes"})
    parts = {name: set(state.params.get("params", state.params)) for name, (state, _) in results.items()}
    assert parts == {"linen": ALL, "nnx": ALL, "frozen torso": ALL - {"torso"}}
    for state, metrics in results.values():
        assert (metrics["gradient_norm"] > 0).all()
        assert all((x[0] != x[1]).any() for x in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_a_search_ends_on_fresh_seeds(tmp_path, capsys):
    assert len((EXAMPLES / "tune_acrobot.py").read_text().splitlines()) < 80
    results = imported("tune_acrobot").main(str(tmp_path / "x"), samples=3, seeds=2, fresh_seeds=2, episodes=1, **TINY)
    found = rljax.load(tmp_path / "x")
    said = capsys.readouterr().out
    assert f"Best of 3: {found.summary['values']}" in said
    assert "best: -" in said
    assert results["best"].config.gae_lambda == found.config.gae_lambda
    keys = [rljax.experiment.manifest.read(folder).options.seed for folder in (tmp_path / "x", tmp_path / "x/best")]
    assert keys == [0, 1]


@pytest.mark.slow
@toys.optimized()
def test_dqn_overestimates_and_double_dqn_less(tmp_path):
    example = imported("overestimation")
    errors = example.main(str(tmp_path / "picture.png"), seeds=4)
    late = {name: curves[:, -5:].mean() for name, curves in errors.items()}
    assert late["DQN"] > 0.25
    assert late["Double DQN"] < 0.7 * late["DQN"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.slow
@toys.optimized()
def test_a_shaped_reward_finds_the_goal_sooner(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    found = imported("reward_variants").main(str(tmp_path / "picture.png"), seeds=8)
    cost, goal, shaped = found["-1 for each step"], found["1 at the goal"], found["1 at the goal, shaped"]
    assert shaped[:, 7].mean() < 30  # after 4,000 steps
    assert cost[:, 7].mean() > 150
    assert (cost[:, -1] == 14).all()
    assert goal.mean() > 190
    with Image.open(tmp_path / "picture.gif") as moving:
        assert moving.n_frames == 61


@pytest.mark.slow
def test_a_broken_sac_is_taken_apart_bug_by_bug():
    example = imported("broken_sac")
    with toys.optimized():
        bugs = set(example.BUGS)
        found, _ = example.train(bugs, 4_000)
        assert any(line.startswith("parameters-still") and "critics" in line for line in found)
        assert all("critics" in line and "always zero" in line for line in example.check(bugs, 0))
        bugs.remove("critic")
        found, numbers = example.train(bugs, 4_000)
        assert any(line.startswith("entropy-collapse") for line in found)
        assert numbers["entropy"][1] < -100  # far below the target
        assert numbers["reward"][1] < -6  # random actions get about -6
        bugs.remove("sign")
        found, numbers = example.train(bugs, 12_000)
        assert any(line.startswith("gradient-exploding") for line in found)
        assert numbers["entropy"][1] > -1
        assert numbers["temperature"][1] > numbers["temperature"][0]
        bugs.remove("temperature")
        assert example.train(bugs, 12_000)[0] == []
        found = example.check(bugs, 5_000)
        assert any("the probe termination" in line for line in found)
        assert not any("the probe reward" in line for line in found)
        assert example.check(set(), 5_000) == []


@pytest.mark.slow
def test_recommenders_are_compared_in_a_picture(tmp_path, monkeypatch, capsys):
    for name in ("recommender", "movielens"):
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["recommender", "1", "8192", "recommender/small"])
    imported("recommender").main()
    assert (tmp_path / "recommender.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    for name in ("random", "greedy, knows the person", "attention", "mean, myopic (discount 0)"):
        assert f"{name} " in said
