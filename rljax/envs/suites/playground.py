"""MuJoCo Playground: its 25 tasks of the DeepMind Control Suite by id, `playground/CartpoleBalance`.

Its tasks of locomotion and manipulation are left out, since they download their robots when they are made.

Settings are fields of the task's config, such as `ctrl_dt`. `impl` is "jax", which runs everywhere; Playground's own
default "warp" is for GPUs. Pixels (`vision`) are not supported. In all else, see `rljax.envs.suites.brax`.
"""

import functools
import warnings
from typing import Any

import numpy as np

from rljax.envs.base import Env
from rljax.envs.suites import brax
from rljax.envs.suites.adapting import require_known, split_settings
from rljax.errors import UsageError, located

PREFIX = "playground/"
_NO_SETTINGS = ("vision", "vision_config", "episode_length", "action_repeat")  # the last two are those of its wrappers


def registered() -> list[str]:
    """The ids of the DeepMind Control Suite's tasks."""
    return [f"{PREFIX}{name}" for name in _tasks().ALL_ENVS]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make a task by id; settings are `max_steps_in_episode`, or fields of its config.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    require_known(name, registered())
    config = _tasks().get_default_config(name.removeprefix(PREFIX))
    fields = [field for field in config if field not in _NO_SETTINGS]
    limit, others = split_settings(settings, ["max_steps_in_episode"], fields, name)
    arguments = tuple(sorted(others.items()))
    try:
        environment = _construct(name, arguments)
    except Exception as error:  # a known setting with an invalid value raises many kinds
        raise UsageError(f"{name} cannot be made with these settings: {located(error)}.") from error
    return brax.env_of(environment, name, arguments, brax.Params(int(config.episode_length)), limit, _render)


@functools.cache
def _construct(name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """The task, one for an id and settings: making it twice then gives equal static parts."""
    with warnings.catch_warnings(action="ignore"):
        return _tasks().load(name.removeprefix(PREFIX), config_overrides={"impl": "jax", **dict(arguments)})


def _tasks() -> Any:
    """Playground's module of the tasks."""
    with brax.quiet():
        from mujoco_playground import dm_control_suite
    return dm_control_suite


def _render(environment: Any, state: Any, params: Any) -> np.ndarray:
    """MuJoCo's picture of a state, uint8 `[240, 320, 3]`."""
    return brax.picture(environment.mj_model, state.data.qpos, state.data.qvel)
