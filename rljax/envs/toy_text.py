"""Tabular environments with gymnax's interface: Taxi, CliffWalking and a GridWorld maze, with their exact models.

The rules of each are one function of a state index and an action; evaluating it on every pair gives the model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.environments.misc.frozen_lake import GOAL, HOLE, START, FrozenLake

from rljax.envs.mdp import Model
from rljax.errors import UsageError

Transition = tuple[jax.Array, jax.Array, jax.Array]  # next state, reward, terminated


@struct.dataclass
class State(environment.EnvState):
    """The state's index and the time."""

    index: jax.Array  # [] int32


@struct.dataclass
class Params(environment.EnvParams):
    """The time limit: Gymnasium's for Taxi; Gymnasium has none for the others."""

    max_steps_in_episode: int = 200


class World(environment.Environment[State, Params]):
    """A deterministic environment defined by its transition function, with gymnax's interface.

    Args:
        transition: `(state [], action []) -> (next state, reward, terminated)`.
        is_start: `[S]` bool, the start states, all equally likely.
        num_actions: A.
        name: its id.
        tiles: the map `[rows, columns]` of a maze, to be drawn.
    """

    def __init__(
        self,
        transition: Callable[..., Transition],
        is_start: np.ndarray,
        num_actions: int,
        name: str,
        tiles: np.ndarray | None = None,
    ) -> None:
        self.tiles = tiles
        self.transition = transition
        self.start = is_start / is_start.sum()
        self._num_actions = num_actions
        self._name = name
        self._start_states = jnp.asarray(np.flatnonzero(is_start), jnp.int32)

    @property
    def default_params(self) -> Params:
        """The default parameters: the time limit."""
        return Params()

    @property
    def name(self) -> str:
        """The environment's id."""
        return self._name

    @property
    def num_actions(self) -> int:
        """The number of actions."""
        return self._num_actions

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        """Sample a start state."""
        chosen = jax.random.randint(key, (), 0, len(self._start_states))
        state = State(time=0, index=self._start_states[chosen])
        return state.index, state

    def step_env(
        self, key: jax.Array, state: State, action: Any, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[Any, Any]]:
        """Take one step, without an automatic reset."""
        next_index, reward, terminated = self.transition(state.index, action)
        state = State(time=state.time + 1, index=next_index)
        return state.index, state, reward, terminated, {}

    def observe(self, key: jax.Array, state: State, action: Any, params: Params) -> jax.Array:
        """The state's index."""
        return state.index

    def action_space(self, params: Params | None = None) -> spaces.Discrete:
        """The action space."""
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params: Params) -> spaces.Discrete:
        """The space of state indices."""
        return spaces.Discrete(len(self.start))


# Taxi (Dietterich 2000) with Gymnasium's rules, without rain or fickle passengers.
STOPS = np.array([(0, 0), (0, 4), (4, 0), (4, 3)])  # R, G, Y, B

ABOARD = 4

# True if no wall is east of (row, column); the last column is the border.
EAST_FREE = np.array([[1, 0, 1, 1, 0], [1, 0, 1, 1, 0], [1, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 0]], bool)


def _taxi_transition(state: jax.Array, action: jax.Array) -> Transition:
    """Actions: south, north, east, west, pick up, drop off. State: ((row 5 + column) 5 + passenger) 4 + destination."""
    stops, east_free = jnp.asarray(STOPS), jnp.asarray(EAST_FREE)
    rest, destination = state // 4, state % 4
    cell, passenger = rest // 5, rest % 5
    row, column = cell // 5, cell % 5
    at_stop = jnp.all(stops == jnp.stack([row, column]), axis=-1)  # [4]
    stop = jnp.argmax(at_stop)

    next_row = jnp.clip(row + (action == 0) - (action == 1), 0, 4)
    east = (action == 2) & east_free[row, column]
    west = (action == 3) & (column > 0) & east_free[row, jnp.maximum(column - 1, 0)]
    next_column = column + east - west

    picks_up = (action == 4) & (passenger < ABOARD) & at_stop.any() & (passenger == stop)
    drops_off = (action == 5) & (passenger == ABOARD) & at_stop.any()
    arrives = drops_off & (stop == destination)
    next_passenger = jnp.where(picks_up, ABOARD, jnp.where(drops_off, stop, passenger))
    illegal = ((action == 4) & ~picks_up) | ((action == 5) & ~drops_off)
    reward = jnp.where(arrives, 20.0, jnp.where(illegal, -10.0, -1.0))
    next_state = ((next_row * 5 + next_column) * 5 + next_passenger) * 4 + destination
    return next_state.astype(jnp.int32), reward, arrives


def taxi() -> World:
    """Taxi-v3: 500 states, 6 actions; bring the passenger to the destination (Dietterich 2000)."""
    _, passenger, destination = np.unravel_index(np.arange(500), (25, 5, 4))
    return World(_taxi_transition, (passenger < ABOARD) & (passenger != destination), 6, "Taxi-v3")


def _cliff_transition(state: jax.Array, action: jax.Array) -> Transition:
    """Actions: up, right, down, left, on a 4 x 12 grid."""
    row = jnp.clip(state // 12 + (action == 2) - (action == 0), 0, 3)
    column = jnp.clip(state % 12 + (action == 1) - (action == 3), 0, 11)
    fell = (row == 3) & (column > 0) & (column < 11)
    next_state = jnp.where(fell, 36, row * 12 + column)
    return next_state.astype(jnp.int32), jnp.where(fell, -100.0, -1.0), next_state == 47


def cliff_walking() -> World:
    """CliffWalking-v1 (Sutton and Barto 2018, example 6.6): 48 states, 4 actions; a fall costs 100, back to start."""
    return World(_cliff_transition, np.arange(48) == 36, 4, "CliffWalking-v1")


DYNA_MAZE = (".......#G", "..#....#.", "S.#....#.", "..#......", ".....#...", ".........")


def grid_world(desc: Sequence[str] = DYNA_MAZE) -> World:
    """GridWorld-misc: find the goal of a maze; a step costs 1, so the return is minus the number of steps.

    Args:
        desc: rows of "." free, "#" wall, one "S" start and one "G" goal; by default the maze of Sutton and Barto 2018,
            figure 8.2, whose shortest path has 14 steps. Actions are left, down, right, up.

    Raises:
        UsageError: `desc` is not a maze.
    """
    rows = [list(row) for row in desc]
    flat = [tile for row in rows for tile in row]
    if len({len(row) for row in rows}) != 1 or set(flat) - set(".#SG") or flat.count("S") != 1 or flat.count("G") != 1:
        raise UsageError(
            f"A GridWorld's desc must be rows of equal length of '.', '#', one 'S' and one 'G', got {list(desc)}."
        )
    tiles = np.array(rows)
    height, width = tiles.shape
    walls = (tiles == "#").ravel()
    start, goal = flat.index("S"), flat.index("G")

    def transition(state: jax.Array, action: jax.Array) -> Transition:
        row = jnp.clip(state // width + (action == 1) - (action == 3), 0, height - 1)
        column = jnp.clip(state % width + (action == 2) - (action == 0), 0, width - 1)
        target = row * width + column
        in_wall = jnp.asarray(walls)[state]  # unreachable; terminates at once, so that the model has a value there
        next_state = jnp.where(in_wall | jnp.asarray(walls)[target], state, target).astype(jnp.int32)
        return next_state, jnp.where(in_wall, 0.0, -1.0), in_wall | (next_state == goal)

    return World(transition, np.arange(len(flat)) == start, 4, "GridWorld-misc", tiles)


WORLDS = {"Taxi-v3": taxi, "CliffWalking-v1": cliff_walking, "GridWorld-misc": grid_world}


def register() -> None:
    """Register these environments with gymnax; done at the first `rljax.make`, since `import rljax` skips gymnax."""
    for name, factory in WORLDS.items():
        if name not in gymnax.registered_envs:
            gymnax.register(name, factory)


def model(world: Any) -> Model | None:
    """The exact model of a gymnax environment object, or None if it has none."""
    if isinstance(world, World):
        return _model_of_transitions([(1.0, world.transition)], world.start, world.num_actions)
    if isinstance(world, FrozenLake):
        return _frozen_lake_model(world)
    return None


def _model_of_transitions(
    alternatives: list[tuple[float, Callable[..., Transition]]], start: np.ndarray, actions: int
) -> Model:
    """The model of an environment whose step follows one of several transition functions, each with a probability."""
    states = len(start)
    pairs = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
    transitions = np.zeros((states, actions, states))
    rewards = np.zeros((states, actions))
    terminated = np.zeros((states, actions, states), bool)
    for probability, transition in alternatives:
        next_states, reward, ended = (np.asarray(x) for x in jax.vmap(transition)(*map(jnp.asarray, pairs)))
        np.add.at(transitions, (*pairs, next_states), probability)
        np.add.at(rewards, pairs, probability * reward)
        terminated[(*pairs, next_states)] |= ended
    return Model(*map(jnp.asarray, (transitions, rewards, terminated, start)))


def _frozen_lake_model(lake: FrozenLake) -> Model:
    tiles = np.asarray(lake.desc)
    height, width = tiles.shape
    kinds = jnp.asarray(tiles.ravel())
    goal, hole, frozen = (float(reward) for reward in lake.reward_schedule)

    def transition(state: jax.Array, action: jax.Array, turn: int) -> Transition:
        action = (action + turn) % 4  # left, down, right, up
        row = jnp.clip(state // width + (action == 1) - (action == 3), 0, height - 1)
        column = jnp.clip(state % width + (action == 2) - (action == 0), 0, width - 1)
        over = (kinds[state] == HOLE) | (kinds[state] == GOAL)
        next_state = jnp.where(over, state, row * width + column)
        kind = kinds[next_state]
        reward = jnp.where(kind == GOAL, goal, jnp.where(kind == HOLE, hole, frozen))
        return next_state, jnp.where(over, 0.0, reward), (kind == HOLE) | (kind == GOAL)

    straight = lake.success_rate if lake.is_slippery else 1.0
    probabilities = {0: straight, 1: (1.0 - straight) / 2.0, -1: (1.0 - straight) / 2.0}
    alternatives = [
        (probability, lambda state, action, turn=turn: transition(state, action, turn))
        for turn, probability in probabilities.items()
        if probability > 0.0
    ]
    return _model_of_transitions(alternatives, (tiles.ravel() == START).astype(float), 4)
