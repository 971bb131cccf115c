"""Jumanji: its own steps, its time limits as truncations and its other ends as terminations, masks, and every id."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_32_bits_under_x64, assert_made_again_is_the_same, assert_resumes_to_the_bit, compared, same
from tiny_ppo import TINY, assert_finite_losses, train_two_seeds, two_keys

import rljax
from rljax import envs, ppo
from rljax.envs.suites.jumanji import TIME_LIMITS

jumanji = pytest.importorskip("jumanji")
IDS = [name for name in envs.registered() if name.startswith("jumanji/")]
SNAKE = "jumanji/Snake-v1"
LIMITED = [name for name in IDS if type(jumanji.make(name[8:])).__name__ in TIME_LIMITS]
# Limits that random play reaches, and that some of its episodes do not.
LIMITS = {
    "Cleaner-v0": 30,
    "Connector-v3": 12,
    "LevelBasedForaging-v0": 30,
    "MMST-v0": 20,
    "Maze-v0": 30,
    "PacMan-v1": 40,
    "RobotWarehouse-v0": 30,
    "RubiksCube-partly-scrambled-v0": 5,
    "RubiksCube-v0": 5,
    "SlidingTilePuzzle-v0": 20,
    "Snake-v1": 20,
    "Tetris-v0": 20,
}
JOINT = ("BinPack", "FlatPack", "Minesweeper", "RubiksCube", "Sudoku", "Tetris")


def observed(observation):
    """Jumanji's observation as dicts, without mask and count."""
    if hasattr(observation, "_asdict"):
        parts = observation._asdict()
    elif hasattr(observation, "__dataclass_fields__"):
        parts = {name: getattr(observation, name) for name in observation.__dataclass_fields__}
    else:
        return observation
    return {k: observed(v) for k, v in parts.items() if k not in ("action_mask", "step_count")}


def of_jumanji(name, limit=None):
    """Jumanji's reset and step, with its own time limit."""
    settings = {} if limit is None else {"time_limit": limit}
    world = jumanji.make(name.removeprefix("jumanji/"), **settings)
    spec = world.action_spec

    def reset(key):
        state, start = world.reset(key)
        return observed(start.observation), state

    def step(key, state, action):
        if type(world).__name__ in JOINT:
            action = jnp.stack(jnp.unravel_index(action, tuple(np.asarray(spec.num_values).tolist())))
        state, after = world.step(state, action.astype(spec.dtype))
        last, discount = after.step_type == 2, after.discount.max()
        return observed(after.observation), after.reward.sum(), last & (discount == 0), last & (discount > 0), state

    return reset, step


def test_the_time_limits_are_those_of_jumanji():
    """Every class with a time limit is in the table, except the one whose limit is a part of its task."""
    kinds = {type(jumanji.make(name[8:])) for name in IDS}
    limited = {kind.__name__ for kind in kinds if "time_limit" in inspect.signature(kind).parameters}
    assert limited - {"SearchAndRescue"} == set(TIME_LIMITS)
    assert {f"jumanji/{name}" for name in LIMITS} == set(LIMITED)
    assert rljax.make("jumanji/RubiksCube-partly-scrambled-v0").params.max_steps_in_episode == 20
    assert rljax.make(SNAKE).params.max_steps_in_episode == 4000


QUICK = ("jumanji/Snake-v1",)


@pytest.mark.parametrize("name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in LIMITED])
def test_a_time_limit_truncates_and_nothing_else_does(name):
    """Jumanji ends at the same steps; those at the limit are truncations, unless the task ends in the same step.

    Illegal actions are played too, so that snakes die.
    """
    limit = LIMITS[name[8:]]
    env = rljax.make(name, max_steps_in_episode=limit).replace(legal_actions=None)
    result, terminated, truncated = compared(env, *of_jumanji(name, limit))
    ended = terminated | truncated
    np.testing.assert_array_equal(result.terminated | result.truncated, ended)
    time = np.zeros(8, int)
    for t in range(len(ended)):
        time += 1
        at_limit = time == limit
        np.testing.assert_array_equal(result.truncated[t], at_limit)
        np.testing.assert_array_equal(result.terminated[t][~at_limit], ended[t][~at_limit])
        time[ended[t]] = 0
    assert result.truncated.any()
    if name[8:] in ("Snake-v1", "Tetris-v0"):
        assert result.terminated.any()
    if name[8:] in ("Connector-v3", "LevelBasedForaging-v0"):  # these two truncate themselves
        np.testing.assert_array_equal(result.terminated, terminated)
        np.testing.assert_array_equal(result.truncated & ~result.terminated, truncated)
    else:
        assert not truncated.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in IDS if name not in LIMITED])
def test_other_environments_end_as_in_jumanji(name):
    env = rljax.make(name)
    result, terminated, truncated = compared(env, *of_jumanji(name))
    np.testing.assert_array_equal(result.terminated, terminated)
    assert not truncated.any()
    assert not result.truncated.any()
    assert terminated.any()


@pytest.mark.parametrize(
    ("name", "finish"),
    [
        ("SlidingTilePuzzle-v0", "solved"),
        ("Snake-v1", "wall"),
    ],
)
def test_an_end_of_the_task_terminates(name, finish):
    """A snake at the wall dies, however long the limit; a puzzle that is solved by its last move is solved."""
    env = rljax.make(f"jumanji/{name}")
    _, state = env.reset(jax.random.key(0), env.params)
    step = jax.jit(env.step)
    if finish == "wall":
        while bool(state.mask[0]):
            result, state = step(jax.random.key(0), state, jnp.int32(0), env.params)
        result, _ = step(jax.random.key(0), state, jnp.int32(0), env.params)
    else:
        tiles = jnp.append(jnp.arange(1, 25, dtype=jnp.int32), 0).reshape(5, 5)
        moved = tiles.at[4, 4].set(24).at[4, 3].set(0)
        inner = state.inner.replace(puzzle=moved, empty_tile_position=jnp.array([4, 3], jnp.int32))
        result, _ = step(jax.random.key(0), state._replace(inner=inner), jnp.int32(1), env.params)
    assert (bool(result.terminated), bool(result.truncated)) == (True, False)


def test_masks_are_legal_actions():
    env = rljax.make(SNAKE)
    obs, state = env.reset(jax.random.key(0), env.params)
    assert obs.shape == (12, 12, 5)
    assert env.legal_actions(state).tolist() == np.asarray(state.inner.action_mask).tolist()
    tetris = rljax.make("jumanji/Tetris-v0")
    _, state = tetris.reset(jax.random.key(0), tetris.params)
    assert tetris.action_space == rljax.Discrete(40)
    same(tetris.legal_actions(state), state.inner.action_mask.reshape(-1))
    cleaner = rljax.make("jumanji/Cleaner-v0")
    _, state = cleaner.reset(jax.random.key(0), cleaner.params)
    assert cleaner.action_space == rljax.MultiDiscrete((4, 4, 4))
    same(cleaner.legal_actions(state), tuple(state.inner.action_mask))
    assert rljax.make("jumanji/RubiksCube-v0").legal_actions is None


def test_observations_are_nested():
    maze = rljax.make("jumanji/Maze-v0")
    assert set(maze.observation_space.spaces) == {"agent_position", "target_position", "walls"}
    assert set(maze.observation_space.spaces["agent_position"].spaces) == {"row", "col"}
    assert rljax.make("jumanji/Game2048-v1").observation_space.shape == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", IDS)
def test_each_id_passes_the_checker(name):
    assert envs.check(rljax.make(name), 200) == []


def test_ids_are_those_of_jumanji():
    assert {name[8:] for name in IDS} == jumanji.registered_environments() - {"Sokoban-v0"}
    with pytest.raises(rljax.UsageError, match="levels must be downloaded"):
        rljax.make("jumanji/Sokoban-v0")


def test_made_again_it_is_the_same():
    assert_made_again_is_the_same(SNAKE)
    assert_made_again_is_the_same(SNAKE, num_rows=6, num_cols=5, max_steps_in_episode=9)
    assert rljax.make(SNAKE, num_rows=6, num_cols=5).observation_space.shape == (6, 5, 5)
    for name in (SNAKE, "jumanji/Game2048-v1", "jumanji/PacMan-v1"):
        assert_32_bits_under_x64(rljax.make(name))


@pytest.mark.parametrize(
    ("name", "settings", "answer"),
    [
        ("jumanji/Snake", {}, SNAKE),
        (SNAKE, {"time_limit": 5}, "max_steps_in_episode"),
        (SNAKE, {"rows": 5}, "num_rows"),
        ("jumanji/Game2048-v1", {"max_steps_in_episode": 5}, "board_size"),
    ],
)
def test_mistakes_are_one_sentence(name, settings, answer):
    with pytest.raises(rljax.UsageError, match=answer) as caught:
        rljax.make(name, **settings)
    assert "\n" not in str(caught.value)


def test_it_trains():
    env = rljax.make("jumanji/Game2048-v1")
    assert envs.check(env) == []
    _, metrics = train_two_seeds(two_keys(), ppo.Config(env=env, **TINY))
    assert_finite_losses(metrics)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_bit(monkeypatch, tmp_path):
    assert_resumes_to_the_bit(monkeypatch, tmp_path, rljax.make("jumanji/Maze-v0", max_steps_in_episode=10))
