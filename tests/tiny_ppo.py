"""A PPO run of two updates, for tests of environments."""

import jax
import numpy as np

import rljax
from rljax import ppo

TINY = {"num_envs": 2, "num_steps": 8, "num_epochs": 1, "num_minibatches": 2, "hidden_sizes": (8,), "total_steps": 32}

train_two_seeds = jax.jit(jax.vmap(ppo.train, (0, None)))


def two_keys():
    return jax.random.split(jax.random.key(0), 2)


def assert_finite_losses(metrics, updates=2, seeds=2):
    for name in ("loss", "policy_loss", "value_loss", "entropy", "gradient_norm"):
        assert metrics[name].shape == (seeds, updates)
        assert np.all(np.isfinite(metrics[name])), name
    assert np.all(metrics["gradient_norm"] > 0)


def evaluate(config, state, episodes=3, max_steps=1000):
    return np.asarray(
        jax.jit(lambda key: rljax.evaluate(key, config.env, ppo.act(state, config), episodes, max_steps))(
            jax.random.key(1)
        )
    )
