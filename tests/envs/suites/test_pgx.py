"""Pgx's MinAtar: its own steps, sticky actions, a time limit that truncates, and every game."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_32_bits_under_x64, assert_made_again_is_the_same, assert_resumes_to_the_bit, compared
from tiny_ppo import TINY, assert_finite_losses, train_two_seeds, two_keys

import rljax
from rljax import envs, ppo, pqn

pgx = pytest.importorskip("pgx")
IDS = [name for name in envs.registered() if name.startswith("pgx/")]
BREAKOUT = "pgx/minatar-breakout"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in IDS if name != BREAKOUT]


def of_pgx(name):
    game = pgx.make(name.removeprefix("pgx/"))

    def reset(key):
        state = game.init(key)
        return state.observation, state

    def step(key, state, action):
        after = game.step(state, action, key)
        return after.observation, after.rewards[0], after.terminated, after.truncated, after

    return reset, step


@pytest.mark.parametrize("name", [BREAKOUT, *SLOW])
def test_a_thousand_steps_are_those_of_pgx(name):
    """Pgx has no time limit, so ours is the only difference."""
    limit = 100
    result, terminated, truncated = compared(rljax.make(name, max_steps_in_episode=limit), *of_pgx(name))
    np.testing.assert_array_equal(result.terminated, terminated)
    assert not truncated.any()
    time = np.zeros(8, int)
    for t in range(len(terminated)):
        time += 1
        np.testing.assert_array_equal(result.truncated[t], time >= limit)
        time[result.terminated[t] | result.truncated[t]] = 0
    assert terminated.any() or name == "pgx/minatar-freeway"
    assert result.reward.any() or name == "pgx/minatar-freeway"
    assert (result.next_obs.dtype, result.next_obs.shape[2:4]) == (bool, (10, 10))


@pytest.mark.slow
def test_freeway_ends_by_the_clock_of_the_game():
    env = rljax.make("pgx/minatar-freeway")
    wait = lambda key, obs: jnp.zeros(len(obs), jnp.int32)  # noqa: E731
    episodes = rljax.play(jax.random.key(0), env, wait, num_episodes=2)
    assert episodes.measures["length"].tolist() == [2500, 2500]


@pytest.mark.parametrize("probability", [0.0, 0.6])
def test_actions_stick_with_the_params_probability(probability):
    """The paddle, which starts at column 4, stays if the first action, no motion, is repeated."""
    env = rljax.make(BREAKOUT, sticky_action_prob=probability)

    @jax.jit
    def moved(keys, params):
        _, state = env.reset(keys[0], params)
        return jax.vmap(lambda key: env.step(key, state, jnp.int32(1), params)[1].inner._pos)(keys)

    columns = np.asarray(moved(jax.random.split(jax.random.key(0), 4_000), env.params))
    assert set(columns) == ({3} if probability == 0 else {3, 4})
    np.testing.assert_allclose((columns == 4).mean(), probability, atol=0.03)


def test_ids_and_actions():
    assert [name for name in pgx.available_envs() if name.startswith("minatar-")] == [x[4:] for x in IDS]
    assert rljax.make(BREAKOUT).action_space == rljax.Discrete(3)
    assert rljax.make(BREAKOUT, minimal_actions=False).action_space == rljax.Discrete(6)
    with pytest.raises(rljax.UsageError, match="no environment 'pgx/chess'"):
        rljax.make("pgx/chess")
    with pytest.raises(rljax.UsageError, match="sticky_action_prob"):
        rljax.make(BREAKOUT, sticky=0.5)


def test_made_again_it_is_the_same():
    assert_made_again_is_the_same(BREAKOUT)
    assert_made_again_is_the_same(BREAKOUT, minimal_actions=False, sticky_action_prob=0.5)
    assert_32_bits_under_x64(rljax.make(BREAKOUT))
    assert rljax.make(BREAKOUT, max_steps_in_episode=50).label == f"{BREAKOUT}(max_steps_in_episode=50)"


@pytest.mark.parametrize("name", [BREAKOUT, *SLOW])
def test_each_game_passes_the_checker(name):
    assert envs.check(rljax.make(name)) == []


@pytest.mark.parametrize("algorithm", [ppo, pytest.param(pqn, marks=pytest.mark.slow)])
def test_it_trains(algorithm):
    if algorithm is pqn:
        config = pqn.Config(env=BREAKOUT, num_envs=2, num_steps=8, num_minibatches=2, hidden_sizes=(8,), total_steps=32)
        _, metrics = jax.jit(jax.vmap(pqn.train, (0, None)))(two_keys(), config)
        assert np.isfinite(metrics["loss"]).all()
        return
    _, metrics = train_two_seeds(two_keys(), ppo.Config(env=BREAKOUT, **TINY))
    assert_finite_losses(metrics)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_bit(monkeypatch, tmp_path):
    assert_resumes_to_the_bit(monkeypatch, tmp_path, rljax.make(BREAKOUT))
