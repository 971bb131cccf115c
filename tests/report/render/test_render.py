"""Pictures of states: what moves, moves; wrappers change nothing; a custom `render` comes first; the rest is text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import walk

import rljax
from rljax import envs
from rljax.report import render
from rljax.report.render import classic, grids, shapes, text

SLOW = [name for name in render.RENDERERS if name.endswith("MinAtar") and name != "Breakout-MinAtar"]


def states_of(name, times, **changes):
    """States of an environment, zero except for some fields, in its own structure."""
    env = rljax.make(name)
    _, like = jax.eval_shape(env.reset, jax.random.key(0), env.params)
    states = jax.tree.map(lambda leaf: np.zeros((times, *leaf.shape), leaf.dtype), like)
    return env, dataclasses.replace(states, **{field: np.array(value) for field, value in changes.items()})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in render.RENDERERS]
)
def test_every_renderer_draws_states_of_its_environment(name):
    env, states = states_of(name, 2)
    pictures = render.frames(env, states)
    assert pictures.dtype == np.uint8
    assert pictures.ndim == 4
    assert len(pictures) == 2
    assert 100 <= min(pictures.shape[1:3]) <= max(pictures.shape[1:3]) <= 400
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert len(np.unique(pictures[0].reshape(-1, 3), axis=0)) >= 2  # colours


def place(pictures, colour, tolerance=60):
    """The mean column and row of the pixels near a colour, `[T, 2]`."""
    near = np.abs(pictures.astype(int) - np.array(colour)).sum(axis=-1) < tolerance
    return np.array([np.argwhere(one)[:, ::-1].mean(axis=0) for one in near])


def test_the_cart_and_its_pole_are_where_the_state_says():
    env, states = states_of("CartPole-v1", 3, x=[0.0, 1.2, -1.2], theta=[0.0, 0.2, -0.2])
    pictures = render.frames(env, states)
    carts, poles = place(pictures, (0, 0, 0)), place(pictures, classic.WOOD)
    np.testing.assert_allclose(carts[:, 0], [149.5, 224.5, 74.5], atol=1.0)  # 62.5 pixels a unit
    leaning = poles[:, 0] - carts[:, 0]
    assert abs(leaning[0]) < 1
    assert leaning[1] == pytest.approx(np.sin(0.2) * 30, abs=1.5)  # half the pole has 31 pixels
    assert leaning[2] == pytest.approx(-leaning[1], abs=1)


def test_many_states_are_drawn_as_one_by_one():
    env, states = states_of("Acrobot-v1", 70, joint_angle1=np.linspace(-3, 3, 70, dtype=np.float32))
    pictures = render.frames(env, states)
    for time in (0, 63, 64, 69):
        alone = render.frames(env, jax.tree.map(lambda leaf, time=time: leaf[time : time + 1], states))
        np.testing.assert_array_equal(pictures[time], alone[0])
    assert (pictures[0] != pictures[69]).any()


def test_links_hang_down_and_the_pendulum_stands_at_zero():
    env, states = states_of("Acrobot-v1", 2, joint_angle1=[0.0, np.pi])
    links = place(render.frames(env, states), classic.TEAL)
    assert links[0, 1] > 150
    assert links[1, 1] < 100
    env, states = states_of("Pendulum-v1", 3, theta=[0.0, np.pi, np.pi / 2], last_u=[0.0, 0.0, 2.0])
    rods = place(render.frames(env, states), classic.RED)
    assert rods[0, 1] < 110
    assert rods[1, 1] > 140
    assert rods[2, 0] < 110  # it turns against the clock


def test_the_car_climbs_the_hill():
    env, states = states_of("MountainCar-v0", 2, position=[-0.5, 0.45])
    cars = place(render.frames(env, states), (0, 0, 0))
    np.testing.assert_allclose(cars[:, 0], [(1.2 - 0.5) / 1.8 * 300, (1.2 + 0.45) / 1.8 * 300], atol=3)
    assert cars[1, 1] < 30
    assert cars[0, 1] > 160


def agents(name, **changes):
    """The columns and rows that the agent's disc is in, in pixels."""
    times = len(next(iter(changes.values())))
    env, states = states_of(name, times, **changes)
    return place(render.frames(env, states), grids.RED, tolerance=30), env


def test_agents_are_in_their_cells():
    found, _ = agents("FrozenLake-misc", position=[0, 6])
    np.testing.assert_allclose(found, [[19.5, 19.5], [99.5, 59.5]], atol=1)  # cells of 40 pixels
    found, _ = agents("CliffWalking-v1", index=[36, 13])
    np.testing.assert_allclose(found, [[14.5, 104.5], [44.5, 44.5]], atol=1)  # of 30
    found, _ = agents("GridWorld-misc", index=[18, 10])
    np.testing.assert_allclose(found, [[16, 82], [49, 49]], atol=1)  # of 33
    found, _ = agents("FourRooms-misc", pos=[[4, 1], [8, 9]])
    np.testing.assert_allclose(found[1] - found[0], [8 * 23, 4 * 23], atol=1)
    found, _ = agents("DeepSea-bsuite", row=[0, 8], column=[0, 8])
    np.testing.assert_allclose(found, [[18, 18], [277, 277]], atol=1)  # the ground at the end
    found, _ = agents("Catch-bsuite", ball_x=[0, 4], ball_y=[0, 9])
    np.testing.assert_allclose(found, [[11.5, 11.5], [107.5, 227.5]], atol=1)


def test_the_passenger_moves_with_the_taxi_once_aboard():
    waiting, aboard = (7 * 5 + 0) * 4 + 1, (7 * 5 + 4) * 4 + 1  # in cell (1, 2), from stop 0 to stop 1
    env, states = states_of("Taxi-v3", 2, index=[waiting, aboard])
    pictures = render.frames(env, states)
    moved = np.argwhere((pictures[0] != pictures[1]).any(axis=-1)) // grids.TAXI_CELL
    assert {tuple(cell) for cell in moved.tolist()} == {(1, 1), (2, 5)}


def test_a_game_has_the_colour_of_its_first_channel():
    env, states = states_of("Breakout-MinAtar", 2, pos=[2, 5], ball_x=[1, 1], ball_y=[3, 3])
    pictures = render.frames(env, states)
    np.testing.assert_array_equal(pictures[:, 9 * 24 + 5, [2 * 24 + 5, 5 * 24 + 5]][0, 0], grids.YELLOW)
    np.testing.assert_array_equal(pictures[1, 9 * 24 + 5, 5 * 24 + 5], grids.YELLOW)
    np.testing.assert_array_equal(pictures[0, 3 * 24 + 5, 1 * 24 + 5], shapes.WHITE)


def test_wrappers_do_not_change_pictures():
    env, states = states_of("CartPole-v1", 1, x=[0.5])
    wrapped = envs.frame_stack(envs.time_limit(env, 7), 2)
    _, like = jax.eval_shape(wrapped.reset, jax.random.key(0), wrapped.params)
    inside = like._replace(inner=like.inner._replace(inner=states, time=np.zeros(1)), frames=np.zeros((1, 2, 4)))
    np.testing.assert_array_equal(render.frames(wrapped, inside), render.frames(env, states))
    heavier = rljax.make("CartPole-v1", length=1.0)
    assert (render.frames(heavier, states) != render.frames(env, states)).any()


def test_other_environments_are_text():
    assert text.lines({"speed": np.float32(1.5), "map": np.arange(12.0), "key": jax.random.key(0)}) == [
        "key: a key",
        "map: 12, from 0 to 11",
        "speed: 1.5",
    ]
    assert text.lines([np.zeros(())] * 20)[-1] == "and 9 more arrays"
    pictures = render.frames(walk, jnp.arange(3))
    assert pictures.shape[0] == 3
    assert (pictures[0] != pictures[1]).any()


def test_a_custom_render_comes_first_and_its_mistakes_are_sentences():
    def draw(state, params):
        return np.full((4, 5, 3), 10 * state + params.steps, np.uint8)

    drawn = render.frames(envs.time_limit(walk.replace(render=draw), 5), np.arange(2))
    assert drawn.shape == (2, 4, 5, 3)
    assert drawn[:, 0, 0, 0].tolist() == [3, 13]
    for wrong, words in (
        (lambda state, params: np.zeros((4, 5, 3)), "uint8 .* and returned float64"),
        (lambda state, params: np.zeros((4 + state, 5, 3), np.uint8), "of the same size"),
        (lambda state, params: state.missing, "could not be drawn by its render: AttributeError"),
    ):
        with pytest.raises(rljax.UsageError, match=words):
            render.frames(walk.replace(render=wrong), np.arange(2))


def test_shapes_cover_their_area():
    pictures = shapes.blank(2, 60, 80)
    np.testing.assert_allclose(shapes.disc(pictures, [40, 20], 30, 10).sum(axis=(1, 2)), np.pi * 100, rtol=0.01)
    np.testing.assert_allclose(shapes.bar(pictures, 40, 30, [0.0, 1.0], 20, 6).sum(axis=(1, 2)), 120, rtol=0.03)
    np.testing.assert_allclose(shapes.box(pictures, 40, 30, 20, 6).sum(axis=(1, 2)), 120, rtol=0.01)
