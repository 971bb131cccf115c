"""Healthy runs of presets: the doctor is silent, except that it names seeds that did not learn."""

import pytest

import rljax

SILENT = [
    ("ppo", "CartPole-v1", None),
    ("ppo", "Pendulum-v1", None),
    ("ppo", "MountainCar-v0", 500_000),
    ("ppo", "Breakout-MinAtar", 100_000),
    ("recurrent_ppo", "MemoryChain-bsuite", None),
    ("a2c", "CartPole-v1", 200_000),
    ("a2c", "Pendulum-v1", 300_000),
    ("reinforce", "CartPole-v1", None),
    ("pqn", "CartPole-v1", 200_000),
    ("dqn", "CartPole-v1", None),
    ("double_dqn", "CartPole-v1", None),
    ("n_step_dqn", "CartPole-v1", None),
    ("qr_dqn", "CartPole-v1", 30_000),
    ("noisy_dqn", "CartPole-v1", None),
    ("dqn", "MountainCar-v0", None),
    ("sac", "Pendulum-v1", None),
    ("ddpg", "Pendulum-v1", None),
    ("q_learning", "CliffWalking-v1", None),
    ("q_learning", "FrozenLake-misc", 200_000),
    ("q_learning", "Taxi-v3", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "env", "steps"), SILENT)
def test_healthy_presets_are_silent(algorithm, env, steps, tmp_path):
    budget = {} if steps is None else {"total_steps": steps}
    options = {"seeds": 4, "evaluations": 8, "eval_episodes": 10, "progress": False}
    rljax.run(algorithm, env, out=tmp_path / "run", **options, **budget)
    assert rljax.doctor(tmp_path / "run") == []


@pytest.mark.slow
def test_a_seed_that_failed_is_named(tmp_path):
    options = {"seeds": 4, "evaluations": 8, "eval_episodes": 10, "progress": False}
    result = rljax.run("td3", "Pendulum-v1", out=tmp_path / "run", **options)
    failed = [seed for seed, final in enumerate(result.summary["final_return"]["per_seed"]) if final < -1000]
    named = {seed for found in rljax.doctor(tmp_path / "run") for seed in found.seeds}
    assert failed
    assert set(failed) == named
