"""The bridge to environments on the host: seeds, copies of states, pools that are closed, and errors."""

import functools

import host_worlds  # noqa: F401 - registers Walk-v0 and Failing-v0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_reference import random_actions
from tiny_ppo import TINY, two_keys
from toys import in_chunks_of

import rljax
from rljax import ppo, rollout
from rljax.envs import pools
from rljax.errors import UsageError
from rljax.experiment import loop

WALK = rljax.make("gymnasium/Walk-v0")
STEPS, ENVS = 6, 3
ACTIONS = random_actions(WALK, STEPS, ENVS)
KEY = jax.random.key(5)

reset = functools.partial(rollout.reset, env=WALK, num_envs=ENVS)


def advance(collector):
    collector, trajectory, _ = rollout.rollout(KEY, lambda a, _: (a, a), ACTIONS, collector, WALK, STEPS, raw=True)
    return collector, trajectory


reset_all, advance_all = jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(advance))
advance_one = jax.jit(advance)


def take(tree, rows):
    return jax.tree.map(lambda x: x[np.array(rows)], tree)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_sees_the_same_alone_and_next_to_others_and_seeds_differ():
    _, together = advance_all(reset_all(two_keys()))
    for row, key in enumerate(two_keys()):
        same(jax.tree.map(lambda x, row=row: x[row], together), advance_one(reset(key))[1])
    assert np.all(np.asarray(together.obs["place"][0]) != np.asarray(together.obs["place"][1]))
    same(together, advance_all(reset_all(two_keys()))[1])


def test_a_state_right_after_reset_can_be_used_again():
    start = reset_all(two_keys())
    _, first = advance_all(start)
    same(first, advance_all(start)[1])
    copies = take(start, [1, 1, 0])  # as if a key was not batched
    _, three = advance_all(copies)
    same(three, take(first, [1, 1, 0]))


def test_an_older_state_restarts_its_episodes_with_a_truncated_step():
    once, _ = advance_all(reset_all(two_keys()))
    _, newest = advance_all(once)
    twice, restarted = advance_all(once)
    assert not np.any(newest.truncated[:, 0] & (newest.reward[:, 0] == 0))
    assert np.all(restarted.truncated[:, 0])
    assert not np.any(restarted.terminated[:, 0])
    np.testing.assert_array_equal(restarted.reward[:, 0], 0.0)
    same(take(restarted.next_obs, [0, 1])["place"][:, 0], once.obs["place"])
    assert np.all(np.asarray(restarted.obs["place"][:, 1]) != np.asarray(once.obs["place"]))
    _, later = advance_all(twice)  # from then on it is an ordinary state
    assert not np.any(later.truncated[:, 0] & (later.reward[:, 0] == 0.0))


def test_only_the_second_copy_of_a_state_restarts():
    """Population-based training copies runs."""
    once, _ = advance_all(reset_all(two_keys()))
    _, trajectory = advance_all(take(once, [0, 0]))
    np.testing.assert_array_equal(np.all(trajectory.truncated[:, 0], axis=1), [False, True])
    assert np.all(np.asarray(trajectory.obs["place"][0, 1]) != np.asarray(trajectory.obs["place"][1, 1]))


def test_a_state_of_another_process_restarts_with_seeds_that_follow_from_it():
    once, _ = advance_all(reset_all(two_keys()))

    def elsewhere():
        numbers = once.env_state.number - pools.POOLS._start - 10_000
        return once._replace(env_state=once.env_state._replace(number=numbers % 2**29))

    _, first = advance_all(elsewhere())
    assert np.all(first.truncated[:, 0])
    same(first, advance_all(elsewhere())[1])


def test_pools_are_closed_and_a_closed_one_is_refused_in_one_sentence():
    pools.POOLS.close_all()
    oldest = reset_all(two_keys())
    advance_all(oldest)
    kept = pools._KEPT * jax.local_device_count()
    for _ in range(kept + 3):
        reset_all(two_keys())
    assert len(pools.POOLS) == 2 * kept
    assert sum(map(len, pools.POOLS._calls.values())) == len(pools.POOLS._call_of) == 2 * kept
    with pytest.raises(UsageError, match=r"were closed, since .* newer calls of reset"), pools.failures():
        jax.block_until_ready(advance_all(oldest))


def test_evaluations_close_their_pools():
    pools.POOLS.close_all()
    config = ppo.Config(env=rljax.make("gymnasium/CartPole-v1"), **TINY)
    state = jax.jit(ppo.init)(jax.random.key(0), config)
    assert len(pools.POOLS) == 1
    evaluate = jax.jit(jax.vmap(lambda key: rljax.evaluate(key, config.env, ppo.act(state, config), 2, max_steps=5)))
    for _ in range(30):
        jax.block_until_ready(evaluate(two_keys()))
    assert len(pools.POOLS) == 1


def test_an_unbatched_key_gives_the_runs_of_a_sweep_equal_episodes():
    def first(scale):
        collector = reset(KEY)
        _, trajectory, _ = rollout.rollout(KEY, lambda a, _: (a, a), ACTIONS, collector, WALK, STEPS, raw=True)
        return trajectory.reward * scale, trajectory.truncated

    rewards, truncated = jax.jit(jax.vmap(first))(jnp.array([1.0, 2.0, 1.0]))
    np.testing.assert_array_equal(rewards[0], rewards[2])
    np.testing.assert_array_equal(2 * rewards[0], rewards[1])
    assert not np.any(truncated)


def test_an_error_of_an_environment_is_one_sentence():
    env = rljax.make("gymnasium/Failing-v0", when=9)
    config = ppo.Config(env=env, **TINY)
    with pytest.raises(UsageError) as failure:
        rljax.run(ppo, config, seeds=2, evaluations=0, eval_episodes=2, progress=False)
    message = str(failure.value)
    assert message.startswith("gymnasium/Failing-v0 failed in its step: ZeroDivisionError: the wheel came off")
    assert "\n" not in message
    with pytest.raises(jax.errors.JaxRuntimeError, match="the wheel came off"):
        jax.block_until_ready(jax.jit(ppo.train)(KEY, config))


@pytest.mark.slow
def test_the_end_of_a_process_is_one_sentence():
    env = rljax.make("gymnasium/Failing-v0", when=9, dies=True, processes=True)
    with pytest.raises(UsageError, match="failed in its step: ChildProcessError: the process of an environment has"):
        rljax.run(ppo, ppo.Config(env=env, **TINY), evaluations=0, eval_episodes=2, progress=False)


def test_sharding_of_environments_is_refused():
    config = ppo.Config(env=rljax.make("gymnasium/CartPole-v1"), **TINY)
    with pytest.raises(UsageError, match='cannot be sharded by environments: use shard="runs"'):
        rljax.run(ppo, config, shard="envs", devices=2, progress=False)


def test_a_run_resumes_with_new_episodes(tmp_path, capfd, monkeypatch):
    config = ppo.Config(env=rljax.make("gymnasium/CartPole-v1"), **TINY | {"total_steps": 320})
    options = {"seeds": 2, "evaluations": 0, "eval_episodes": 2, "progress": False}

    def stop(progress):
        if progress.updates >= 9:
            progress.stop()

    monkeypatch.setattr(loop, "train", in_chunks_of(3))
    stopped = rljax.run(ppo, config, out=tmp_path / "run", callback=stop, **options)
    assert stopped.metrics["loss"].shape[1] < 20
    pools.POOLS.close_all()
    pools.POOLS._start = pools.POOLS._next  # as in another process
    result = rljax.resume(tmp_path / "run", progress=False)
    assert result.metrics["loss"].shape == (2, 20)
    assert np.all(np.isfinite(result.metrics["loss"]))
    assert "their episodes begin anew" in capfd.readouterr().err
    assert result.evaluate(3).returns.shape == (2, 3)
    assert len(result.watch(seeds=[0], max_steps=20).pictures) > 1
