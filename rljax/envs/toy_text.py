"""Tabular worlds in gymnax's interface, registered with it: Taxi, CliffWalking and a GridWorld maze, and their models.

Each world's rules are one function of a state's number and an action; the model is made by asking it everywhere.
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

Outcome = tuple[jax.Array, jax.Array, jax.Array]  # next state, reward, terminated


@struct.dataclass
class State(environment.EnvState):
    """Where a world stands."""

    index: jax.Array  # [] int32


@struct.dataclass
class Params(environment.EnvParams):
    """Settings of a world; Taxi's time limit is Gymnasium's, the others' is ours, since theirs never end."""

    max_steps_in_episode: int = 200


class World(environment.Environment[State, Params]):
    """A deterministic world given by its outcome function: the plumbing that gymnax asks for.

    Args:
        outcome: `(state [], action []) -> (next state, reward, terminated)`.
        first: `[S]` bool, the states to start in, all of them equally likely.
        num_actions: A.
        name: its id.
    """

    def __init__(self, outcome: Callable[..., Outcome], first: np.ndarray, num_actions: int, name: str) -> None:
        self.outcome = outcome
        self.start = first / first.sum()
        self._num_actions = num_actions
        self._name = name
        self._first_states = jnp.asarray(np.flatnonzero(first), jnp.int32)

    @property
    def default_params(self) -> Params:
        """The time limit."""
        return Params()

    @property
    def name(self) -> str:
        """The world's id."""
        return self._name

    @property
    def num_actions(self) -> int:
        """A."""
        return self._num_actions

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        """A first state."""
        chosen = jax.random.randint(key, (), 0, len(self._first_states))
        state = State(time=0, index=self._first_states[chosen])
        return state.index, state

    def step_env(
        self, key: jax.Array, state: State, action: Any, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[Any, Any]]:
        """One transition, without a reset."""
        following, reward, terminated = self.outcome(state.index, action)
        state = State(time=state.time + 1, index=following)
        return state.index, state, reward, terminated, {}

    def observe(self, key: jax.Array, state: State, action: Any, params: Params) -> jax.Array:
        """The state's number."""
        return state.index

    def action_space(self, params: Params | None = None) -> spaces.Discrete:
        """The actions."""
        return spaces.Discrete(self._num_actions)

    def observation_space(self, params: Params) -> spaces.Discrete:
        """The states' numbers."""
        return spaces.Discrete(len(self.start))


# Taxi (Dietterich 2000), by Gymnasium's rules without rain or fickle passengers.
_STOPS = np.array([(0, 0), (0, 4), (4, 0), (4, 3)])  # R, G, Y, B

_ABOARD = 4

# Whether the way east from (row, column) is free; the last column is the border.
_EAST_FREE = np.array([[1, 0, 1, 1, 0], [1, 0, 1, 1, 0], [1, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 0]], bool)


def _taxi_outcome(state: jax.Array, action: jax.Array) -> Outcome:
    """Actions: south, north, east, west, pick up, drop off. State: ((row 5 + column) 5 + passenger) 4 + destination."""
    stops, east_free = jnp.asarray(_STOPS), jnp.asarray(_EAST_FREE)
    place, destination = state // 4, state % 4
    place, passenger = place // 5, place % 5
    row, column = place // 5, place % 5
    at_stop = jnp.all(stops == jnp.stack([row, column]), axis=-1)  # [4]
    stop = jnp.argmax(at_stop)

    next_row = jnp.clip(row + (action == 0) - (action == 1), 0, 4)
    east = (action == 2) & east_free[row, column]
    west = (action == 3) & (column > 0) & east_free[row, jnp.maximum(column - 1, 0)]
    next_column = column + east - west

    picks_up = (action == 4) & (passenger < _ABOARD) & at_stop.any() & (passenger == stop)
    puts_down = (action == 5) & (passenger == _ABOARD) & at_stop.any()
    arrives = puts_down & (stop == destination)
    next_passenger = jnp.where(picks_up, _ABOARD, jnp.where(puts_down, stop, passenger))
    refused = ((action == 4) & ~picks_up) | ((action == 5) & ~puts_down)
    reward = jnp.where(arrives, 20.0, jnp.where(refused, -10.0, -1.0))
    following = ((next_row * 5 + next_column) * 5 + next_passenger) * 4 + destination
    return following.astype(jnp.int32), reward, arrives


def taxi() -> World:
    """Taxi-v3: 500 states, 6 actions; bring the passenger to the destination (Dietterich 2000)."""
    _, passenger, destination = np.unravel_index(np.arange(500), (25, 5, 4))
    return World(_taxi_outcome, (passenger < _ABOARD) & (passenger != destination), 6, "Taxi-v3")


def _cliff_outcome(state: jax.Array, action: jax.Array) -> Outcome:
    """Actions: up, right, down, left on a grid of 4 x 12."""
    row = jnp.clip(state // 12 + (action == 2) - (action == 0), 0, 3)
    column = jnp.clip(state % 12 + (action == 1) - (action == 3), 0, 11)
    fell = (row == 3) & (column > 0) & (column < 11)
    following = jnp.where(fell, 36, row * 12 + column)
    return following.astype(jnp.int32), jnp.where(fell, -100.0, -1.0), following == 47


def cliff_walking() -> World:
    """CliffWalking-v1: 48 states, 4 actions; a fall costs 100 and leads back (Sutton and Barto 2018, example 6.6)."""
    return World(_cliff_outcome, np.arange(48) == 36, 4, "CliffWalking-v1")


DYNA_MAZE = (".......#G", "..#....#.", "S.#....#.", "..#......", ".....#...", ".........")


def grid_world(desc: Sequence[str] = DYNA_MAZE) -> World:
    """GridWorld-misc: find the goal of a maze; a step costs 1, so that the return is minus the number of steps.

    Args:
        desc: rows of "." free, "#" wall, one "S" start and one "G" goal; by default the maze of Sutton and Barto 2018,
            figure 8.2, whose shortest way has 14 steps. Actions are left, down, right, up.
    """
    rows = [list(row) for row in desc]
    flat = [tile for row in rows for tile in row]
    if len({len(row) for row in rows}) != 1 or set(flat) - set(".#SG") or flat.count("S") != 1 or flat.count("G") != 1:
        raise UsageError(
            f"A GridWorld's desc is rows of equal length of '.', '#', one 'S' and one 'G', got {list(desc)}."
        )
    tiles = np.array(rows)
    height, width = tiles.shape
    walls = (tiles == "#").ravel()
    start, goal = flat.index("S"), flat.index("G")

    def outcome(state: jax.Array, action: jax.Array) -> Outcome:
        row = jnp.clip(state // width + (action == 1) - (action == 3), 0, height - 1)
        column = jnp.clip(state % width + (action == 2) - (action == 0), 0, width - 1)
        aim = row * width + column
        inside = jnp.asarray(walls)[state]  # where nobody comes: over at once, so that the model has a value there
        following = jnp.where(inside | jnp.asarray(walls)[aim], state, aim).astype(jnp.int32)
        return following, jnp.where(inside, 0.0, -1.0), inside | (following == goal)

    return World(outcome, np.arange(len(flat)) == start, 4, "GridWorld-misc")


WORLDS = {"Taxi-v3": taxi, "CliffWalking-v1": cliff_walking, "GridWorld-misc": grid_world}


def register() -> None:
    """Tell gymnax of the worlds, once: at the first `rljax.make`, as `import rljax` alone does not import gymnax."""
    for name, factory in WORLDS.items():
        if name not in gymnax.registered_envs:
            gymnax.register(name, factory)


def model(world: Any) -> Model | None:
    """The exact model of a gymnax environment object of a kind that has one."""
    if isinstance(world, World):
        return _model_of_outcomes([(1.0, world.outcome)], world.start, world.num_actions)
    if isinstance(world, FrozenLake):
        return _frozen_lake_model(world)
    return None


def _model_of_outcomes(outcomes: list[tuple[float, Callable[..., Outcome]]], start: np.ndarray, actions: int) -> Model:
    """The model of a world whose step has one of several outcomes, each with a probability."""
    states = len(start)
    where = np.repeat(np.arange(states), actions), np.tile(np.arange(actions), states)
    transitions = np.zeros((states, actions, states))
    rewards = np.zeros((states, actions))
    terminated = np.zeros((states, actions, states), bool)
    for probability, outcome in outcomes:
        following, reward, ended = (np.asarray(x) for x in jax.vmap(outcome)(*map(jnp.asarray, where)))
        np.add.at(transitions, (*where, following), probability)
        np.add.at(rewards, where, probability * reward)
        terminated[(*where, following)] |= ended
    return Model(*map(jnp.asarray, (transitions, rewards, terminated, start)))


def _frozen_lake_model(lake: FrozenLake) -> Model:
    tiles = np.asarray(lake.desc)
    height, width = tiles.shape
    kinds = jnp.asarray(tiles.ravel())
    goal, hole, frozen = (float(reward) for reward in lake.reward_schedule)

    def outcome(state: jax.Array, action: jax.Array, turn: int) -> Outcome:
        action = (action + turn) % 4  # left, down, right, up
        row = jnp.clip(state // width + (action == 1) - (action == 3), 0, height - 1)
        column = jnp.clip(state % width + (action == 2) - (action == 0), 0, width - 1)
        over = (kinds[state] == HOLE) | (kinds[state] == GOAL)
        following = jnp.where(over, state, row * width + column)
        kind = kinds[following]
        reward = jnp.where(kind == GOAL, goal, jnp.where(kind == HOLE, hole, frozen))
        return following, jnp.where(over, 0.0, reward), (kind == HOLE) | (kind == GOAL)

    straight = lake.success_rate if lake.is_slippery else 1.0
    chances = {0: straight, 1: (1.0 - straight) / 2.0, -1: (1.0 - straight) / 2.0}
    outcomes = [
        (chance, lambda state, action, turn=turn: outcome(state, action, turn))
        for turn, chance in chances.items()
        if chance > 0.0
    ]
    return _model_of_outcomes(outcomes, (tiles.ravel() == START).astype(float), 4)
