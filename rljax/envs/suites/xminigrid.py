"""XLand-MiniGrid: grid worlds with rules that may change (Nikulin et al. 2023), and ports of MiniGrid.

Ids are such as `xminigrid/MiniGrid-DoorKey-5x5` and `xminigrid/XLand-MiniGrid-R1-9x9`. An observation is what the agent
sees, `view_size` x `view_size` cells, in 25 bool planes: 13 for what is in a cell and 12 for its colour.
`one_hot=False` gives the integers `[view_size, view_size, 2]` instead.

A task of XLand is a goal, rules and objects: without them, as by default, every reward is 0. `goal`, `rules` and
`init_tiles` are params, so that tasks of one shape can be swept; a `ruleset` of the suite's benchmarks has all three.
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
from rljax.errors import UsageError, number, shown

PREFIX = "xminigrid/"
CATEGORIES = (13, 12)  # of objects and colours


@as_params
class Params:
    """The time limit of a port of MiniGrid."""

    max_steps_in_episode: int = 100


@as_params
class TaskParams:
    """The time limit and the task of an XLand: the fields of the suite's `RuleSet`, in its encoding."""

    max_steps_in_episode: int = 100
    goal: Any = None  # [5] uint8
    rules: Any = None  # [rules, 7] uint8
    init_tiles: Any = None  # [objects, 2] uint8


def registered() -> list[str]:
    """The ids of XLand-MiniGrid."""
    import xminigrid

    return [f"{PREFIX}{name}" for name in xminigrid.registered_environments()]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make an environment by id; settings are its params, `view_size`, an odd integer, and `one_hot`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    require_known(name, registered())
    defaults = _default_params(name)
    of_params, form = split_settings(settings, vars(defaults), ("view_size", "one_hot"), name)
    one_hot = form.get("one_hot", True)
    if not isinstance(one_hot, bool):
        raise UsageError(f"one_hot of {name} must be True or False, got {shown(one_hot)}.")
    _, theirs = _construct(name)
    view = number(f"view_size of {name}", form.get("view_size", theirs.view_size), integer=True, minimum=3, maximum=99)
    if view % 2 == 0:
        raise UsageError(f"view_size of {name} must be odd, got {view}.")
    for field, shape in (("goal", (5,)), ("rules", (None, 7)), ("init_tiles", (None, 2))):
        if field in of_params:
            of_params[field] = _encoded(f"{field} of {name}", of_params[field], shape)
    what = (name, view, one_hot)
    bounds = (1, np.bool_, sum(CATEGORIES)) if one_hot else (np.array(CATEGORIES) - 1, np.uint8, len(CATEGORIES))
    return Env(
        reset=Bound(_reset, (what,)),
        step=Bound(_step, (what,)),
        observation_space=Box(0, bounds[0], (view, view, bounds[2]), bounds[1]),
        action_space=Discrete(_construct(name)[0].num_actions(theirs)),
        params=replace_params(defaults, of_params, name),
        name=name,
        recipe=((name, tuple(form.items())),),
        default_params=Bound(_default_params, (name,)),
    )


def _encoded(what: str, value: Any, shape: tuple[int | None, ...]) -> Any:
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        array = np.asarray(value, np.uint8)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0, np.uint8)
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise UsageError(
            f"{what} must be integers of the shape ({wanted}), got {shown(value)}: pass those of a RuleSet."
        )
    return array


def _default_params(name: str) -> Params | TaskParams:
    _, theirs = _construct(name)
    if not hasattr(theirs, "ruleset"):
        return Params(theirs.max_steps)
    task = theirs.ruleset
    return TaskParams(theirs.max_steps, *map(np.asarray, (task.goal, task.rules, task.init_tiles)))


@construct_once
def _construct(name: str) -> tuple[Any, Any]:
    import xminigrid

    made: tuple[Any, Any] = xminigrid.make(name.removeprefix(PREFIX))
    return made


def _configured(what: tuple[str, int, bool], params: Any) -> tuple[Any, Any]:
    """The suite's environment and its params."""
    name, view, _ = what
    environment, theirs = _construct(name)
    theirs = theirs.replace(view_size=view, max_steps=params.max_steps_in_episode)
    if isinstance(params, TaskParams):
        task = {"goal": params.goal, "rules": params.rules, "init_tiles": params.init_tiles}
        theirs = theirs.replace(ruleset=theirs.ruleset.replace(**jax.tree.map(jax.numpy.asarray, task)))
    return environment, theirs


@narrowly
def _reset(what: tuple[str, int, bool], key: jax.Array, params: Any) -> tuple[jax.Array, Any]:
    environment, theirs = _configured(what, params)
    return _observed(what, environment.reset(theirs, key))


@narrowly
def _step(
    what: tuple[str, int, bool], key: jax.Array, state: Any, action: jax.Array, params: Any
) -> tuple[TimeStep, Any]:
    environment, theirs = _configured(what, params)
    result = environment.step(theirs, state, action)
    is_terminal = result.discount == 0.0  # a last step of discount 1 is the time limit
    obs, state = _observed(what, result)
    return timestep(obs, result.reward, result.last() & is_terminal, result.last() & ~is_terminal), state


def _observed(what: tuple[str, int, bool], result: Any) -> tuple[jax.Array, Any]:
    """The observation, and the state without it."""
    obs = planes(result.observation, CATEGORIES) if what[2] else result.observation
    return obs, result.replace(observation=None)
