"""Derivatives of training by a hyperparameter: reverse mode is finite and agrees with forward mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import pqn, reinforce

FIELDS = {"num_envs": 2, "hidden_sizes": (4,)}
CASES = {
    # No episode ends in the first update, so that its gradient is zero.
    "reinforce": (reinforce, {"num_steps": 4, "max_episode_steps": 8}, 2, 1.0),
    "pqn": (pqn, {"num_steps": 3, "num_minibatches": 1, "num_epochs": 1}, 2, 0.0),
}


def six(reward):
    """Episodes of six steps."""

    def step(key, time, action, params):
        return rljax.timestep(jnp.ones(1), reward * (action + 0.3 * time), time + 1 >= 6), time + 1

    return rljax.Env(
        reset=lambda key, params: (jnp.ones(1), jnp.int32(0)),
        step=step,
        observation_space=rljax.Box(-1, 1, (1,)),
        action_space=rljax.Discrete(2),
        name="six",
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "reinforce" else name for name in CASES]
)
def test_reverse_mode_agrees_with_forward_mode(name):
    algorithm, fields, updates, reward = CASES[name]
    steps = 2 * fields["num_steps"] * updates
    config = algorithm.Config(env=six(reward), total_steps=steps, **FIELDS, **fields)

    def size(values):
        discount, max_grad_norm = values
        changed = rljax.replace(config, discount=discount, max_grad_norm=max_grad_norm)
        state, metrics = algorithm.train(jax.random.key(0), changed)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(state.params)) + metrics["gradient_norm"].sum()

    values = jnp.array([0.9, 0.5])
    forward = jax.jit(jax.jacfwd(size))(values)
    reverse = jax.jit(jax.grad(size))(values)
    assert np.isfinite(forward).all()
    np.testing.assert_allclose(reverse, forward, rtol=1e-2, atol=1e-5)
