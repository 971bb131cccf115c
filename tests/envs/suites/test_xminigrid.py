"""XLand-MiniGrid: its own steps, both ends apart, tasks as params, and every id."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_32_bits_under_x64, assert_made_again_is_the_same, assert_resumes_to_the_bit, compared
from tiny_ppo import TINY, assert_finite_losses, train_two_seeds, two_keys

import rljax
from rljax import envs, ppo

xminigrid = pytest.importorskip("xminigrid")
IDS = [name for name in envs.registered() if name.startswith("xminigrid/")]
EMPTY, XLAND = "xminigrid/MiniGrid-EmptyRandom-5x5", "xminigrid/XLand-MiniGrid-R1-9x9"


def task(color):
    """A ruleset whose goal is to stand near a ball of this colour, which lies in the room."""
    from xminigrid.core import goals
    from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles
    from xminigrid.types import RuleSet

    ball = TILES_REGISTRY[Tiles.BALL, getattr(Colors, color)]
    nothing = xminigrid.make("XLand-MiniGrid-R1-9x9")[1].ruleset
    return RuleSet(goal=goals.AgentNearGoal(ball).encode(), rules=nothing.rules, init_tiles=ball[None])


def of_xminigrid(name, limit, **changes):
    """The suite's reset and step, with its own time limit."""
    world, params = xminigrid.make(name.removeprefix("xminigrid/"), max_steps=limit, **changes)

    def reset(key):
        start = world.reset(params, key)
        return start.observation, start

    def step(key, state, action):
        after = world.step(params, state, action)
        last = after.step_type == 2
        return after.observation, after.reward, last & (after.discount == 0), last & (after.discount == 1), after

    return reset, step


def test_a_thousand_steps_are_those_of_xminigrid():
    env = rljax.make(EMPTY, one_hot=False, max_steps_in_episode=30)
    result, terminated, truncated = compared(env, *of_xminigrid(EMPTY, 30))
    np.testing.assert_array_equal(result.terminated, terminated)
    np.testing.assert_array_equal(result.truncated, truncated)
    assert terminated.sum() > 50
    assert truncated.sum() > 50
    assert not (terminated & truncated).any()
    assert len(np.unique(result.reward)) > 10  # less for each step that a success took


@pytest.mark.slow
def test_a_thousand_steps_of_a_task_of_xland():
    ruleset = task("RED")
    given = {"goal": ruleset.goal, "rules": ruleset.rules, "init_tiles": ruleset.init_tiles}
    env = rljax.make(XLAND, one_hot=False, max_steps_in_episode=50, **given)
    result, terminated, truncated = compared(env, *of_xminigrid(XLAND, 50, ruleset=ruleset))
    np.testing.assert_array_equal(result.terminated, terminated)
    np.testing.assert_array_equal(result.truncated, truncated)
    assert terminated.sum() > 10


def test_tasks_of_one_shape_are_swept_without_another_program():
    """One room, and the colour of the ball in it is the task's; a task survives its way through a file."""
    compiled = jax.jit(lambda key, env: env.reset(key, env.params)[1].state.grid)
    for color, number in (("RED", 1), ("BLUE", 3)):
        ruleset = task(color)
        env = rljax.make(XLAND, goal=ruleset.goal, rules=ruleset.rules, init_tiles=ruleset.init_tiles)
        grid = compiled(jax.random.key(0), env)
        assert grid[grid[..., 0] == 3].tolist() == [[3, number]]
    assert compiled._cache_size() == 1
    with pytest.raises(rljax.UsageError, match=r"goal of .* shape \(5\)"):
        rljax.make(XLAND, goal=[1, 2])


def test_planes_are_the_integers_of_each_cell():
    env, integers = rljax.make(XLAND, view_size=7), rljax.make(XLAND, view_size=7, one_hot=False)
    assert (env.observation_space.shape, env.observation_space.dtype) == ((7, 7, 25), bool)
    assert integers.observation_space.high[0, 0].tolist() == [12, 11]
    planes, cells = (np.asarray(jax.jit(one.reset)(jax.random.key(3), one.params)[0]) for one in (env, integers))
    parts = np.split(planes, [13], axis=-1)
    assert (planes.sum(axis=-1) == 2).all()
    np.testing.assert_array_equal(np.stack([part.argmax(axis=-1) for part in parts], axis=-1), cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_each_id_passes_the_checker(name):
    assert envs.check(rljax.make(name)) == []


def test_ids_are_those_of_xminigrid():
    assert len(IDS) == len(xminigrid.registered_environments())
    assert {EMPTY, XLAND} <= set(IDS)


def test_made_again_it_is_the_same():
    for name in (EMPTY, XLAND):
        assert_made_again_is_the_same(name)
        assert_made_again_is_the_same(name, view_size=3, one_hot=False, max_steps_in_episode=7)
        assert_32_bits_under_x64(rljax.make(name))
        assert rljax.make(name).label == name
    assert rljax.make("xminigrid/MiniGrid-DoorKey-8x8").params.max_steps_in_episode == 640


@pytest.mark.parametrize(
    ("name", "settings", "answer"),
    [
        ("xminigrid/MiniGrid-Empty", {}, "MiniGrid-Empty-"),
        (EMPTY, {"max_steps": 5}, "max_steps_in_episode"),
        (EMPTY, {"view_size": 4}, "odd"),
        (EMPTY, {"goal": [0] * 5}, "no setting 'goal'"),
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
    ruleset = jax.tree.map(jnp.asarray, task("GREEN"))
    env = rljax.make(XLAND, goal=ruleset.goal, rules=ruleset.rules, init_tiles=ruleset.init_tiles)
    assert_resumes_to_the_bit(monkeypatch, tmp_path, env)
