"""Compiled programs: blocks that fit the cache, and programs that are reused."""

import dataclasses

import jax
import numpy as np
import pytest

import rljax
from rljax import core, ppo
from rljax.experiment import compilation


@pytest.fixture(scope="module")
def config():
    env = rljax.make("CartPole-v1", max_steps_in_episode=60)  # in longer ones rounding tips the pole
    return ppo.Config(env=env, total_steps=640, num_envs=4, num_steps=16, num_minibatches=2, hidden_sizes=(16,))


@pytest.mark.parametrize(("width", "together", "devices"), [(3000, 1, 1), (750, 3, 1), (1400, 2, 2)])
def test_runs_in_blocks_are_equal_to_rounding(config, monkeypatch, width, together, devices):
    """Six runs a device, of which one, four or two fit in half a MiB; three is the nearest size that divides six."""
    if len(jax.devices()) < devices:
        pytest.skip("JAX shows one device only")
    config = dataclasses.replace(config, hidden_sizes=(width,))
    sizes, map_blocks = [], jax.lax.map
    monkeypatch.setattr(jax.lax, "map", lambda f, xs: sizes.append(xs[0].shape[:2]) or map_blocks(f, xs))
    options = {"seed": 5, "evaluations": 0, "eval_episodes": 20, "progress": False, "devices": devices}
    blocks = rljax.run(ppo, config, seeds=6 * devices, **options)
    assert set(sizes) == {(6 // together, together)}

    @jax.jit
    @jax.vmap
    def train_and_evaluate(key):
        state, _ = ppo.train(key, config)
        key_final = jax.random.fold_in(jax.random.split(core.training_keys(key)[2])[1], 0)
        return state, rljax.evaluate(key_final, config.env, ppo.act(state, config), 20).mean()

    states, returns = train_and_evaluate(jax.random.split(jax.random.key(5), 6 * devices))
    for ours, theirs in zip(jax.tree.leaves(blocks.states), jax.tree.leaves(states), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(blocks.summary["final_return"]["per_seed"], returns, rtol=0.1)


@pytest.mark.parametrize("algorithm", [rljax.dqn, rljax.sac])
def test_blocks_fit_the_cache_unless_replay_buffers_are_large(algorithm):
    def block_and_bytes(buffer_size):
        config = algorithm.Config(env=rljax.make("CartPole-v1"), buffer_size=buffer_size)
        states = jax.eval_shape(jax.vmap(algorithm.init, (0, None)), jax.random.split(jax.random.key(0), 64), config)
        without = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states._replace(replay=()))) // 64
        return compilation._block(states, 64, jax.make_mesh((1,), ("runs",))), without

    assert block_and_bytes(100_000)[0] == 64
    block, touched = block_and_bytes(2_000)
    assert block * touched <= 2**19 < (block + 1) * touched
