"""Gymnasium: its installed environments by their ids, `gymnasium/LunarLander-v3`, which step on the host.

What an environment returns as `info` is not passed on. Its time limit truncates; `max_episode_steps` sets another.
"""

import dataclasses
import importlib.util
import warnings
from typing import Any

import jax
import numpy as np

from rljax.envs import host, pools
from rljax.envs.base import Env, is_data
from rljax.envs.spaces import Box, Leaf, leaves_of, space_of_leaves
from rljax.envs.suites.adapting import in_32_bits, space_of
from rljax.errors import UsageError, located

PREFIX = "gymnasium/"

# Packages that Gymnasium's own environments need, by the module of their entry points.
_NEEDED = {"gymnasium.envs.box2d": "Box2D", "gymnasium.envs.mujoco": "mujoco"}
_UNUSABLE = ("GymV21Environment", "GymV26Environment")  # wrappers of other packages, which need an argument


def registered() -> list[str]:
    """The ids of environments whose packages are installed; those of other packages once these are imported."""
    import gymnasium

    def is_usable(spec: Any) -> bool:
        entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
        package = next((package for module, package in _NEEDED.items() if entry.startswith(module)), None)
        missing = package is not None and importlib.util.find_spec(package) is None
        return spec.name not in _UNUSABLE and not missing

    return [f"{PREFIX}{name}" for name, spec in gymnasium.registry.items() if is_usable(spec)]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make an environment by id.

    Settings are arguments of `gymnasium.make`, such as `max_episode_steps`, or of the environment. With
    `processes=True` every environment is stepped in a process of its own: faster if a step takes more than about a
    tenth of a millisecond. A script then needs the usual `if __name__ == "__main__":`.

    Raises:
        UsageError: the id or a setting is unknown, a package is missing, or a space is not supported.
    """
    settings = dict(settings)
    processes = settings.pop("processes", False)
    if not isinstance(processes, bool):
        raise UsageError(f"processes of {name} must be True or False, got {processes!r}.")
    arguments = tuple(sorted(settings.items()))
    one = _make_one(name, arguments)
    space, action_space = _narrowed(space_of(one.observation_space)), space_of(one.action_space)
    limit = None if one.spec is None else one.spec.max_episode_steps
    one.close()
    if not isinstance(action_space, Leaf):
        kind = type(action_space).__name__
        raise UsageError(f"{name} takes actions of a {kind} space, which is not supported: flatten it to one array.")
    try:
        hash(arguments)
    except TypeError:
        raise UsageError(f"The settings of {name} must be numbers, strings or tuples, got {settings!r}.") from None
    maker = _Maker(name, arguments, processes, limit)
    given = {**settings, "processes": True} if processes else settings
    env = host.env(maker, space, action_space, given)
    return env if is_data(arguments) else env.replace(recipe=(None,))


@dataclasses.dataclass(frozen=True)
class _Maker:
    name: str
    settings: tuple[tuple[str, Any], ...]
    processes: bool
    time_limit: int | None

    def __call__(self, num_envs: int) -> "_Pool":
        return _Pool(self, num_envs)


class _Pool:
    """Environments in one of Gymnasium's vector environments, whose automatic reset is off."""

    def __init__(self, maker: _Maker, num_envs: int) -> None:
        from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

        makers = [lambda: _make_one(maker.name, maker.settings)] * num_envs
        mode = AutoresetMode.DISABLED
        # JAX has threads, so that a process must not be forked from this one.
        self._envs: Any = (
            AsyncVectorEnv(makers, autoreset_mode=mode, context="forkserver", shared_memory=False)
            if maker.processes
            else SyncVectorEnv(makers, autoreset_mode=mode)
        )
        self._is_async = maker.processes
        self._actions: Any = None

    def reset(self, seeds: list[int]) -> Any:
        return self._envs.reset(seed=seeds)[0]

    def send(self, actions: np.ndarray) -> None:
        if self._is_async:
            self._envs.step_async(actions)
        else:
            self._actions = actions

    def receive(self) -> pools.Stepped:
        result = self._step_wait() if self._is_async else self._envs.step(self._actions)
        next_obs, reward, terminated, truncated, _ = result
        ended = terminated | truncated
        obs = self._envs.reset(options={"reset_mask": ended})[0] if ended.any() else next_obs
        return pools.Stepped(next_obs, reward, terminated, truncated, obs)

    def _step_wait(self) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the traceback of an error, which is raised
                return self._envs.step_wait()
        except (EOFError, ConnectionError):
            raise ChildProcessError("the process of an environment has ended") from None

    def close(self) -> None:
        self._envs.close(**({"terminate": True} if self._is_async else {}))


def _make_one(name: str, settings: tuple[tuple[str, Any], ...]) -> Any:
    import gymnasium

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions that are not the newest
            return gymnasium.make(name.removeprefix(PREFIX), **dict(settings))
    except Exception as error:  # it has many kinds, for unknown ids, wrong settings and missing packages
        raise UsageError(f"Gymnasium cannot make {name.removeprefix(PREFIX)}: {located(error)}.") from error


def _narrowed(space: Any) -> Any:
    """A space whose numbers have 32 bits at most."""

    def narrow(leaf: Any) -> Any:
        if not isinstance(leaf, Box):
            return leaf
        dtype = np.dtype(in_32_bits(np.zeros((), leaf.dtype)).dtype)
        return Box(leaf.low, leaf.high, leaf.shape, dtype)

    return space_of_leaves(jax.tree.map(narrow, leaves_of(space)))
