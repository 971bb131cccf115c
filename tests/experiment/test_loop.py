"""A batch's loop on the host: the length of its chunks, frozen runs, final evaluations."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from toys import own, same_bits

import rljax
from rljax import core, evaluation
from rljax.experiment import loop


@pytest.mark.parametrize("most", [1, 7, 50])
def test_a_diverged_run_is_frozen_and_reported(config, monkeypatch, tmp_path, most, capsys):
    """Its state is that of the last update at which it was finite, however the run was cut into chunks."""
    monkeypatch.setattr(loop, "train", toys.in_chunks_of(most))
    options: dict[str, Any] = {"seeds": 8, "evaluations": 1, "eval_episodes": 5}
    well = rljax.run(own, config, progress=False, **options)
    poisoned = dataclasses.replace(config, poison_at=20)
    result = rljax.run(own, poisoned, out=tmp_path / "x", **options)
    first = np.asarray(well.states.params)
    bad = np.flatnonzero(first[:, 0] > 0)
    late = first[:, 1] > 0
    assert 0 < len(bad) < 8
    assert len(set(late[bad])) == 2  # two updates apart
    assert result.summary["diverged"] == [
        {"seed": i, "update": 20 + late[i], "env_steps": 10 * (20 + late[i])} for i in bad
    ]
    keys = jax.random.split(jax.random.key(0), 8)
    for i in range(8):
        length = 20 + int(late[i]) if i in bad else 50
        alone = jax.jit(lambda key, c: core.train(own.init, own.update, key, c))(
            keys[i], dataclasses.replace(config, num_updates=length)
        )
        assert same_bits(jax.tree.map(lambda x, i=i: x[i], result.states), alone[0])
        np.testing.assert_array_equal(result.metrics["episode_return"][i, :length], alone[1]["episode_return"])
        assert np.all(np.isnan(result.metrics["episode_return"][i, length:]))
        assert result.metrics["env_steps"][i, -1] == 10 * min(length + 1, 50)
    healthy = np.setdiff1d(np.arange(8), bad)
    assert same_bits(jax.tree.map(lambda x: x[healthy], result.states), jax.tree.map(lambda x: x[healthy], well.states))
    # Counted with what they were, not left out.
    assert result.summary["final_return"]["not_finite"] == []
    assert json.loads((tmp_path / "x/summary.json").read_text())["diverged"] == result.summary["diverged"]
    assert "diverged after" in capsys.readouterr().out


def test_unfinished_evaluation_episodes_count_and_are_reported(capsys):
    def step(key, time, action, params):  # ends after three steps of a policy that has not gone far
        return rljax.timestep(jnp.zeros(1), 1.0, (time + 1 >= 3) & (action < 1.5)), time + 1

    config = own.Config(env=dataclasses.replace(toys.walk, step=step), num_updates=2)
    result = rljax.run(own, config, seeds=8, evaluations=1, eval_episodes=100, devices=1, progress=False)
    far = np.abs(result.states.params).sum(axis=1) >= 1.5
    assert 0 < far.sum() < 8
    np.testing.assert_array_equal(result.summary["final_return"]["per_seed"], np.where(far, evaluation.MAX_STEPS, 3))
    assert f"{100 * far.sum()} of 800 episodes of the final evaluation had not ended" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call_seconds", "expected"),
    [
        (0.0, [1, 4, 10, 10, 10, 10, 5]),  # half a second
        (1.0, [1, 4, 16, 29]),  # five seconds, as the call itself takes one
    ],
)
def test_chunks_grow_with_the_cost_of_a_call(config, monkeypatch, call_seconds, expected):
    """By a clock that moves a twentieth of a second an update."""
    now, counts, wait = 0.0, [], loop.wait

    def timed(program, *arguments):
        nonlocal now
        count = int(arguments[4]) if len(arguments) == 5 else 0
        counts.append(count)
        now += call_seconds + 0.05 * count
        return wait(program, *arguments)

    monkeypatch.setattr(loop, "wait", timed)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    rljax.run(own, config, seeds=3, evaluations=0, eval_episodes=5, progress=False)
    assert [count for count in counts if count] == expected


def test_at_most_two_copies_of_the_states_exist(config, monkeypatch):
    """The memory planned for a batch is that of one call: nothing else may keep its states."""
    held = []
    wait = loop.wait

    def counted(program, *arguments):
        held.append(sum(x.shape[1:] == (77,) for x in jax.live_arrays()))
        return wait(program, *arguments)

    monkeypatch.setattr(loop, "wait", counted)
    monkeypatch.setattr(loop, "train", toys.in_chunks_of(1))
    config = dataclasses.replace(config, width=77)
    rljax.run(own, config, seeds=3, evaluations=0, eval_episodes=5, progress=False)
    assert max(held[:-1]) == 1  # before each call that trains; the evaluation at the end has those of the last two
