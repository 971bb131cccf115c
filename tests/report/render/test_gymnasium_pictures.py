"""Pictures agree with Gymnasium's `rgb_array` of the same states, where both exist."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

import rljax
from rljax.envs.unwrapping import world_of
from rljax.report import render

pytestmark = pytest.mark.slow  # a window library that draws off screen


@pytest.fixture(scope="module")
def gymnasium():
    os.environ["SDL_VIDEODRIVER"] = os.environ["SDL_AUDIODRIVER"] = "dummy"
    pytest.importorskip("pygame")
    return pytest.importorskip("gymnasium")


def ours(name, **arrays):
    """One picture of a state of these numbers."""
    env = rljax.make(name)
    states = SimpleNamespace(**{field: np.array([value], np.float32) for field, value in arrays.items()})
    return render.RENDERERS[name](states, env.params, world_of(env))[0]


def halved(picture):
    height, width, _ = picture.shape
    return picture.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))


def classic(gymnasium, name, state, **arrays):
    """Our picture, and Gymnasium's of the same state at half its size."""
    env = gymnasium.make(name, render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    env.state = np.array(state)
    if "last_u" in arrays:
        env.last_u = arrays["last_u"]
    return ours(name, **arrays).astype(float), halved(env.render())


def centre(picture, colour, tolerance=80):
    """The mean row and column of the pixels that are near a colour."""
    near = np.abs(picture - np.array(colour)).sum(axis=-1) < tolerance
    return np.argwhere(near).mean(axis=0)


CLASSIC = {
    "CartPole-v1": [
        ((x, 0, theta, 0), {"x": x, "theta": theta}, (202, 152, 101))
        for x, theta in ((0.0, 0.1), (-1.5, -0.2), (2.0, 0.0))
    ],
    "Acrobot-v1": [
        ((a, b, 0, 0), {"joint_angle1": a, "joint_angle2": b}, (0, 204, 204))
        for a, b in ((0.2, -0.4), (2.0, 1.5), (-3.0, 0.1))
    ],
    "MountainCar-v0": [((p, 0), {"position": p}, (0, 0, 0)) for p in (-1.1, -0.5, 0.1, 0.45)],
    "Pendulum-v1": [
        ((theta, 0), {"theta": theta, "last_u": torque}, (204, 77, 77))
        for theta, torque in ((0.0, 2.0), (1.0, -1.0), (-2.5, 0.5))
    ],
}


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_tasks_are_drawn_where_gymnasium_draws_them(gymnasium, name):
    for state, arrays, colour in CLASSIC[name]:
        mine, theirs = classic(gymnasium, name, state, **arrays)
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).mean() < 2.0
        assert np.abs(centre(mine, colour) - centre(theirs, colour)).max() < 2.0  # pixels


def changed(before, after, rows, columns):
    """The cells `[rows, columns]` in which two pictures differ."""
    difference = np.abs(before.astype(float) - after).sum(axis=-1)
    height, width = difference.shape[0] // rows, difference.shape[1] // columns
    cells = difference[: rows * height, : columns * width].reshape(rows, height, columns, width)
    return {tuple(cell) for cell in np.argwhere(cells.mean(axis=(1, 3)) > 8).tolist()}


GRIDS = {  # Gymnasium's id, and what its picture of a state needs besides the state
    "FrozenLake-misc": ("FrozenLake-v1", "position", (4, 4), [(0, 1), (1, 6), (9, 14), (0, 10)]),
    "CliffWalking-v1": ("CliffWalking-v1", "index", (4, 12), [(36, 24), (24, 25), (13, 5), (35, 0)]),
    # In Gymnasium a waiting passenger is under the taxi's cell; these have it aboard.
    "Taxi-v3": (
        "Taxi-v4",
        "index",
        (7, 11),
        [(cell * 20 + 16, other * 20 + 16) for cell, other in ((7, 12), (22, 2), (11, 18))],
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_agents_are_in_the_cells_that_gymnasium_draws_them_in(gymnasium, name):
    theirs_id, field, shape, pairs = GRIDS[name]
    env = gymnasium.make(theirs_id, render_mode="rgb_array").unwrapped
    for first, second in pairs:
        pictures = []
        for state in (first, second):
            env.reset(seed=0)
            env.s, env.lastaction = state, None
            pictures.append(env.render())
        env_ours = rljax.make(name)
        states = SimpleNamespace(**{field: np.array([first, second])})
        mine = render.RENDERERS[name](states, env_ours.params, world_of(env_ours))
        assert changed(*mine, *shape) == changed(*pictures, *shape) != set()
