"""Jumanji: puzzles, packing and routing (Bonnet et al. 2024), ids such as `jumanji/Snake-v1`.

Observations are dicts of the suite's fields, without the action mask, which becomes `legal_actions`, and without the
step count. If one field is left, as in Snake and 2048, the observation is that array. Where several integers choose one
move, as in Tetris and Sudoku, all combinations are numbered as one `Discrete`, the last integer first. Several agents
are one agent with a `MultiDiscrete` action, paid the sum of their rewards, as in Jumanji's `MultiToSingleWrapper`.

Jumanji ends episodes at its time limits as if they were terminations. Here the limits in `TIME_LIMITS` truncate, and
`max_steps_in_episode` changes them. Other ends by a count of steps belong to their task: FlatPack has one step for each
block, MultiCVRP pays for the customers that it has not served after twice as many steps, and the rewards of
SearchAndRescue fall to zero at its `time_limit`.

Sokoban is left out, since its levels must be downloaded.
"""

import copy
import dataclasses
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, is_data, timestep
from rljax.envs.spaces import Box, Discrete, Leaf, MultiDiscrete, space_of_leaves
from rljax.envs.suites.adapting import (
    as_params,
    construct_once,
    narrowly,
    replace_params,
    require_known,
    split_settings,
)
from rljax.errors import UsageError, located

PREFIX = "jumanji/"
LEFT_OUT = ("Sokoban-v0",)

TIME_LIMITS = (
    "Cleaner",
    "Connector",
    "LevelBasedForaging",
    "MMST",  # at most the `time_limit` that it is made with, since its state has room for as many steps
    "Maze",
    "PacMan",
    "RobotWarehouse",
    "RubiksCube",
    "SlidingTilePuzzle",
    "Snake",
    "Tetris",
)
"""The classes whose `time_limit` cuts an episode off."""

_JOINT = ("BinPack", "FlatPack", "Minesweeper", "RubiksCube", "Sudoku", "Tetris")  # several integers, one move
_NOT_OBSERVED = ("action_mask", "step_count")
_NEVER = np.int32(2**31 - 1)

What = tuple[str, tuple[tuple[str, Any], ...]]  # an id and settings of its constructor


@as_params
class Params:
    """The time limit."""

    max_steps_in_episode: int = 100


class State(NamedTuple):
    """The suite's state, its action mask, and the steps since the reset."""

    inner: Any
    mask: Any  # () if the environment has none
    time: jax.Array  # [] int32


def registered() -> list[str]:
    """The ids of Jumanji, except Sokoban's."""
    import jumanji

    return [f"{PREFIX}{name}" for name in sorted(jumanji.registered_environments()) if name not in LEFT_OUT]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make an environment by id; settings are `max_steps_in_episode` and plain arguments of its constructor.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    if name.removeprefix(PREFIX) in LEFT_OUT:
        raise UsageError(f"{name} is not supported, since its levels must be downloaded: choose another environment.")
    require_known(name, registered())
    kind = type(_construct((name, ())))
    is_limited = kind.__name__ in TIME_LIMITS
    arguments = [argument for argument in inspect.signature(kind).parameters if _is_plain(kind, argument)]
    of_params, form = split_settings(settings, vars(Params()) if is_limited else (), arguments, name)
    if not is_data(tuple(form.values())):
        raise UsageError(f"Settings of {name} must be numbers or text, got {form}.")
    what = (name, tuple(sorted(form.items())))
    try:
        environment = _construct(what)
        obs, state = jax.eval_shape(Bound(_reset, (what,)), jax.random.key(0), ())
    except Exception as error:
        raise UsageError(f"{name} cannot be made with these settings: {located(error)}.") from None
    return Env(
        reset=Bound(_reset, (what,)),
        step=Bound(_step, (what,)),
        observation_space=_space(environment.observation_spec, obs),
        action_space=_action_space(environment),
        legal_actions=None if isinstance(state.mask, tuple) and not state.mask else _legal_actions,
        params=replace_params(_default_params(what), of_params, name) if is_limited else (),
        name=name,
        recipe=(what,),
        default_params=Bound(_default_params, (what,)) if is_limited else None,
    )


def _is_plain(kind: type, argument: str) -> bool:
    """True if an argument is a number, and not a time limit that is a param."""
    limit_is_param = kind.__name__ in TIME_LIMITS and kind.__name__ != "MMST"
    return argument not in ("generator", "viewer", "reward_fn", "self") and not (
        argument == "time_limit" and limit_is_param
    )


@construct_once
def _construct(what: What) -> Any:
    import jumanji

    name, settings = what
    return jumanji.make(name.removeprefix(PREFIX), **dict(settings))


def _default_params(what: What) -> Params:
    return Params(int(_construct(what).time_limit))


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a nested observation, or of its spec, by name; None for an array."""
    from jumanji import specs

    if isinstance(value, specs.Spec):
        parts = {} if isinstance(value, specs.Array) else vars(value)
        return {name: part for name, part in parts.items() if isinstance(part, specs.Spec)} or None
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    return (
        {f.name: getattr(value, f.name) for f in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else None
    )


def _nested(value: Any, is_top: bool = True) -> Any:
    """An observation, or its spec, as dicts of what is observed; a single field is not nested."""
    fields = _fields(value)
    if fields is None:
        return value
    kept = {name: _nested(part, False) for name, part in fields.items() if name not in _NOT_OBSERVED}
    return next(iter(kept.values())) if is_top and len(kept) == 1 else kept


def _space(spec: Any, obs: Any) -> Any:
    """The space of observations of these shapes and types."""
    from jumanji import specs

    def space(spec: Any, x: Any) -> Leaf:
        if isinstance(spec, specs.DiscreteArray):
            return Discrete(int(spec.num_values))
        low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
        return Box(np.asarray(low, np.float32), np.asarray(high, np.float32), x.shape, x.dtype)

    return space_of_leaves(jax.tree.map(space, _nested(spec), obs))


def _action_space(environment: Any) -> Leaf:
    from jumanji import specs

    spec = environment.action_spec
    if isinstance(spec, specs.DiscreteArray):
        return Discrete(int(spec.num_values))
    if isinstance(spec, specs.MultiDiscreteArray):
        sizes = tuple(np.asarray(spec.num_values).tolist())
        return Discrete(int(np.prod(sizes))) if _is_joint(environment) else MultiDiscrete(sizes)
    if np.issubdtype(spec.dtype, np.integer):  # MultiCVRP declares a node too many
        agents, nodes = environment.observation_spec.action_mask.shape
        return MultiDiscrete((nodes,) * agents)
    return Box(np.asarray(spec.minimum), np.asarray(spec.maximum), spec.shape, spec.dtype)


def _name(environment: Any) -> str:
    return type(environment).__name__


def _is_joint(environment: Any) -> bool:
    return _name(environment) in _JOINT


def _legal_actions(state: State) -> Any:
    return state.mask


def _state(environment: Any, inner: Any, result: Any, time: Any) -> State:
    mask = getattr(result.observation, "action_mask", ())
    if _is_joint(environment) and not isinstance(mask, tuple):
        mask = mask.reshape(-1)
    elif not isinstance(mask, tuple) and mask.ndim == 2:
        mask = tuple(mask)  # one for each agent
    return State(inner, mask, jnp.int32(time))


@narrowly
def _reset(what: What, key: jax.Array, params: Any) -> tuple[Any, State]:
    environment = _construct(what)
    inner, result = environment.reset(key)
    return _nested(result.observation), _state(environment, inner, result, 0)


@narrowly
def _step(what: What, key: jax.Array, state: State, action: jax.Array, params: Any) -> tuple[TimeStep, State]:
    environment, time = _construct(what), state.time + 1
    truncated: Any = False
    spec = environment.action_spec
    if isinstance(params, Params):
        limit: Any = params.max_steps_in_episode
        if _name(environment) == "MMST":
            limit = jnp.minimum(limit, environment.time_limit)
        truncated = time >= limit
        environment = copy.copy(environment)
        environment.time_limit = _NEVER  # so that an end is one of the task
    if _is_joint(environment):
        action = jnp.stack(jnp.unravel_index(action, tuple(np.asarray(spec.num_values).tolist())))
    inner, result = environment.step(state.inner, action.astype(spec.dtype))
    obs, reward = _nested(result.observation), jnp.sum(result.reward)
    return timestep(obs, reward, result.last(), truncated), _state(environment, inner, result, time)
