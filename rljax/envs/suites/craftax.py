"""Craftax: an open world after Crafter and NetHack (Matthews et al. 2024), ids such as `craftax/Craftax-Symbolic-v1`.

Death, and in the full game the boss's defeat, terminates; `max_timesteps` truncates. Every step reports `achievements`,
how many of the 22 of Craftax-Classic, or the 67 of Craftax, the episode has unlocked so far. The settings are the
fields of the suite's `EnvParams`.

Programs take minutes to compile on a CPU, longest for the full game.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, timestep
from rljax.envs.spaces import Box, Discrete
from rljax.envs.suites.adapting import construct_once, narrowly, replace_params, require_known

PREFIX = "craftax/"
GAMES = (
    "Craftax-Classic-Symbolic-v1",
    "Craftax-Classic-Pixels-v1",
    "Craftax-Symbolic-v1",
    "Craftax-Pixels-v1",
)
INFO = {"achievements": "last"}
_NEVER = np.int32(2**31 - 1)


def registered() -> list[str]:
    """The ids of Craftax."""
    return [f"{PREFIX}{game}" for game in GAMES]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make a game by id; settings are fields of the suite's `EnvParams`, such as `max_timesteps`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    require_known(name, registered())
    game = _construct(name)
    space = game.observation_space(game.default_params)
    return Env(
        reset=Bound(_reset, (name,)),
        step=Bound(_step, (name,)),
        observation_space=Box(0.0, 1.0, tuple(space.shape)),
        action_space=Discrete(int(game.num_actions)),
        params=replace_params(_default_params(name), settings, name),
        name=name,
        info=INFO,
        recipe=((name, ()),),
        default_params=Bound(_default_params, (name,)),
    )


def _default_params(name: str) -> Any:
    return _construct(name).default_params


@construct_once
def _construct(name: str) -> Any:
    from craftax.craftax_env import make_craftax_env_from_name

    return make_craftax_env_from_name(name.removeprefix(PREFIX), auto_reset=False)


@narrowly
def _reset(name: str, key: jax.Array, params: Any) -> tuple[jax.Array, Any]:
    obs, state = _construct(name).reset_env(key, params)
    return obs.astype(jnp.float32), state


@narrowly
def _step(name: str, key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[TimeStep, Any]:
    # Without a limit, an end is one of the game.
    endless = dataclasses.replace(params, max_timesteps=_NEVER)
    obs, state, reward, terminated, _ = _construct(name).step_env(key, state, action, endless)
    truncated = state.timestep >= params.max_timesteps
    info = {"achievements": state.achievements.sum()}
    return timestep(obs.astype(jnp.float32), reward, terminated, truncated, info), state
