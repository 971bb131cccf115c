"""Octax: CHIP-8 games from pixels, emulated in JAX, by id: `octax/pong`.

An observation is bool `[64, 32, 4]`: the last four frames as channels, where Octax has them first. The last action
presses no key. An episode is truncated after `max_steps_in_episode` steps, 4,500 unless it is changed. Every episode
begins in the same state, as a cartridge does, with other random numbers for the game. Other settings are arguments of
`OctaxEnv`, such as `frame_skip`. Levels have ids of their own, such as `octax/cavern1`.
"""

import functools
import importlib.util
import pathlib
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, timestep
from rljax.envs.spaces import Box, Discrete
from rljax.envs.suites.adapting import as_params, in_32_bits, replace_params, require_known, split_settings
from rljax.errors import UsageError

PREFIX = "octax/"
_SETTINGS = ("instruction_frequency", "frame_skip", "disable_delay")


@as_params
class Params:
    """What can be changed without making the environment again."""

    max_steps_in_episode: int = 4500


def registered() -> list[str]:
    """The ids of the games in the package, read from its files."""
    spec = importlib.util.find_spec("octax")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = pathlib.Path(spec.submodule_search_locations[0])
    games = sorted(path.stem for path in (folder / "environments").glob("[!_]*.py"))
    cartridges = sorted(path.stem for path in (folder.parent / "roms").glob("*.ch8"))
    levels = {game: [x for x in cartridges if re.fullmatch(rf"{game}\d+", x)] for game in games}
    return [f"{PREFIX}{name}" for game in games for name in levels[game] or [game]]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make a game by id; settings are `max_steps_in_episode`, `frame_skip`, `instruction_frequency`, `disable_delay`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    require_known(name, registered())
    limit, others = split_settings(settings, vars(Params()), _SETTINGS, name)
    arguments = tuple(sorted(others.items()))
    try:
        environment = _construct(name, arguments)
        obs, _ = jax.eval_shape(Bound(_reset, (environment,)), jax.random.key(0), Params())
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name} cannot be made with these settings: {' '.join(str(error).split())[:200]}") from None
    return Env(
        reset=Bound(_reset, (environment,)),
        step=Bound(_step, (environment,)),
        observation_space=Box(0.0, 1.0, obs.shape, obs.dtype),
        action_space=Discrete(int(environment.num_actions)),
        params=replace_params(Params(), limit, name),
        name=name,
        recipe=((name, arguments),),
        default_params=Params,
        render=Bound(_render, (environment,)),
    )


def _reset(environment: Any, key: jax.Array, params: Params) -> tuple[Any, Any]:
    with jax.enable_x64(False):
        state, frames, _ = in_32_bits(environment.reset(jax.random.key_data(key)))
        return _as_channels(frames), state


def _step(environment: Any, key: jax.Array, state: Any, action: Any, params: Params) -> tuple[TimeStep, Any]:
    with jax.enable_x64(False), warnings.catch_warnings(action="ignore"):  # of its 8-bit registers' types
        state, action = in_32_bits((state, action))
        state, frames, reward, terminated, _, _ = in_32_bits(environment.step(state, action))
        truncated = state.time >= jnp.int32(params.max_steps_in_episode)
        return timestep(_as_channels(frames), reward, terminated, truncated), state


def _as_channels(frames: jax.Array) -> jax.Array:
    return jnp.moveaxis(frames, 0, -1)


@functools.cache
def _construct(name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """The game, one for an id and settings: making it twice then gives equal static parts."""
    from octax.environments import create_environment

    environment, _ = create_environment(name.removeprefix(PREFIX), render_mode="rgb_array", **dict(arguments))
    return environment


def _render(environment: Any, state: Any, params: Params) -> np.ndarray:
    """Octax's picture of a state, uint8 `[256, 512, 3]`."""
    return np.asarray(environment.render(state), np.uint8)
