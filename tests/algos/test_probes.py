"""Probe environments with known values, for the algorithms that learn them in the same way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import chain, line, one_step

from rljax import a2c, dqn, ppo, pqn, reinforce, schedules


def outputs(algorithm, make, num_obs, **fields):
    """What the trained network returns for each observation, and the metrics, without and with termination."""

    @jax.jit
    @jax.vmap
    def trained(terminates):
        config = algorithm.Config(env=make(terminates), hidden_sizes=(32,), **fields)
        state, metrics = algorithm.train(jax.random.key(0), config)
        return algorithm.default_network(config.env, config).apply(state.params, jnp.eye(num_obs)), metrics

    return trained(jnp.array([False, True]))


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (ppo, {"total_steps": 16 * 8 * 300, "num_envs": 8, "num_steps": 16, "num_epochs": 4}),
        (a2c, {"total_steps": 8 * 5 * 3000, "optimizer": "adam"}),
    ],
    ids=["ppo", "a2c"],
)
def test_bootstrap_of_a_critic_is_cut_at_termination_but_not_at_truncation(algorithm, fields):
    """Discount 0.5: without an end each state is worth 1 / (1 - 0.5) = 2; before one 1.75, 1.5 and 1."""
    rate = schedules.linear(5e-3, 0)
    (_, values), _ = outputs(algorithm, line, 3, discount=0.5, learning_rate=rate, **fields)
    np.testing.assert_allclose(values[0, 0], 2.0, atol=0.02)
    np.testing.assert_allclose(values[1], [1.75, 1.5, 1.0], atol=0.02)


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (
            dqn,
            {
                "total_steps": 12_000, "prefill_steps": 200, "target_period": 20,
                "buffer_size": 2_000, "successor_slots": 500,
            },
        ),
        (pqn, {"total_steps": 60_000, "num_envs": 8, "num_steps": 16, "num_minibatches": 4}),
    ],
    ids=["dqn", "pqn"],
)  # fmt: skip
def test_bootstrap_of_action_values_is_cut_at_termination_but_not_at_truncation(algorithm, fields):
    """Discount 0.9: without an end each state is worth 1 / (1 - 0.9) = 10, with one less."""
    values, metrics = outputs(
        algorithm, chain, 5, discount=0.9, learning_rate=schedules.linear(3e-3, 0), **fields
    )  # fmt: skip
    expected = [[10.0] * 5, [(1 - 0.9**left) / 0.1 for left in (5, 4, 3, 2, 1)]]
    np.testing.assert_allclose(values[..., 0].mean(-1), expected, rtol=0.06)
    assert metrics.get("lost_successors", np.zeros(1)).max() == 0.0


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (ppo, {"total_steps": 40_000, "learning_rate": "linear(3e-3, 0)", "num_envs": 16, "num_steps": 8}),
        (a2c, {"total_steps": 80_000, "learning_rate": "linear(3e-3, 0)", "num_envs": 16, "optimizer": "adam"}),
        (
            reinforce,
            {
                "total_steps": 100_000,
                "learning_rate": "linear(1e-2, 0)",
                "num_envs": 64,
                "num_steps": 4,
                "max_episode_steps": 1,
            },
        ),
    ],
    ids=["ppo", "a2c", "reinforce"],
)
def test_continuous_actions_learn_a_known_optimum(algorithm, fields):
    config = algorithm.Config(env=one_step(), **fields)
    state, metrics = jax.jit(algorithm.train)(jax.random.key(0), config)
    action = algorithm.act(state, config)(jax.random.key(1), jnp.ones((1, 1)))
    np.testing.assert_allclose(action, [[0.3]], atol=0.03)
    if algorithm is reinforce:
        np.testing.assert_array_equal(metrics["used_steps"], 256)
