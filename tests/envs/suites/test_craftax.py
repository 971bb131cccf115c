"""Craftax: its own steps, death apart from the time limit, and every game. Programs compile for minutes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_32_bits_under_x64, assert_made_again_is_the_same, assert_resumes_to_the_bit, compared
from tiny_ppo import TINY, assert_finite_losses, train_two_seeds, two_keys

import rljax
from rljax import envs, ppo

craftax_env = pytest.importorskip("craftax.craftax_env")
IDS = [name for name in envs.registered() if name.startswith("craftax/")]
CLASSIC, FULL = "craftax/Craftax-Classic-Symbolic-v1", "craftax/Craftax-Symbolic-v1"


def of_craftax(name, limit):
    """Craftax's reset and step without automatic reset, with its own time limit, and whether the player has died."""
    game = craftax_env.make_craftax_env_from_name(name.removeprefix("craftax/"), auto_reset=False)
    params = game.default_params.replace(max_timesteps=limit)

    def reset(key):
        return game.reset_env(key, params)

    def step(key, state, action):
        obs, state, reward, done, _ = game.step_env(key, state, action, params)
        block = state.map[state.player_position[0], state.player_position[1]]
        return obs, reward, (state.player_health <= 0) | (block == 14), done, state  # 14 is lava

    return reset, step


@pytest.mark.slow
def test_a_thousand_steps_are_those_of_craftax():
    from craftax.craftax_classic.constants import BlockType

    assert BlockType.LAVA.value == 14
    limit = 150
    env = rljax.make(CLASSIC, max_timesteps=limit)
    result, dead, done = compared(env, *of_craftax(CLASSIC, limit))
    np.testing.assert_array_equal(result.terminated, dead)
    np.testing.assert_array_equal(result.terminated | result.truncated, done)
    assert dead.any()
    assert (done & ~dead).any()
    time = np.zeros(8, int)
    for t in range(len(done)):
        time += 1
        np.testing.assert_array_equal(result.truncated[t], time == limit)
        time[done[t]] = 0
    assert (result.info["achievements"] <= 22).all()
    assert result.info["achievements"].max() > 1


def test_ids_spaces_and_limits():
    assert len(IDS) == 4
    env = rljax.make(CLASSIC)
    assert env.observation_space == rljax.Box(0, 1, (1345,))
    assert env.action_space == rljax.Discrete(17)
    assert env.params.max_timesteps == 10_000
    full = rljax.make(FULL)
    assert (full.observation_space.shape, full.action_space.n, full.params.max_timesteps) == ((8268,), 43, 100_000)
    assert rljax.make("craftax/Craftax-Classic-Pixels-v1").observation_space.shape == (63, 63, 3)


def test_made_again_it_is_the_same():
    """And reset and step agree: this only traces them."""
    assert_made_again_is_the_same(CLASSIC, max_timesteps=7, spawn_cow_chance=0.5)
    env = rljax.make(CLASSIC)
    envs.require(env)
    assert_32_bits_under_x64(env)
    assert env.label == CLASSIC


@pytest.mark.parametrize(
    ("name", "settings", "answer"),
    [
        ("craftax/Craftax-Symbolic", {}, FULL),
        (CLASSIC, {"max_steps": 5}, "max_timesteps"),
        (CLASSIC, {"max_timesteps": 0}, "at least 1"),
    ],
)
def test_mistakes_are_one_sentence(name, settings, answer):
    with pytest.raises(rljax.UsageError, match=answer) as caught:
        rljax.make(name, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_each_game_passes_the_checker(name):
    assert envs.check(rljax.make(name), 16) == []


@pytest.mark.slow
def test_it_trains():
    _, metrics = train_two_seeds(two_keys(), ppo.Config(env=CLASSIC, **TINY))
    assert_finite_losses(metrics)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_bit(monkeypatch, tmp_path):
    assert_resumes_to_the_bit(monkeypatch, tmp_path, rljax.make(CLASSIC, max_timesteps=20))


@pytest.mark.slow
def test_the_probability_of_a_cow_is_a_param():
    """Two values of one program: cows appear on grass, or never do."""
    env = rljax.make(CLASSIC, max_timesteps=100)

    @jax.jit
    def cows(key, params):
        _, state = env.reset(key, params)
        wait = lambda state, key: (env.step(key, state, jnp.int32(0), params)[1], state.cows.mask.sum())  # noqa: E731
        return jax.lax.scan(wait, state, jax.random.split(key, 30))[1].max()

    often, never = (cows(jax.random.key(0), env.params.replace(spawn_cow_chance=p)) for p in (1.0, 0.0))
    assert often > never
    assert cows._cache_size() == 1
