"""Algorithms with another loss."""

import jax
import jax.numpy as jnp
import pytest
from tiny_ppo import TINY
from toys import same_bits

import rljax
from rljax import ppo, q_learning, td3


def test_another_loss_is_learned():
    config = ppo.Config(env="CartPole-v1", **TINY)

    def doubled(params, batch, config):
        total, metrics = ppo.loss(params, batch, config)
        return 0.0 * total, {**metrics, "twice": 2.0 * metrics["policy_loss"]}

    still = rljax.variant(rljax.variant(ppo, loss=ppo.loss, name="same"), loss=doubled, name="still")
    assert still.__name__ == "still"
    key = jax.random.key(0)
    state, metrics = jax.jit(still.train)(key, config)
    assert same_bits(state.params, ppo.init(jax.random.split(key, 3)[0], config).params)
    assert jnp.array_equal(metrics["twice"], 2.0 * metrics["policy_loss"])


def test_a_loss_that_the_algorithm_does_not_have_is_refused():
    with pytest.raises(rljax.UsageError, match="td3 has no 'actor_los' to replace: did you mean actor_loss"):
        rljax.variant(td3, actor_los=td3.actor_loss, name="x")
    with pytest.raises(rljax.UsageError, match="takes no loss"):
        rljax.variant(q_learning, loss=ppo.loss, name="x")
