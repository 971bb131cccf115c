"""Navix: its own steps, both ends apart, and every id."""

import jax
import numpy as np
import pytest
from suites import assert_32_bits_under_x64, assert_made_again_is_the_same, assert_resumes_to_the_bit, compared
from tiny_ppo import TINY, assert_finite_losses, train_two_seeds, two_keys

import rljax
from rljax import envs, ppo

navix = pytest.importorskip("navix")
IDS = [name for name in envs.registered() if name.startswith("navix/")]
EMPTY, DOOR_KEY, OBSTACLES = (
    f"navix/Navix-{name}-v0" for name in ("Empty-8x8", "DoorKey-5x5", "Dynamic-Obstacles-5x5")
)


def of_navix(name, limit, observation, penalty=0.0):
    """Navix's reset and step, with its own time limit and without automatic reset."""
    world = navix.make(
        name.removeprefix("navix/"),
        observation_fn=getattr(navix.observations, observation),
        max_steps=limit,
        penalty_coeff=penalty,
        disable_autoreset=True,
    )

    def reset(key):
        start = world.reset(key)
        return start.observation, start

    def step(key, state, action):
        after = world.step(state, action)
        return after.observation, after.reward, after.step_type == 2, after.step_type == 1, after

    return reset, step


@pytest.mark.parametrize(
    ("name", "observation"),
    [
        (OBSTACLES, "symbolic"),
        pytest.param(DOOR_KEY, "symbolic_first_person", marks=pytest.mark.slow),
        pytest.param(EMPTY, "rgb", marks=pytest.mark.slow),
    ],
)
def test_a_thousand_steps_are_those_of_navix(name, observation):
    env = rljax.make(name, observation=observation, one_hot=False, max_steps_in_episode=30, penalty_coeff=0.9)
    result, terminated, truncated = compared(env, *of_navix(name, 30, observation, 0.9))
    np.testing.assert_array_equal(result.terminated, terminated)
    np.testing.assert_array_equal(result.truncated, truncated)
    assert truncated.any()
    assert not (terminated & truncated).any()
    if name == OBSTACLES:
        assert terminated.sum() > 100
        assert len(np.unique(result.reward)) > 2  # the part of the time that a success took


def test_planes_are_the_integers_of_each_cell():
    env, integers = rljax.make(DOOR_KEY), rljax.make(DOOR_KEY, one_hot=False)
    assert (env.observation_space.shape, env.observation_space.dtype) == ((5, 5, 21), bool)
    assert integers.observation_space.high[0, 0].tolist() == [10, 5, 3]
    planes, cells = (np.asarray(jax.jit(one.reset)(jax.random.key(3), one.params)[0]) for one in (env, integers))
    assert (planes.sum(axis=-1) == 3).all()
    parts = np.split(planes, [11, 17], axis=-1)
    np.testing.assert_array_equal(np.stack([part.argmax(axis=-1) for part in parts], axis=-1), cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_each_id_passes_the_checker(name):
    assert envs.check(rljax.make(name)) == []
    assert envs.check(rljax.make(name, one_hot=False, observation="symbolic_first_person"), 100) == []


def test_ids_are_those_of_navix():
    assert len(IDS) == len(navix.registry())
    assert {EMPTY, DOOR_KEY} <= set(IDS)


def test_made_again_it_is_the_same():
    assert_made_again_is_the_same(EMPTY)
    assert_made_again_is_the_same(EMPTY, observation="rgb_first_person", max_steps_in_episode=7)
    env = rljax.make(EMPTY)
    assert env.params.max_steps_in_episode == 256
    assert env.label == EMPTY
    assert_32_bits_under_x64(env)


@pytest.mark.parametrize(
    ("name", "settings", "answer"),
    [
        ("navix/Navix-Empty-8x8", {}, EMPTY),
        (EMPTY, {"max_steps": 5}, "max_steps_in_episode"),
        (EMPTY, {"observation": "symbolc"}, "symbolic"),
        (EMPTY, {"one_hot": 2}, "True or False"),
        (EMPTY, {"max_steps_in_episode": 0}, "at least 1"),
    ],
)
def test_mistakes_are_one_sentence(name, settings, answer):
    with pytest.raises(rljax.UsageError, match=answer) as caught:
        rljax.make(name, **settings)
    assert "\n" not in str(caught.value)


def test_it_trains():
    env = rljax.make(EMPTY)
    assert envs.check(env) == []
    _, metrics = train_two_seeds(two_keys(), ppo.Config(env=env, **TINY))
    assert_finite_losses(metrics)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_bit(monkeypatch, tmp_path):
    assert_resumes_to_the_bit(monkeypatch, tmp_path, rljax.make(OBSTACLES))
