"""gymnax: environments made from its ids or its objects, with its own automatic reset left out."""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, is_data, timestep
from rljax.envs.spaces import Box, Discrete, Space
from rljax.errors import UsageError, suggest

# What gymnax 1.0.1 declares bounds for that its observations leave: MemoryChain's context is -1 or 1 (from 0 on is
# declared), GaussianBandit's reward has no bounds (0 to 2) and its time starts at -1 (0), and MetaMaze's reward is 10
# (1 is the highest). Nothing but running shows that, so they are named.
_UNTRUE_BOUNDS = ("MemoryChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc")


def registered() -> list[str]:
    """Gymnax's own ids and those added with `gymnax.register`."""
    import gymnax  # imports plotting libraries, so only when it is needed

    return list(gymnax.registered_envs)


def make(name: str, settings: dict[str, Any]) -> Env:
    """The environment of an id; settings are fields of its params or arguments of its constructor.

    Raises:
        UsageError: the id is unknown, a setting is, or data that the environment needs is missing.
    """
    environment, params, for_constructor = _construct_and_set(name, settings)
    arguments = tuple(for_constructor.items())
    return _env(environment, params, name, ((name, arguments),) if is_data(arguments) else (None,))


def from_object(environment: Any, settings: dict[str, Any]) -> Env:
    """A gymnax environment object, with some of its params set."""
    kind = type(environment).__name__
    params = _replace_params(environment.default_params, settings, kind)
    return _env(environment, params, str(getattr(environment, "name", kind)), (None,))


def space_of(space: Any) -> Space:
    """Our space for a gymnax one. Raises `UsageError` for the kinds that no algorithm here can act in."""
    if isinstance(space, Discrete | Box):
        return space
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "Box":
        return Box(np.asarray(space.low), np.asarray(space.high), tuple(space.shape), space.dtype)
    raise UsageError(f"{kind} spaces are not supported: flatten the environment's space to a Box or a Discrete.")


def _env(environment: Any, params: Any, name: str, recipe: tuple[Any, ...]) -> Env:
    space = space_of(environment.observation_space(params))
    obs, _ = jax.eval_shape(environment.reset_env, jax.random.key(0), params)
    if isinstance(space, Box):
        # Some environments declare float32 and return integers: what they return is what the engine stores.
        true_bounds = obs.shape == space.shape and getattr(environment, "name", name) not in _UNTRUE_BOUNDS
        low, high = (space.low, space.high) if true_bounds else (-np.inf, np.inf)
        space = Box(low, high, obs.shape, obs.dtype)
    return Env(
        reset=Bound(_reset, (environment,)),
        step=Bound(_step, (environment,)),
        observation_space=space,
        action_space=space_of(environment.action_space(params)),
        params=params,
        name=name,
        recipe=recipe,
        default_params=Bound(_default_params, (environment,)),
    )


def _default_params(environment: Any) -> Any:
    return environment.default_params


def _reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    obs, state = environment.reset_env(key, params)
    return _strong(obs), _strong(state)


def _step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[TimeStep, Any]:
    # step_env, not step: gymnax's step draws a reset at every call, which costs more than most physics.
    obs, state, reward, terminated, _ = environment.step_env(key, state, action, params)
    truncated = environment.is_truncated(state, params)
    return timestep(_strong(obs), reward, terminated, truncated), _strong(state)


def _strong(tree: Any) -> Any:
    """Python numbers and weak types as arrays of their dtype, so that reset and step agree on what a state is."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(x)), tree)


def _construct_and_set(name: str, settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The environment object, its params, and those of the settings that its constructor took."""
    import gymnax

    if name not in registered():
        raise UsageError(f"There is no environment {name!r}: {suggest(name, registered())}")
    try:
        environment = _construct_once(name, {})
    except TypeError:  # a factory of the user's may need settings
        environment = None
    except OSError as error:
        raise UsageError(
            f"{name} needs data files that are not here and could not be downloaded ({error}): "
            "put MNIST's four idx .gz files into /tmp/mnist."
        ) from error
    fields = [] if environment is None else [f.name for f in dataclasses.fields(environment.default_params)]
    for_constructor = {k: v for k, v in settings.items() if k not in fields}
    if for_constructor or environment is None:
        try:
            constructed = _construct_once(name, for_constructor)
        except ValueError as error:  # a right name with a value that cannot be
            raise UsageError(f"{name} cannot be made with these settings: {error}.") from None
        except TypeError as error:
            wrong = next(iter(for_constructor), "")
            known = [*fields, *inspect.signature(gymnax.registration._registry[name]).parameters]
            hint = suggest(wrong, known) if known else f"{error}."
            raise UsageError(f"{name} cannot be made with the setting {wrong!r}: {hint}") from None
        environment = constructed
    chosen = {k: v for k, v in settings.items() if k in fields}
    return environment, _replace_params(environment.default_params, chosen, name), for_constructor


def _construct_once(name: str, settings: dict[str, Any]) -> Any:
    """One object for an id and its settings, so that making it twice gives equal static parts and no recompile."""
    try:
        hash(tuple(settings.values()))
    except TypeError:
        return _construct.__wrapped__(name, tuple(settings.items()))
    return _construct(name, tuple(sorted(settings.items())))


@functools.cache
def _construct(name: str, constructor_settings: tuple[tuple[str, Any], ...]) -> Any:
    import gymnax

    return gymnax.make(name, **dict(constructor_settings))[0]


def _replace_params(params: Any, settings: dict[str, Any], name: str) -> Any:
    known = [f.name for f in dataclasses.fields(params)]
    for setting, value in settings.items():
        if setting not in known:
            raise UsageError(f"{name} has no setting {setting!r}: {suggest(setting, known)}")
        is_number = isinstance(value, bool | int | float | np.generic | np.ndarray | jax.Array)
        if isinstance(getattr(params, setting), int | float) and not is_number:
            raise UsageError(f"{setting} of {name} must be a number, got {value!r}.")
    return dataclasses.replace(params, **settings)
