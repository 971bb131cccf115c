"""gymnax: environments from its ids or objects, without gymnax's automatic reset.

The info that a gymnax environment returns is not passed on: it is the discount, which says no more than `terminated`.
"""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, is_data, timestep
from rljax.envs.spaces import Box, Leaf, alike, leaves_of, space_of_leaves
from rljax.envs.suites.adapting import narrowly, replace_params, space_of
from rljax.errors import UsageError, located, suggest

# Environments whose observations exceed the bounds that gymnax 1.0.1 declares (in parentheses): MemoryChain's context
# is -1 or 1 (at least 0), GaussianBandit's reward is unbounded (0 to 2) and its time starts at -1 (0), MetaMaze's
# reward is 10 (at most 1). Only running them shows this, so they are listed.
_WRONG_BOUNDS = ("MemoryChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc")


def registered() -> list[str]:
    """Gymnax's ids and those added with `gymnax.register`."""
    import gymnax  # imports plotting libraries, so only when it is needed

    return list(gymnax.registered_envs)


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make an environment by id; settings are fields of its params or arguments of its constructor.

    Raises:
        UsageError: the id or a setting is unknown, or the environment's data files are missing.
    """
    environment, params, constructor_settings = _construct_and_set(name, settings)
    arguments = tuple(constructor_settings.items())
    return _env(environment, params, name, ((name, arguments),) if is_data(arguments) else (None,))


def from_object(environment: Any, settings: dict[str, Any]) -> Env:
    """Make an environment from a gymnax object, with some of its params set."""
    kind = type(environment).__name__
    params = replace_params(_default_params(environment), settings, kind)
    return _env(environment, params, str(getattr(environment, "name", kind)), (None,))


def _env(environment: Any, params: Any, name: str, recipe: tuple[Any, ...]) -> Env:
    space = space_of(environment.observation_space(params))
    try:
        obs, _ = jax.eval_shape(Bound(_reset, (environment,)), jax.random.key(0), params)
    except Exception as error:
        raise UsageError(f"{name} cannot be reset with these settings: {located(error)}.") from error
    if not alike(obs, leaves_of(space)):
        raise UsageError(
            f"{name} observes a {type(obs).__name__}, which is no element of its {type(space).__name__} space: declare "
            "the space of what it observes."
        )

    def as_observed(leaf: Any, x: Any) -> Any:
        # Some environments declare float32 but return integers; the engine stores what they return.
        if not isinstance(leaf, Box):
            return leaf
        bounds_hold = x.shape == leaf.shape and getattr(environment, "name", name) not in _WRONG_BOUNDS
        low, high = (leaf.low, leaf.high) if bounds_hold else (-np.inf, np.inf)
        return Box(low, high, x.shape, x.dtype)

    space = space_of_leaves(jax.tree.map(as_observed, leaves_of(space), obs))
    action_space = space_of(environment.action_space(params))
    if not isinstance(action_space, Leaf):
        kind = type(action_space).__name__
        raise UsageError(f"{name} takes actions of a {kind} space, which is not supported: flatten it to one array.")
    return Env(
        reset=Bound(_reset, (environment,)),
        step=Bound(_step, (environment,)),
        observation_space=space,
        action_space=action_space,
        params=params,
        name=name,
        recipe=recipe,
        default_params=Bound(_default_params, (environment,)),
    )


def _default_params(environment: Any) -> Any:
    from rljax.envs.suites import gymnax_corrections  # imports gymnax

    return gymnax_corrections.default_params(environment)


@narrowly
def _reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    from rljax.envs.suites import gymnax_corrections

    return gymnax_corrections.reset(environment, key, params)


@narrowly
def _step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[TimeStep, Any]:
    from rljax.envs.suites import gymnax_corrections

    # step_env, not step: gymnax's step computes a reset on every call, which costs more than most physics.
    obs, state, reward, terminated, truncated = gymnax_corrections.step(environment, key, state, action, params)
    return timestep(obs, reward, terminated, truncated), state


def _construct_and_set(name: str, settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The environment object, its params, and the settings passed to its constructor."""
    if name not in registered():
        raise UsageError(f"There is no environment {name!r}: {suggest(name, registered())}")
    try:
        environment = _construct_once(name, {})
    except TypeError:  # a registered factory may require settings
        environment = None
    except OSError as error:
        raise UsageError(
            f"{name} needs data files that are missing and could not be downloaded ({error}): "
            "put MNIST's four idx .gz files into /tmp/mnist."
        ) from error
    fields = [] if environment is None else [f.name for f in dataclasses.fields(_default_params(environment))]
    constructor_settings = {k: v for k, v in settings.items() if k not in fields}
    if constructor_settings or environment is None:
        try:
            environment = _construct_once(name, constructor_settings)
        except ValueError as error:  # a known setting with an invalid value
            raise UsageError(f"{name} cannot be made with these settings: {error}.") from None
        except TypeError as error:
            wrong = next(iter(constructor_settings), "")
            known = [*fields, *inspect.signature(_factory(name)).parameters]
            hint = suggest(wrong, known) if known else f"{error}."
            raise UsageError(f"{name} cannot be made with the setting {wrong!r}: {hint}") from None
    param_settings = {k: v for k, v in settings.items() if k in fields}
    return environment, replace_params(_default_params(environment), param_settings, name), constructor_settings


def _construct_once(name: str, settings: dict[str, Any]) -> Any:
    """Reuse one object per id and settings: making it twice then gives equal static parts and no recompile."""
    try:
        hash(tuple(settings.values()))
    except TypeError:
        return _construct.__wrapped__(name, tuple(settings.items()))
    return _construct(name, tuple(sorted(settings.items())))


@functools.cache
def _construct(name: str, constructor_settings: tuple[tuple[str, Any], ...]) -> Any:
    return _factory(name)(**dict(constructor_settings))


def _factory(name: str) -> Any:
    import gymnax

    from rljax.envs.suites import gymnax_corrections

    return gymnax_corrections.FACTORIES.get(name) or gymnax.registration._registry[name]
