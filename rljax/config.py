"""What a `Config` is made of: traced numbers, static structure, and the bounds that both must keep.

A config is a frozen dataclass and a pytree. Its `traced` fields are leaves, so changing one never recompiles and a
stack of them can be `vmap`ped. Its `static` fields fix a shape or the program's structure and are compared by value.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, dataclass_transform

import jax
import numpy as np

from rljax.envs import make
from rljax.errors import UsageError, suggest

_STATIC = "rljax_static"
_BOUNDS = "rljax_bounds"


def traced(*, default: Any = dataclasses.MISSING, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field that only changes values: a leaf of the pytree, free to sweep without a recompile."""
    return dataclasses.field(default=default, metadata={_STATIC: False, _BOUNDS: (minimum, maximum)})


def static(*, default: Any = dataclasses.MISSING, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field that fixes a shape or the program's structure: hashable, part of what is compiled."""
    return dataclasses.field(default=default, metadata={_STATIC: True, _BOUNDS: (minimum, maximum)})


def is_static(field: dataclasses.Field) -> bool:
    """Whether a config's field is part of the compiled program rather than one of its inputs."""
    return bool(field.metadata.get(_STATIC, False))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(traced, static))
def config[T](cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass that is a pytree and checks its bounds when it is made."""
    own_check = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            if is_static(field) and isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))  # a list cannot be hashed
        env = getattr(self, "env", None)
        if isinstance(env, str) or hasattr(env, "reset_env"):
            object.__setattr__(self, "env", make(env))  # an id or a gymnax object stands for its Env
        _check_bounds(self)
        if own_check is not None:
            own_check(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    _register(made)
    return made


def _register(cls: type) -> None:
    """Make a config class a pytree that is rebuilt without its checks: a tree map may put anything in a leaf."""
    leaves = [f.name for f in dataclasses.fields(cls) if not is_static(f)]
    structure = [f.name for f in dataclasses.fields(cls) if is_static(f)]

    def flatten(config: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(config, name) for name in leaves], tuple(getattr(config, name) for name in structure)

    def flatten_with_keys(config: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        values, static_values = flatten(config)
        keys = [jax.tree_util.GetAttrKey(name) for name in leaves]
        return list(zip(keys, values, strict=True)), static_values

    def unflatten(static_values: tuple[Any, ...], values: Iterable[Any]) -> Any:
        config: Any = object.__new__(cls)
        for name, value in (*zip(leaves, values, strict=True), *zip(structure, static_values, strict=True)):
            object.__setattr__(config, name, value)
        return config

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def replace[T](config: T, **changes: Any) -> T:
    """A copy of a config (or an `Env`) with some fields changed; an unknown name is a `UsageError`."""
    known = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise UsageError(f"{type(config).__qualname__} has no field {name!r}: {suggest(name, known)}")
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _check_bounds(config: Any) -> None:
    """Check the numbers that are known now; tracers and device arrays pass."""
    for field in dataclasses.fields(config):
        low, high = field.metadata.get(_BOUNDS, (None, None))
        value = getattr(config, field.name)
        if low is None and high is None:
            continue
        optional = "None" in str(field.type)
        if isinstance(value, str) or (value is None and is_static(field) and not optional):
            raise UsageError(f"{field.name} must be a number, got {value!r}.")
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number, np.ndarray)):
            continue
        integral = isinstance(value, (int, np.integer))
        if is_static(field) and field.type in (int, "int", int | None, "int | None") and not integral:
            raise UsageError(f"{field.name} must be a whole number, got {value!r}.")
        if not np.all(np.isfinite(value)):
            raise UsageError(f"{field.name} must be finite, got {value!r}.")
        if low is not None and np.any(np.less(value, low)):
            raise UsageError(f"{field.name} must be at least {low:g}, got {value!r}.")
        if high is not None and np.any(np.greater(value, high)):
            raise UsageError(f"{field.name} must be at most {high:g}, got {value!r}.")
