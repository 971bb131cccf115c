"""What adapters of outside suites share: their types, spaces and settings as ours."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import check_param
from rljax.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from rljax.errors import UsageError, suggest


@dataclass_transform(frozen_default=True)
def as_params[T](cls: type[T]) -> type[T]:
    """Declare the params of environments: a frozen dataclass that is a pytree of all its fields."""
    made = dataclasses.dataclass(frozen=True)(cls)
    return jax.tree_util.register_dataclass(made, [f.name for f in dataclasses.fields(made)], [])  # type: ignore[arg-type]


def require_known(name: str, ids: Iterable[str]) -> None:
    """Raise a `UsageError` that suggests the nearest ids if an id is not one of them."""
    ids = list(ids)
    if name not in ids:
        raise UsageError(f"There is no environment {name!r}: {suggest(name, ids)}")


def split_settings(
    settings: dict[str, Any], fields: Iterable[str], others: Iterable[str], name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that are fields of the params, and the other ones, which fix shapes.

    Raises:
        UsageError: a setting is in neither.
    """
    fields, others = list(fields), list(others)
    for setting in settings:
        if setting not in (*fields, *others):
            raise UsageError(f"{name} has no setting {setting!r}: {suggest(setting, [*fields, *others])}")
    of_params = {setting: value for setting, value in settings.items() if setting in fields}
    return of_params, {setting: value for setting, value in settings.items() if setting in others}


def replace_params(params: Any, settings: dict[str, Any], name: str) -> Any:
    """Replace fields of an environment's params. Raises `UsageError` for an unknown setting or an invalid value."""
    known = [f.name for f in dataclasses.fields(params)]
    for setting, value in settings.items():
        if setting not in known:
            raise UsageError(f"{name} has no setting {setting!r}: {suggest(setting, known)}")
        check_param(f"{setting} of {name}", getattr(params, setting), value)
    return dataclasses.replace(params, **settings)


def space_of(space: Any) -> Space:
    """Convert a space of gymnax or Gymnasium. Raises `UsageError` for kinds that `rljax.envs` does not have."""
    if isinstance(space, Space):
        return space
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n), int(getattr(space, "start", 0)))
    if kind == "MultiDiscrete":
        return MultiDiscrete(space.nvec)
    if kind == "Box":
        return Box(np.asarray(space.low), np.asarray(space.high), tuple(space.shape), space.dtype)
    if kind == "Dict":
        return Dict({name: space_of(part) for name, part in space.spaces.items()})
    if kind == "Tuple":
        return Tuple(tuple(map(space_of, space.spaces)))
    raise UsageError(f"{kind} spaces are not supported: flatten the environment's space to a Box or a Discrete.")


def in_32_bits(tree: Any) -> Any:
    """Convert numbers to arrays of at most 32 bits, never weakly typed, so that reset and step agree."""

    def convert(x: Any) -> jax.Array:
        dtype = jnp.result_type(x)
        return jnp.asarray(x, dtype=_NARROW.get(dtype, dtype))

    return jax.tree.map(convert, tree)


_NARROW = {np.dtype(f"{kind}64"): np.dtype(f"{kind}32") for kind in ("float", "int", "uint")}


def construct_once[**Arguments, T](function: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """Keep what a function makes for each of its hashable arguments.

    A `reset` that binds the arguments instead of the object compares by value, and needs no other program when the
    environment is made again. Arrays are constants of 32 bits, even if the first call is inside a traced function.
    """

    @functools.cache
    @functools.wraps(function)
    def construct(*arguments: Any) -> T:
        with jax.ensure_compile_time_eval(), jax.enable_x64(False):
            return function(*arguments)  # type: ignore[call-arg]

    return construct  # type: ignore[return-value]


def narrowly[**Arguments, T](function: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """Make a `reset` or `step` of a suite take and return at most 32 bits, and nothing weakly typed.

    Under `jax_enable_x64` some suites would mix types. The first argument, what the environment is, is left as it is.
    """

    @functools.wraps(function)
    def call(what: Any, *arguments: Any) -> Any:
        if jax.config.read("jax_enable_x64"):
            arguments = in_32_bits(arguments)
        with jax.enable_x64(False):
            return in_32_bits(function(what, *arguments))  # type: ignore[call-arg]

    return call  # type: ignore[return-value]


def planes(categories: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Categories `[..., C]` as bool planes `[..., sum(sizes)]`, one-hot for each of the C."""
    parts = [categories[..., i, None] == jnp.arange(n, dtype=categories.dtype) for i, n in enumerate(sizes)]
    return jnp.concatenate(parts, axis=-1)
