"""Experiments on nested observations with masks: sweeps, stops and resumes."""

import jax.numpy as jnp
import numpy as np
import pytest
from nested import robot
from resuming import OPTIONS, same_results, stopped

import rljax
from rljax import dqn, envs, ppo


def masked_robot():
    """Stacked frames, and a mask that depends on the time."""
    made = robot(rljax.Discrete(3)).replace(legal_actions=lambda time: jnp.arange(3) != time % 3)
    return envs.normalize_observations(envs.frame_stack(made, 2), only=("joints.0",))


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (ppo, {"num_envs": 2, "num_steps": 8, "num_minibatches": 2, "num_epochs": 1, "total_steps": 64}),
        (
            dqn,
            {"num_envs": 2, "num_steps": 4, "prefill_steps": 16, "buffer_size": 32, "batch_size": 4, "total_steps": 48},
        ),
    ],
    ids=["ppo", "dqn"],
)
def test_a_stopped_sweep_resumes_to_the_same_bits(algorithm, fields, tmp_path, monkeypatch):
    env = masked_robot()
    config = algorithm.Config(env=env, hidden_sizes=(4,), **fields)
    options = OPTIONS | {"seeds": 2, "evaluations": 2, "sweep": {"discount": [0.5, 0.9]}, "devices": 1}
    whole = rljax.run(algorithm, config, **options)
    stopped(monkeypatch, tmp_path / "x", algorithm, config, 2, **options)
    resumed = rljax.resume(tmp_path / "x", env=env, progress=False)
    assert len(whole.results) == 2
    for got, want in zip(resumed.results, whole.results, strict=True):
        same_results(got, want)
        assert np.isfinite(want.metrics["loss"]).all()
    if algorithm is dqn:
        assert whole.results[0].states.replay.obs.observation["camera"].dtype == np.uint8
