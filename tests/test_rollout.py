"""Rollouts: automatic resets, true successors, and episode statistics."""

import functools
import re

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import toys

import rljax
from rljax import rollout

NUM_STEPS, NUM_ENVS, LIMIT = 100, 256, 30


def coin_flips(key, obs):
    actions = jax.random.randint(key, (NUM_ENVS,), 0, 2)
    return actions, actions


@pytest.fixture(scope="module")
def ours():
    env = rljax.make("CartPole-v1", max_steps_in_episode=LIMIT)

    def run(key):
        key_reset, key_policy, key_rollout = jax.random.split(key, 3)
        start = rollout.reset(key_reset, env, NUM_ENVS)
        noise = jax.random.split(key_policy, NUM_STEPS)
        return start, *rollout.rollout(key_rollout, coin_flips, noise, start, env, NUM_STEPS)

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(3)))


@pytest.fixture(scope="module")
def gymnaxs():
    """Observations, `[T + 1, N, 4]`, and ends `[T, N]`, of gymnax's own loop with its own automatic reset."""
    environment, params = gymnax.make("CartPole-v1")
    params = params.replace(max_steps_in_episode=LIMIT)

    def run(key):
        key_reset, key_loop = jax.random.split(key)
        obs, state = jax.vmap(environment.reset, (0, None))(jax.random.split(key_reset, NUM_ENVS), params)

        def step(state, key):
            key_policy, key_step = jax.random.split(key)
            actions, _ = coin_flips(key_policy, None)
            keys = jax.random.split(key_step, NUM_ENVS)
            following, state, _, terminated, truncated, _ = jax.vmap(environment.step, (0, 0, 0, None))(
                keys, state, actions, params
            )
            return state, (following, terminated, truncated)

        _, (following, terminated, truncated) = jax.lax.scan(step, state, jax.random.split(key_loop, NUM_STEPS))
        return jnp.concatenate([obs[None], following]), terminated, truncated

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(4)))


def episode_lengths(ended):
    """Lengths of all whole episodes in flags `[T, N]`."""
    return np.concatenate([np.diff(np.flatnonzero(column), prepend=-1) for column in ended.T])


def test_automatic_resets_have_the_distribution_of_gymnax(ours, gymnaxs):
    _, _, trajectory, _ = ours
    ended = trajectory.terminated | trajectory.truncated
    their_obs, terminated, truncated = gymnaxs
    theirs_ended = terminated | truncated

    lengths, theirs = episode_lengths(ended), episode_lengths(theirs_ended)
    assert min(len(lengths), len(theirs)) > 800
    assert lengths.max() == theirs.max() == LIMIT
    assert scipy.stats.ks_2samp(lengths, theirs).pvalue > 1e-3

    firsts, their_firsts = trajectory.obs[1:][ended[:-1]], their_obs[1:][theirs_ended]
    assert np.all(np.abs(firsts) <= 0.05)
    for dimension in range(4):
        assert scipy.stats.ks_2samp(firsts[:, dimension], their_firsts[:, dimension]).pvalue > 1e-3
        assert scipy.stats.kstest(firsts[:, dimension], "uniform", args=(-0.05, 0.1)).pvalue > 1e-3

    # Of the episodes that end, as many end by the time limit.
    counts = [[trajectory.terminated.sum(), trajectory.truncated.sum()], [terminated.sum(), truncated.sum()]]
    assert min(counts[0]) > 50
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


def test_all_resets_differ(ours):
    start, collector, trajectory, _ = ours
    ended = trajectory.terminated | trajectory.truncated
    resets = np.concatenate([start.obs, trajectory.obs[1:][ended[:-1]], collector.obs[ended[-1]]])
    assert len(resets) == NUM_ENVS + ended.sum()
    assert len(np.unique(resets, axis=0)) == len(resets)
    # The numbers differ too, in every single dimension: no reset is another one shifted.
    for dimension in range(4):
        assert len(np.unique(resets[:, dimension])) > 0.99 * len(resets)


def test_next_obs_is_the_true_successor(ours):
    start, collector, trajectory, _ = ours
    obs, next_obs = trajectory.obs, trajectory.next_obs
    ended = trajectory.terminated | trajectory.truncated
    assert np.array_equal(obs[0], start.obs)
    # Euler's step moves positions by the velocities before it, also in the step that ends an episode.
    assert np.allclose(next_obs[..., [0, 2]], obs[..., [0, 2]] + 0.02 * obs[..., [1, 3]], atol=1e-5)
    limits = np.array([2.4, 12 * 2 * np.pi / 360])
    beyond = np.any(np.abs(next_obs[..., [0, 2]]) > limits, axis=-1)
    assert np.array_equal(beyond, trajectory.terminated)

    following = np.concatenate([obs[1:], collector.obs[None]])
    assert np.allclose(following[~ended], next_obs[~ended], rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(following[ended]) <= 0.05)
    assert not np.any(np.all(following[ended] == next_obs[ended], axis=-1))


def test_episode_statistics_count_whole_episodes(ours):
    _, collector, trajectory, metrics = ours
    ended = trajectory.terminated | trajectory.truncated
    lengths = episode_lengths(ended)
    assert metrics["episodes"] == len(lengths)
    assert metrics["reward"] == 1.0
    assert np.isclose(metrics["episode_length"], lengths.mean(), rtol=1e-5)
    assert np.isclose(metrics["episode_return"], lengths.mean(), rtol=1e-5)  # a reward of one a step
    running = [NUM_STEPS - 1 - (np.flatnonzero(column)[-1] if column.any() else -1) for column in ended.T]
    assert collector.episode_length.tolist() == running
    assert collector.env_state.time.tolist() == running
    assert np.array_equal(collector.episode_return, np.array(running, np.float32))


def counter(limit=5):
    """Observes its own time; the reward is the action; ends after `limit` steps."""

    def reset(key, params):
        return jnp.zeros(1), jnp.int32(0)

    def step(key, state, action, params):
        state = state + 1
        return rljax.timestep(state[None].astype(jnp.float32), action, state >= limit), state

    return rljax.Env(
        reset=reset,
        step=step,
        observation_space=rljax.Box(0.0, float(limit), (1,)),
        action_space=rljax.Discrete(4),
        name="counter",
    )


def test_a_rollout_carries_episodes_over_and_keeps_true_successors():
    env = counter(limit=5)
    collector = rollout.reset(jax.random.key(0), env, num_envs=2)

    def policy(noise, obs):
        return jnp.full(2, 2, jnp.int32), obs[:, 0]

    play = jax.jit(
        lambda key, collector: rollout.rollout(key, policy, jnp.zeros((4, 2)), collector, env, 4),
    )
    collector, first, metrics = play(jax.random.key(1), collector)
    np.testing.assert_array_equal(first.obs[:, 0, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(first.next_obs[:, 0, 0], [1, 2, 3, 4])
    assert int(metrics["episodes"]) == 0
    assert np.isnan(metrics["episode_return"])
    collector, second, metrics = play(jax.random.key(2), collector)
    np.testing.assert_array_equal(second.obs[:, 1, 0], [4, 0, 1, 2])
    np.testing.assert_array_equal(second.next_obs[:, 1, 0], [5, 1, 2, 3])
    np.testing.assert_array_equal(second.terminated[:, 1], [True, False, False, False])
    np.testing.assert_array_equal(second.action, second.obs[..., 0])
    assert int(metrics["episodes"]) == 2
    assert float(metrics["episode_return"]) == 10.0
    assert float(metrics["episode_length"]) == 5.0
    np.testing.assert_array_equal(collector.episode_return, [6.0, 6.0])


def lottery():
    """Episodes of one to three steps that observe, from beginning to end, the number that their reset drew."""

    def reset(key, params):
        number = jax.random.randint(key, (), 0, 2**30)
        return number, (number, jnp.int32(0))

    def step(key, state, action, params):
        number, time = state
        return rljax.timestep(number, 1.0, time + 1 > number % 3), (number, time + 1)

    space = rljax.Discrete(2**30)
    return rljax.Env(reset=reset, step=step, observation_space=space, action_space=rljax.Discrete(2))


def play_lottery(key, num_envs=3, num_steps=40, expensive=False):
    env = lottery().replace(expensive=expensive)
    collector = rollout.reset(jax.random.key(0), env, num_envs)
    noise = jnp.zeros((num_steps, num_envs), jnp.int32)
    return rollout.rollout(key, lambda noise, obs: (noise, ()), noise, collector, env, num_steps)


expensive_lottery = functools.partial(play_lottery, expensive=True)


def test_every_episode_begins_with_a_different_reset():
    _, seen, metrics = jax.jit(play_lottery)(jax.random.key(1))
    begun = np.roll(seen.terminated, 1, axis=0)
    begun[0] = True
    numbers = np.asarray(seen.obs)[begun]
    assert len(numbers) > 50  # many more than are drawn at a time
    assert len(np.unique(numbers)) == len(numbers)
    lengths = np.asarray(seen.obs)[np.asarray(seen.terminated)] % 3 + 1
    assert float(metrics["episode_length"]) == pytest.approx(lengths.mean(), rel=1e-6)


@pytest.mark.parametrize("stock", [1, 3, 40])
def test_the_number_of_resets_drawn_at_once_does_not_change_the_bits(monkeypatch, stock):
    expected = jax.jit(play_lottery)(jax.random.key(1))
    monkeypatch.setattr(rollout, "RESETS_PER_DRAW", stock)
    jax.clear_caches()
    jax.tree.map(np.testing.assert_array_equal, jax.jit(play_lottery)(jax.random.key(1)), expected)


@pytest.mark.parametrize("stock", [1, 3, 40])
def test_expensive_resets_are_the_same_whenever_they_are_drawn(monkeypatch, stock):
    expected = jax.jit(play_lottery)(jax.random.key(1))
    monkeypatch.setattr(rollout, "EXPENSIVE_RESETS_PER_DRAW", stock)
    jax.clear_caches()
    jax.tree.map(np.testing.assert_array_equal, jax.jit(expensive_lottery)(jax.random.key(1)), expected)


@pytest.mark.parametrize(("expensive", "drawn"), [(False, [16, 16, 16]), (True, [0, 4, 4])])
def test_expensive_resets_are_not_drawn_before_an_episode_has_ended(expensive, drawn):
    """Four environments, three rollouts of four steps; all episodes have five steps and end at steps 5 and 10."""
    env, keys = counter(limit=5).replace(expensive=expensive), []

    def reset(key, params):
        jax.debug.callback(lambda _: keys.append(0), jax.random.key_data(key))
        return counter(limit=5).reset(key, params)

    env = env.replace(reset=reset)
    collector = rollout.reset(jax.random.key(0), env, 4)
    noise = jnp.zeros((4, 4), jnp.int32)
    play = jax.jit(
        lambda key, collector: rollout.rollout(key, lambda noise, obs: (noise, ()), noise, collector, env, 4)[0]
    )
    counts = []
    for seed in range(3):
        jax.effects_barrier()
        keys.clear()
        collector = jax.block_until_ready(play(jax.random.key(seed), collector))
        jax.effects_barrier()
        counts.append(len(keys))
    assert counts == drawn


@pytest.mark.parametrize("play_lottery", [play_lottery, expensive_lottery], ids=["cheap", "expensive"])
def test_vmapped_runs_draw_different_resets_in_a_branch(play_lottery):
    keys = jax.random.split(jax.random.key(1), 4)
    program = jax.jit(jax.vmap(play_lottery)).lower(keys).compile()
    assert re.search(r"\bconditional\(", program.as_text())  # a select would draw at every step
    _, together, _ = program(keys)
    alone = [jax.jit(play_lottery)(key)[1].obs for key in keys]
    np.testing.assert_array_equal(together.obs, np.stack(alone))
    assert len(np.intersect1d(together.obs[0, 3:], together.obs[1, 3:])) == 0


def test_every_step_and_every_reset_has_a_different_key():
    """Episodes of one step: what is observed at the beginning and in the end shows the key."""

    def reset(key, params):
        return jax.random.uniform(key, (1,)), jnp.int32(0)

    def step(key, state, action, params):
        return rljax.timestep(jax.random.uniform(key, (1,)), 0.0, True), state

    env = counter().replace(reset=reset, step=step)
    collector = rollout.reset(jax.random.key(0), env, 3)
    noise = jnp.zeros((20, 3), jnp.int32)
    _, seen, _ = rollout.rollout(jax.random.key(1), lambda noise, obs: (noise, ()), noise, collector, env, 20)
    assert len(np.unique([seen.obs, seen.next_obs])) == 2 * 20 * 3


def test_where_any_computes_only_if_any_element_needs_it():
    def halved(mask, x):
        return rollout.where_any(mask, lambda: x / 2, x)

    x, mask = jnp.arange(6.0).reshape(2, 3), jnp.array([[False, True, False], [False, False, False]])
    expected = np.where(mask, x / 2, x)
    np.testing.assert_array_equal(halved(mask, x), expected)
    np.testing.assert_array_equal(jax.vmap(halved)(mask, x), expected)  # in one run and not in the other
    np.testing.assert_array_equal(halved(jnp.zeros_like(mask), x), x)
    program = jax.jit(jax.vmap(halved)).lower(mask, x).compile()
    assert re.search(r"\bconditional\(", program.as_text())  # a select would compute at every call


@pytest.mark.parametrize("algorithm", [rljax.ppo, rljax.dqn], ids=["ppo", "dqn"])
def test_an_observation_of_several_arrays_is_refused_by_train_itself(algorithm):
    env = toys.walk.replace(reset=lambda key, params: ((jnp.zeros(1), jnp.zeros(1)), jnp.int32(0)))
    with pytest.raises(rljax.UsageError, match=r"^walk: .*not one array: declare .*, or flatten it into one\.$"):
        algorithm.train(jax.random.key(0), algorithm.Config(env=env))
