"""A run is named as diverged at the update in which a number stops being finite, and no other run changes."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from toys import in_chunks_of, own, walk

import rljax
from rljax import dqn
from rljax.experiment import loop

OPTIONS = {"seeds": 6, "evaluations": 0, "eval_episodes": 2, "progress": False, "devices": 1}


def spoiling(name, value):
    """The toy algorithm with finite parameters; runs whose first parameter is positive report `value` as a metric."""

    def update(key, state, config):
        new_state, metrics = toys.update(key, state, dataclasses.replace(config, poison_at=10**6))
        bad = (state.step >= config.poison_at) & (state.params[0] > 0)
        return new_state, {**metrics, name: jnp.where(bad, value, 1.0)}

    return SimpleNamespace(**{**vars(own), "update": update})


@pytest.mark.parametrize(("name", "value"), [("loss", np.nan), ("td_error", np.inf), ("success_rate", np.nan)])
def test_a_metric_that_is_not_finite_is_noticed_in_its_update(name, value, monkeypatch):
    monkeypatch.setattr(loop, "train", in_chunks_of(7))
    config = toys.Config(env=walk, num_updates=20, poison_at=9)
    result = rljax.run(spoiling(name, value), config, **OPTIONS)
    healthy = rljax.run(own, dataclasses.replace(config, poison_at=10**6), **OPTIONS)
    keys = jax.vmap(lambda key: rljax.core.training_keys(key)[0])(jax.random.split(jax.random.key(0), 6))
    bad = np.asarray(jax.vmap(toys.init, (0, None))(keys, config).params[:, 0] > 0)
    assert 0 < bad.sum() < 6
    expected = [] if name == "success_rate" else np.flatnonzero(bad).tolist()
    assert [run["seed"] for run in result.summary["diverged"]] == expected
    assert all(run["update"] == 9 for run in result.summary["diverged"])
    same = np.setdiff1d(np.arange(6), expected)
    np.testing.assert_array_equal(result.states.params[same], healthy.states.params[same])


@pytest.mark.parametrize(
    "head",
    [{"head": "quantile"}, {"head": "categorical", "value_low": -1.0, "value_high": 9.0}],
    ids=["quantile", "categorical"],
)
@pytest.mark.parametrize("reward", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_reward_that_is_not_finite_is_noticed(head, reward):
    def step(key, time, action, params):
        time = time + 1
        return rljax.timestep(jnp.ones(2) * time / 20, jnp.where(time % 7 == 0, reward, 1.0), time >= 20), time

    env = rljax.Env(
        reset=lambda key, params: (jnp.zeros(2), jnp.int32(0)),
        step=step,
        observation_space=rljax.Box(-1, 1, (2,)),
        action_space=rljax.Discrete(2),
        name="spoiled",
    )
    config = dqn.Config(
        env=env, total_steps=200, prefill_steps=100, buffer_size=100, batch_size=32, hidden_sizes=(4,), **head
    )
    result = rljax.run(dqn, config, **{**OPTIONS, "seeds": 1})
    assert [run["seed"] for run in result.summary["diverged"]] == [0]
