"""Suites as other libraries adapt them: jax-envelope, which also sets time limits apart, and gxm."""

import numpy as np
import pytest
from suites import compared
from test_jumanji import observed

import rljax

pytestmark = pytest.mark.slow


def of_envelope(module, name):
    """An environment of jax-envelope, which has no time limit; its flag of a truncation stays false."""
    adapters = pytest.importorskip(f"envelope.adapters.{module}_envelope")
    kind = next(value for key, value in vars(adapters).items() if key.lower() == f"{module}envelope")
    world = kind.from_name(name)

    def reset(key):
        state, info = world.init(key)
        return info.obs, state

    def step(key, state, action):
        state, info = world.step(state, action)
        return info.obs, info.reward, info.terminated, info.truncated, state

    return reset, step


def test_navix_as_in_envelope():
    pytest.importorskip("navix")
    name = "Navix-Dynamic-Obstacles-5x5-v0"
    env = rljax.make(f"navix/{name}", one_hot=False, max_steps_in_episode=10_000)
    result, terminated, _ = compared(env, *of_envelope("navix", name))
    np.testing.assert_array_equal(result.terminated, terminated)
    assert terminated.any()
    assert not result.truncated.any()


def test_jumanji_as_in_envelope():
    pytest.importorskip("jumanji")
    reset, step = of_envelope("jumanji", "Snake-v1")
    env = rljax.make("jumanji/Snake-v1", max_steps_in_episode=10).replace(legal_actions=None)  # so that snakes die

    def grid(obs):
        return observed(obs)["grid"]

    def their_reset(key):
        obs, state = reset(key)
        return grid(obs), state

    def their_step(key, state, action):
        obs, *rest = step(key, state, action)
        return grid(obs), *rest

    result, terminated, _ = compared(env, their_reset, their_step)
    np.testing.assert_array_equal(result.terminated, terminated)
    assert terminated.any()
    assert (result.truncated & ~terminated).any()  # which only ours has


def test_craftax_as_in_envelope():
    pytest.importorskip("craftax")
    name = "Craftax-Classic-Symbolic-v1"
    result, terminated, _ = compared(rljax.make(f"craftax/{name}"), *of_envelope("craftax", name), num_steps=300)
    np.testing.assert_array_equal(result.terminated, terminated)
    assert terminated.any()


def test_xminigrid_as_in_gxm():
    """Gxm 0.4.0 reports the time limit as a termination."""
    pytest.importorskip("xminigrid")
    gxm = pytest.importorskip("gxm.adapters.xminigrid")
    world = gxm.make("MiniGrid-EmptyRandom-5x5")

    def reset(key):
        state, first = world.init(key)
        return first.next_obs, state

    def step(key, state, action):
        state, after = world.step(key, state, action)
        return after.next_obs, after.reward, after.terminated, after.truncated, state

    env = rljax.make("xminigrid/MiniGrid-EmptyRandom-5x5", one_hot=False)
    result, ended, _ = compared(env, reset, step)
    np.testing.assert_array_equal(result.terminated | result.truncated, ended)
    assert result.terminated.any()
