"""Probe environments: worlds of a few states whose best actions are known, each of which one mistake gets wrong."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, timestep
from rljax.envs.spaces import Box, Discrete, Space

DISCOUNT = 0.9  # for which the best actions hold
STATES, ACTIONS = 2, 2


class World(NamedTuple):
    """A world as tables of `[S, A]`, the params of a probe: all probes share one program."""

    start: Any
    """The probability of each state to begin in, `[S]`."""
    following: Any
    """The next state."""
    rewards: Any
    terminated: Any
    """Whether the episode ends."""
    truncated: Any
    """Whether it is cut."""


class Probe(NamedTuple):
    """A world, the best action of each state that it is about, and what to check in a learner that fails."""

    world: World
    best: dict[int, int]
    remedy: str


_ENDS = np.ones((STATES, ACTIONS), bool)
_GOES_ON = np.array([[False, True], [False, False]])  # only the action 1 of state 0
_STAYS = np.array([[0, 0], [1, 1]])
_MOVES = np.array([[0, 1], [1, 1]])
_NEVER = np.zeros((STATES, ACTIONS), bool)

PROBES = {
    "reward": Probe(
        World(np.array([1.0, 0.0]), _STAYS, np.array([[0.0, 1.0], [0.0, 0.0]]), _ENDS, _NEVER),
        {0: 1},
        "check the sign of the loss, and that its actions are those that were taken",
    ),
    "observation": Probe(
        World(np.array([0.5, 0.5]), _STAYS, np.eye(2), _ENDS, _NEVER),
        {0: 0, 1: 1},
        "check that observations and rewards belong to the same steps",
    ),
    "termination": Probe(
        # With a bootstrap over the end the smaller reward comes sooner and again: 0.6 / (1 - 0.9) > 0.9 / (1 - 0.81).
        World(np.array([1.0, 0.0]), _MOVES, np.array([[0.6, 0.0], [1.0, 1.0]]), _ENDS ^ _GOES_ON, _NEVER),
        {0: 1},
        "check that targets bootstrap at every step except at terminations",
    ),
    "truncation": Probe(
        # The state behind the limit is worth 3; if the limit counts as an end, it seems to be worth nothing.
        World(np.array([0.5, 0.5]), _MOVES, np.array([[1.5, 0.0], [3.0, 3.0]]), _ENDS ^ _GOES_ON, _GOES_ON),
        {0: 1},
        "check that targets bootstrap at truncations, from their next_obs",
    ),
}


def probe(world: World, observation_space: Space, action_space: Space) -> Env:
    """A probe as an environment.

    Observations are states, integers if those of `observation_space` are, else one-hot; actions are two, or if those of
    `action_space` are continuous one number u in [-1, 1], which stands for action 1 with probability (1 + u) / 2.
    """
    is_index = isinstance(observation_space, Discrete)
    is_continuous = isinstance(action_space, Box)
    return Env(
        name="probe",
        reset=Bound(_reset, (is_index,)),
        step=Bound(_step, (is_index, is_continuous)),
        params=jax.tree.map(jnp.asarray, world),
        observation_space=Discrete(STATES) if is_index else Box(0.0, 1.0, (STATES,)),
        action_space=Box(-1.0, 1.0, (1,)) if is_continuous else Discrete(ACTIONS),
    )


def observed(state: Any, is_index: bool) -> Any:
    """The observations `[...]` or `[..., S]` of states `[...]`."""
    return jnp.asarray(state, jnp.int32) if is_index else jax.nn.one_hot(state, STATES)


def _reset(is_index: bool, key: jax.Array, world: World) -> tuple[Any, Any]:
    state = (jax.random.uniform(key) >= world.start[0]).astype(jnp.int32)
    return observed(state, is_index), state


def _step(
    is_index: bool, is_continuous: bool, key: jax.Array, state: Any, action: Any, world: World
) -> tuple[TimeStep, Any]:
    # By chance, so that the value is linear in a continuous action and has a gradient everywhere.
    drawn = (jax.random.uniform(key) < (1.0 + action[0]) / 2.0).astype(jnp.int32) if is_continuous else action
    entry = state, drawn
    following = world.following[entry].astype(jnp.int32)
    ends = world.terminated[entry], world.truncated[entry]
    return timestep(observed(following, is_index), world.rewards[entry], *ends), following


def chosen(action: Any, is_continuous: bool) -> Any:
    """The likelier actions `[...]`, 0 or 1, of an environment's actions."""
    return (action[..., 0] > 0).astype(jnp.int32) if is_continuous else action
