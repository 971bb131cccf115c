"""Maps of tabular environments: exact values, optimal actions, and where states are drawn."""

import jax
import numpy as np
import pytest
from PIL import Image
from toys import walk

import rljax
from rljax import envs
from rljax.report import maps


@pytest.fixture(scope="module")
def maze():
    env = rljax.make("GridWorld-misc")
    return env, envs.tabular_model(env)


def test_a_policy_is_compared_with_the_exact_solution(maze):
    _, model = maze
    best = jax.jit(rljax.planning.value_iteration)(model, 1.0)
    found = maps.compute(model, np.asarray(best.action_values.argmax(axis=1)), 1.0, np.zeros((54, 4)))
    assert found.policy_values[18] == found.optimal_values[18] == -14  # from the start
    np.testing.assert_array_equal(found.learned, np.zeros(54))
    tiles = np.array([list(row) for row in envs.toy_text.DYNA_MAZE]).ravel()
    np.testing.assert_array_equal(found.reachable, (tiles != "#") & (tiles != "G"))
    assert found.optimal_actions[18].tolist() == [False, True, True, False]  # down or right
    lost = maps.compute(model, np.zeros(54, int), 1.0)
    assert np.isnan(lost.policy_values).all()  # to the left forever
    assert lost.learned is None
    np.testing.assert_allclose(maps.compute(model, np.zeros(54, int), 0.5).policy_values[18], -2)


def test_a_map_is_drawn_with_a_wrong_action_in_red(maze, tmp_path):
    env, model = maze
    actions = np.array(jax.jit(rljax.planning.value_iteration)(model, 0.9).action_values.argmax(axis=1))
    actions[18] = 0
    figure = maps.plot_maps(tmp_path / "map.png", env, model, actions, 0.9, "maze")
    reds = [[text.get_text() for text in axes.texts if text.get_color() == "#d00000"] for axes in figure.axes[:2]]
    assert reds == [["←"], []]
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles == ["exact values of its policy", "optimal values"]
    assert Image.open(tmp_path / "map.png").size[0] > 600


def test_states_have_the_places_of_their_world(maze):
    place, shape, block = maps.places(maze[0], 54)
    assert (shape, block) == ((6, 9), 0)
    assert place[53].tolist() == [5, 8]
    place, shape, block = maps.places(rljax.make("Taxi-v3"), 500)
    assert (shape, block) == ((25, 20), 5)
    assert len(np.unique(place, axis=0)) == 500
    assert place[((7 * 5 + 3) * 4 + 1)].tolist() == [3 * 5 + 1, 1 * 5 + 2]
    assert maps.places(rljax.make("CliffWalking-v1"), 48)[1] == (4, 12)
    assert maps.places(rljax.make("FrozenLake-misc", map_name="8x8"), 64)[1] == (8, 8)
    assert maps.places(walk, 10)[1] == (3, 4)
