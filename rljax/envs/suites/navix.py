"""Navix: the grid worlds of MiniGrid in JAX (Pignatelli et al. 2024), ids such as `navix/Navix-Empty-8x8-v0`.

An observation is the grid `[H, W, 21]` in bool planes: 11 for what is in a cell, 6 for its colour and 4 for its state,
which is the agent's direction or whether a door is open, closed or locked. Settings choose another one:
`observation="symbolic_first_person"` is what the agent sees of it, 7 x 7 cells, `"rgb"` and `"rgb_first_person"` are
images, and `one_hot=False` gives the integers `[H, W, 3]` instead of planes.

The mission of `GoToDoor`, `GoToObject`, `Fetch` and `PutNear` is not observed: Navix shows it in none of them.
"""

from typing import Any

import jax
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, timestep
from rljax.envs.spaces import Box, Discrete
from rljax.envs.suites.adapting import (
    as_params,
    construct_once,
    narrowly,
    planes,
    replace_params,
    require_known,
    split_settings,
)
from rljax.errors import UsageError, shown, suggest

PREFIX = "navix/"
OBSERVATIONS = ("symbolic", "symbolic_first_person", "rgb", "rgb_first_person")
CATEGORIES = (11, 6, 4)  # of objects, colours and states


@as_params
class Params:
    """Numbers that may change in an environment without another program.

    A success is worth 1 less `penalty_coeff` times the part of the time limit that it took; MiniGrid's is 0.9.
    """

    max_steps_in_episode: int = 100
    penalty_coeff: float = 0.0


def registered() -> list[str]:
    """The ids of Navix."""
    import navix

    return [f"{PREFIX}{name}" for name in navix.registry()]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make an environment by id; settings are its `Params`, `observation` and `one_hot`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    require_known(name, registered())
    of_params, form = split_settings(settings, vars(Params()), ("observation", "one_hot"), name)
    observation, one_hot = form.get("observation", OBSERVATIONS[0]), form.get("one_hot", True)
    if observation not in OBSERVATIONS:
        raise UsageError(
            f"There is no observation {shown(observation)} of {name}: {suggest(observation, OBSERVATIONS)}"
        )
    if not isinstance(one_hot, bool):
        raise UsageError(f"one_hot of {name} must be True or False, got {shown(one_hot)}.")
    what = (name, observation, one_hot and "rgb" not in observation)
    environment = _construct(name, observation)
    return Env(
        reset=Bound(_reset, (what,)),
        step=Bound(_step, (what,)),
        observation_space=_space(environment.observation_space.shape, observation, what[2]),
        action_space=Discrete(int(environment.action_space.n)),
        params=replace_params(_default_params(name), of_params, name),
        name=name,
        recipe=((name, tuple(form.items())),),
        default_params=Bound(_default_params, (name,)),
    )


def _space(shape: tuple[int, ...], observation: str, one_hot: bool) -> Box:
    if one_hot:
        return Box(0, 1, (*shape[:-1], sum(CATEGORIES)), np.bool_)
    return Box(0, 255 if "rgb" in observation else np.array(CATEGORIES) - 1, shape, np.uint8)


def _default_params(name: str) -> Params:
    environment = _construct(name, OBSERVATIONS[0])
    return Params(environment.max_steps, environment.penalty_coeff)


@construct_once
def _construct(name: str, observation: str) -> Any:
    import navix

    observe = getattr(navix.observations, observation)
    return navix.make(name.removeprefix(PREFIX), observation_fn=observe, disable_autoreset=True)


@narrowly
def _reset(what: tuple[str, str, bool], key: jax.Array, params: Params) -> tuple[jax.Array, Any]:
    environment = _construct(*what[:2])
    return _observed(what, environment.reset(key))


@narrowly
def _step(
    what: tuple[str, str, bool], key: jax.Array, state: Any, action: jax.Array, params: Params
) -> tuple[TimeStep, Any]:
    limits = {"max_steps": params.max_steps_in_episode, "penalty_coeff": params.penalty_coeff}
    environment = _construct(*what[:2]).replace(**limits)
    # _step, not step: under vmap, step also computes the reset that is disabled.
    result = environment._step(state, action)
    obs, state = _observed(what, result)
    return timestep(obs, result.reward, result.is_termination(), result.is_truncation()), state


def _observed(what: tuple[str, str, bool], result: Any) -> tuple[jax.Array, Any]:
    """The observation, and the state without it and without the tiles of an image that is not drawn."""
    _, observation, one_hot = what
    world = result.state if "rgb" in observation else result.state.replace(cache=None)
    obs = planes(result.observation, CATEGORIES) if one_hot else result.observation
    return obs, result.replace(observation=None, state=world)
