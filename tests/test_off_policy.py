"""Uniform actions, and the room for true successors, of algorithms with a replay buffer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import rljax
from rljax import dqn, off_policy, sac, td3
from rljax.distributions import squashed_head


@pytest.mark.parametrize(
    "space",
    [
        rljax.Box(0, 1, (2,), bool),
        rljax.Box(0, 2, (2,), np.int32),
        rljax.Box(-3, 4, (1,), np.int8),
        rljax.Box(np.array([0, 5]), np.array([100, 7]), (2,), np.int32),
        rljax.Box(3, 3, (1,), np.int32),
        rljax.Discrete(5),
    ],
    ids=str,
)
def test_all_integers_are_equally_likely(space):
    actions = off_policy.uniform_actions(jax.random.key(0), space, (200, 300))
    drawn = np.asarray(squashed_head(space).to_action(actions)).astype(int).reshape(60_000, -1)
    if isinstance(space, rljax.Box):
        assert np.abs(actions).max() <= 1.0
        low, high = space.low, space.high
    else:
        low, high = np.zeros(1), np.full(1, space.n - 1)
    for column in range(drawn.shape[1]):
        counts = np.bincount(drawn[:, column] - int(low[column]), minlength=int(high[column] - low[column]) + 1)
        assert len(counts) == high[column] - low[column] + 1
        assert len(counts) == 1 or scipy.stats.chisquare(counts).pvalue > 1e-4


def test_uniform_actions_of_a_box_of_floats_fill_the_interval():
    actions = off_policy.uniform_actions(jax.random.key(0), rljax.Box(-2, 5, (1,)), (200, 300))
    assert scipy.stats.kstest(np.ravel(actions), "uniform", (-1, 2)).pvalue > 1e-4


@pytest.mark.parametrize("algorithm", [dqn, *[pytest.param(slow, marks=pytest.mark.slow) for slow in (sac, td3)]])
def test_a_slot_for_each_transition_loses_no_successor(algorithm):
    """With time limits under eight steps the default, an eighth of the buffer, loses some."""
    box = rljax.Box(-1, 1, (1,))
    line = rljax.Env(
        reset=lambda key, params: (jnp.zeros(1), jnp.int32(0)),
        step=lambda key, time, action, params: (rljax.timestep(jnp.ones(1), 1.0, False), time + 1),
        observation_space=box,
        action_space=rljax.Discrete(2) if algorithm is dqn else box,
    )
    config = algorithm.Config(
        env=rljax.envs.time_limit(line, 2), total_steps=64, num_envs=2, num_steps=4, gradient_steps=1,
        buffer_size=48, prefill_steps=40, hidden_sizes=(4,), batch_size=32,
    )  # fmt: skip
    for slots, loses in ((None, True), (48, False)):
        state, metrics = jax.jit(algorithm.train)(jax.random.key(0), rljax.replace(config, successor_slots=slots))
        assert len(state.replay.owners) == (slots or 6)
        lost = metrics["lost_successors"]  # a fraction of the batch
        assert (lost.max() > 0) == loses
        assert lost.max() < 1
