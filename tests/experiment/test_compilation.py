"""Compiled programs: blocks that fit the cache, and programs that are reused."""

import jax
import numpy as np
import pytest

import rljax
from rljax import ppo
from rljax.experiment import compilation


@pytest.fixture(scope="module")
def config():
    env = rljax.make("CartPole-v1", max_steps_in_episode=60)  # in longer ones rounding tips the pole
    return ppo.Config(env=env, total_steps=640, num_envs=4, num_steps=16, num_minibatches=2, hidden_sizes=(16,))


@pytest.mark.parametrize(
    ("fitting", "together", "devices"),
    [(4, 3, 1), *[pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 1, 1), (2, 2, 2))]],
)
def test_runs_in_blocks_are_equal_to_rounding(config, monkeypatch, fitting, together, devices):
    """Six runs a device: one at a time; three, the nearest size that divides six, if four fit; two on each of two."""
    if len(jax.devices()) < devices:
        pytest.skip("JAX shows one device only")
    state = jax.eval_shape(ppo.init, jax.random.key(0), config)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    monkeypatch.setattr(compilation, "BLOCK_BYTES", fitting * size)
    compilation.forget()
    sizes = []
    map_blocks = jax.lax.map
    monkeypatch.setattr(jax.lax, "map", lambda f, xs: sizes.append(xs[0].shape[:2]) or map_blocks(f, xs))
    options = {"seed": 5, "evaluations": 3, "eval_episodes": 30, "progress": False, "devices": devices}
    seeds = 6 * devices
    blocks = rljax.run(ppo, config, seeds=seeds, **options)
    assert set(sizes) == {(6 // together, together)}
    monkeypatch.setattr(compilation, "block_size", lambda states, lanes, mesh: lanes)
    compilation.forget()
    whole = rljax.run(ppo, config, seeds=seeds, **options)
    for ours, theirs in zip(jax.tree.leaves(blocks.states), jax.tree.leaves(whole.states), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(blocks.eval_returns, whole.eval_returns, rtol=0.1)


@pytest.mark.parametrize("algorithm", [rljax.dqn, rljax.sac])
def test_blocks_fit_the_cache_unless_replay_buffers_are_large(algorithm):
    def block_and_bytes(buffer_size):
        config = algorithm.Config(env=rljax.make("CartPole-v1"), buffer_size=buffer_size)
        states = jax.eval_shape(jax.vmap(algorithm.init, (0, None)), jax.random.split(jax.random.key(0), 64), config)
        without = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(states._replace(replay=()))) // 64
        return compilation.block_size(states, 64, jax.make_mesh((1,), ("runs",))), without

    assert block_and_bytes(100_000)[0] == 64
    block, touched = block_and_bytes(2_000)
    assert block * touched <= 2**19 < (block + 1) * touched
