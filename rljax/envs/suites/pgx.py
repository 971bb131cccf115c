"""Pgx's MinAtar: the original games with sticky actions, in JAX (Koyamada et al. 2023; Young and Tian 2019).

Ids are such as `pgx/minatar-breakout`. An observation is bool planes `[10, 10, C]`, one for each kind of object. The
last action is repeated with the probability `sticky_action_prob`, 0.1 as in the original. Only `minimal_actions=False`
has the actions without an effect in a game, six in all.

The original games have no time limit, and only Freeway ends by a clock, which terminates: 2,500 steps are the game.
`max_steps_in_episode` truncates, so that every evaluation ends.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, timestep
from rljax.envs.spaces import Box, Discrete
from rljax.envs.suites.adapting import (
    as_params,
    construct_once,
    narrowly,
    replace_params,
    require_known,
    split_settings,
)
from rljax.errors import UsageError, shown

PREFIX = "pgx/"
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


@as_params
class Params:
    """Numbers that may change in a game without another program."""

    max_steps_in_episode: int = 10_000
    sticky_action_prob: float = 0.1


class State(NamedTuple):
    """The state of a game, and the steps since its reset."""

    inner: Any
    time: jax.Array  # [] int32


def registered() -> list[str]:
    """The ids of MinAtar's games; Pgx's other games have several players."""
    return [f"{PREFIX}minatar-{game}" for game in GAMES]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make a game by id; settings are its `Params` and `minimal_actions`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    require_known(name, registered())
    of_params, form = split_settings(settings, vars(Params()), ("minimal_actions",), name)
    minimal = form.get("minimal_actions", True)
    if not isinstance(minimal, bool):
        raise UsageError(f"minimal_actions of {name} must be True or False, got {shown(minimal)}.")
    game = _construct(name, minimal)
    return Env(
        reset=Bound(_reset, ((name, minimal),)),
        step=Bound(_step, ((name, minimal),)),
        observation_space=Box(0, 1, game.observation_shape, np.bool_),
        action_space=Discrete(game.num_actions),
        params=replace_params(Params(), of_params, name),
        name=name,
        recipe=((name, tuple(form.items())),),
        default_params=Params,
    )


@construct_once
def _construct(name: str, minimal: bool) -> Any:
    import pgx

    return type(pgx.make(name.removeprefix(PREFIX)))(use_minimal_action_set=minimal)


@narrowly
def _reset(what: tuple[str, bool], key: jax.Array, params: Params) -> tuple[jax.Array, State]:
    state = _construct(*what).init(key)
    return state.observation, State(state, jnp.int32(0))


@narrowly
def _step(
    what: tuple[str, bool], key: jax.Array, state: State, action: jax.Array, params: Params
) -> tuple[TimeStep, State]:
    # Made again with the params' probability, which may be traced.
    game = type(_construct(*what))(use_minimal_action_set=what[1], sticky_action_prob=params.sticky_action_prob)
    after, time = game.step(state.inner, action, key), state.time + 1
    truncated = after.truncated | (time >= params.max_steps_in_episode)
    return timestep(after.observation, after.rewards[0], after.terminated, truncated), State(after, time)
