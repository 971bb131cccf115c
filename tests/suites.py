"""What the adapters of all suites must keep: compared with the suite's own step, rebuilt, and stopped and resumed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from resuming import OPTIONS, same_results, stopped
from tiny_ppo import TINY
from toys import optimized, same_structure

import rljax
from rljax import envs, ppo
from rljax.envs.masks import masked, plain, random_action
from rljax.envs.suites.adapting import in_32_bits

NUM_ENVS = 8
STOCK = 16  # starts of episodes for each environment, drawn before the steps


def compared(env, reset, step, num_steps=1_000, seed=0):
    """Play random steps in 8 environments, and the same in the suite's own; assert equal observations and rewards.

    Args:
        reset: the suite's, `key -> (obs, state)`.
        step: the suite's, without automatic reset, `(key, state, action) -> (obs, reward, terminated, truncated,
            state)`.

    Returns:
        our time steps `[T, 8]`, and the suite's two flags `[T, 8]`.
    """
    engine = masked(env)

    def one(stock, carry, inputs):
        obs, state, theirs = carry
        time, key = inputs
        key_action, key_step = jax.random.split(key)
        action = random_action(env.action_space, key_action, obs)
        result, state = engine.step(key_step, state, action, env.params)
        expected, reward, terminated, truncated, theirs = in_32_bits(step(key_step, theirs, action))
        ended = result.terminated | result.truncated
        fresh, fresh_theirs = jax.tree.map(lambda x: x[time % STOCK], stock)
        result, state = envs.begin_next_episode(result, state, *fresh)
        theirs = jax.tree.map(lambda old, new: jnp.where(ended, new, old), theirs, fresh_theirs)
        seen = result._replace(obs=(), next_obs=plain(result.next_obs))
        return (result.obs, state, theirs), (seen, expected, jnp.float32(reward), terminated, truncated)

    def play(key):
        key_resets, key_steps = jax.random.split(key)
        keys = jax.random.split(key_resets, STOCK)
        ours = jax.vmap(engine.reset, (0, None))(keys, env.params)
        first, theirs = in_32_bits(jax.vmap(reset)(keys))  # without weak types, so that a scan can carry it
        start = jax.tree.map(lambda x: x[0], (*ours, theirs))
        inputs = (jnp.arange(num_steps), jax.random.split(key_steps, num_steps))
        return (plain(ours[0]), first), jax.lax.scan(partial(one, (ours, theirs)), start, inputs)[1]

    with optimized():
        starts, steps = jax.jit(jax.vmap(play, out_axes=(0, 1)))(jax.random.split(jax.random.key(seed), NUM_ENVS))
    (result, expected, reward, *flags) = jax.tree.map(np.asarray, steps)
    same(*starts)
    same(result.next_obs, expected)
    np.testing.assert_allclose(result.reward, reward, rtol=1e-6, atol=1e-7)
    return result, *flags


def same(left, right):
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    assert len(left) == len(right) > 0
    for x, y in zip(left, right, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def assert_made_again_is_the_same(name, **settings):
    env = rljax.make(name, **settings)
    assert env.name == name
    for other in (rljax.make(name, **settings), envs.remake(env.recipe)):
        assert same_structure(env, other)


def assert_32_bits_under_x64(env):
    with jax.enable_x64(True):
        obs, state = jax.eval_shape(env.reset, jax.random.key(0), env.params)
        action = jax.eval_shape(env.action_space.sample, jax.random.key(0))
        result, after = jax.eval_shape(env.step, jax.random.key(0), state, action, env.params)
    before, after = jax.tree.leaves((obs, state)), jax.tree.leaves((result.next_obs, after))
    assert [(x.shape, x.dtype) for x in before] == [(x.shape, x.dtype) for x in after]
    for x in [*before, *after, *jax.tree.leaves(result)]:
        assert not x.weak_type
        assert jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or x.dtype.itemsize <= 4


def assert_resumes_to_the_bit(monkeypatch, tmp_path, env, algorithm=ppo, **fields):
    """A run that dies after two checkpoints and is resumed equals one that was not disturbed."""
    config = algorithm.Config(env=env, **{**TINY, "total_steps": 64, **fields})
    options = {**OPTIONS, "seeds": 2, "evaluations": 0, "eval_episodes": 2}
    whole = rljax.run(algorithm, config, out=tmp_path / "whole", **options)
    stopped(monkeypatch, tmp_path / "cut", algorithm, config, saves=2, **options)
    same_results(rljax.resume(tmp_path / "cut", progress=False), whole)  # the environment is made from config.json
