"""Configs: dataclasses of traced numbers and static structure, with checked types and bounds.

A config is a frozen dataclass and a pytree. Its `traced` fields are leaves, so changing one never recompiles, and
stacked ones can be `vmap`ped. Its `static` fields fix a shape or the program's structure and are compared by value.
`experiment/manifest.py` writes a config to `config.json`.
"""

import contextlib
import dataclasses
import html
import inspect
from collections.abc import Callable, Iterable
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax import optimizers, references, schedules
from rljax.envs import Env, make
from rljax.errors import UsageError, is_finite, scalar, shown, suggest
from rljax.networks import custom

_STATIC = "rljax_static"
_BOUNDS = "rljax_bounds"
_CHOICES = "rljax_choices"

_ARRAYS = np.generic | np.ndarray | jax.Array


def traced(*, default: Any = dataclasses.MISSING, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field that only changes values: a leaf of the pytree, which can be swept without recompiling."""
    return dataclasses.field(default=default, metadata={_STATIC: False, _BOUNDS: (minimum, maximum)})


def static(
    *,
    default: Any = dataclasses.MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Iterable[str] | None = None,
) -> Any:
    """A field that fixes a shape or the program's structure: hashable, and part of the compiled program.

    `choices` are the only strings that it takes.
    """
    metadata = {_STATIC: True, _BOUNDS: (minimum, maximum), _CHOICES: None if choices is None else tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


def is_static(field: dataclasses.Field) -> bool:
    """True if a config's field is part of the compiled program, not one of its inputs."""
    return bool(field.metadata.get(_STATIC, False))


def choices(field: dataclasses.Field) -> tuple[str, ...] | None:
    """The only strings that a config's field takes; None if it takes any."""
    return field.metadata.get(_CHOICES)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(traced, static))
def config[T](cls: type[T]) -> type[T]:
    """Class decorator: make a frozen, keyword-only dataclass that is a pytree and checks its fields.

    A field's annotation decides which values are valid: int, float, bool, str, `tuple[int, ...]`, `Env` (or an id or a
    gymnax object, from which one is made), `Network`, `ActorAndCritics`, `Optimizer`, `Scheduled`, or any of these `|
    None`. Other annotations accept anything. Schedules may be given as strings, and so may optimisers and networks that
    can be imported: "package.module:name".
    A string below a field is its docstring, for `help` and for the command line's `--help`.
    """
    own_check = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (converted := _converted(field, value)) is not value:
                object.__setattr__(self, field.name, converted)
            _check(field, converted)
        if own_check is not None:
            own_check(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    own_docstring = cls.__doc__
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__doc__ = _Docstring(own_docstring, made.__doc__)  # type: ignore[assignment]
    made.__repr__, made._repr_html_ = _as_text, _as_html  # type: ignore[method-assign, attr-defined]
    _register(made)
    return made


def _as_text(config: Any) -> str:
    """A config in less than 1,000 characters."""
    fields = ", ".join(f"{f.name}={shown(getattr(config, f.name))}" for f in dataclasses.fields(config))
    return f"{type(config).__qualname__}({fields if len(fields) < 900 else f'{fields[:900]}...'})"


def _as_html(config: Any) -> str:
    """A config as a table of its fields, for a notebook."""
    rows = ((f.name, shown(getattr(config, f.name))) for f in dataclasses.fields(config))
    cells = "".join(f"<tr><td>{name}</td><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return f"<b>{type(config).__module__}.{type(config).__qualname__}</b><table>{cells}</table>"


class _Docstring:
    """A config class's docstring followed by those of its fields, read from the source when it is first asked for."""

    def __init__(self, own: str | None, signature: str | None) -> None:
        self.own, self.signature = own, signature

    def __get__(self, config: Any, cls: type) -> str | None:
        docs = field_docs(cls)
        fields = "\n".join(["Attributes:", *(f"    {name}: {text}" for name, text in docs.items())])
        parts = ([inspect.cleandoc(self.own)] if self.own else []) + ([fields] if docs else [])
        cls.__doc__ = "\n\n".join(parts) or self.signature
        return cls.__doc__


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings of a config class's fields and of those it inherits, each on one line."""
    from docstring_parser.attrdoc import AttributeDocstrings

    docs: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        with contextlib.suppress(TypeError, SyntaxError):  # no source that can be read
            found = AttributeDocstrings().get_attr_docs(base)
            docs |= {name: " ".join(text.split()) for name, (text, *_) in found.items()}
    return docs


def _names_an_env(value: Any) -> bool:
    """True if a value of a field without a type stands for an `Env`: an id, or a gymnax object."""
    return isinstance(value, str) or hasattr(type(value), "reset_env")


def _register(cls: type) -> None:
    """Make a config class a pytree that is rebuilt without checks, since a tree map may put anything in a leaf."""
    leaves = [f.name for f in dataclasses.fields(cls) if not is_static(f)]
    structure = [f.name for f in dataclasses.fields(cls) if is_static(f)]

    def flatten(config: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(config, name) for name in leaves], tuple(getattr(config, name) for name in structure)

    def flatten_with_keys(config: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        values, static_values = flatten(config)
        keys = [jax.tree_util.GetAttrKey(name) for name in leaves]
        return list(zip(keys, values, strict=True)), static_values

    def unflatten(static_values: tuple[Any, ...], values: Iterable[Any]) -> Any:
        pairs = (*zip(leaves, values, strict=True), *zip(structure, static_values, strict=True))
        return unchecked(cls, **dict(pairs))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def ensure_registered(cls: type) -> None:
    """Register a config class that was rebuilt from a pickle, without its decorator."""
    if dataclasses.is_dataclass(cls) and jax.tree_util.all_leaves([unchecked(cls)]):
        _register(cls)


def unchecked[T](cls: type[T], **values: Any) -> T:
    """Make a config without checking it; fields not given have their defaults."""
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        object.__setattr__(made, field.name, values.get(field.name, field.default))
    return made


def replace[T](config: T, **changes: Any) -> T:
    """Copy a config (or an `Env`) with some fields changed; an unknown name is a `UsageError`.

    A config that comes from a tree map, such as the `in_axes` of a `vmap`, is not checked.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise UsageError(f"replace() takes a config or an Env, got {shown(config)}.")
    fields = dataclasses.fields(config)
    known = [f.name for f in fields]
    for name in changes:
        if name not in known:
            raise UsageError(f"{type(config).__qualname__} has no field {name!r}: {suggest(name, known)}")
    if any(_BOUNDS in f.metadata and not _takes(f, None) and getattr(config, f.name) is None for f in fields):
        return unchecked(type(config), **{name: getattr(config, name) for name in known} | changes)
    return dataclasses.replace(config, **changes)


def replace_unchecked[T](config: T, **changes: Any) -> T:
    """Copy a config with some fields changed and without checks, to trace the shapes that it would have."""
    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    return unchecked(type(config), **{f.name: getattr(config, f.name) for f in fields} | changes)


def same(left: Any, right: Any) -> bool:
    """True if two pytrees compile to the same program and compute the same bits; False for tracers."""
    structure: Any
    leaves, structure = jax.tree.flatten(left)
    others = jax.tree.leaves(right)
    return structure == jax.tree.structure(right) and all(
        isinstance(x, bool | int | float) == isinstance(y, bool | int | float)
        and not isinstance(x, jax.core.Tracer)
        and (jnp.shape(x), jnp.result_type(x)) == (jnp.shape(y), jnp.result_type(y))
        and np.array_equal(x, y, equal_nan=True)
        for x, y in zip(leaves, others, strict=True)
    )


def _converted(field: dataclasses.Field, value: Any) -> Any:
    """The value that a field keeps: what a name, a schedule's text or a scalar array stands for."""
    if is_static(field) and isinstance(value, list):
        return tuple(value)  # a list cannot be hashed
    if ("Env" in kinds(field) and value is not None) or (field.name == "env" and _names_an_env(value)):
        return make(value)
    if isinstance(value, str) and "Schedule" in kinds(field):
        return schedules.of(field.name, value)
    if kinds(field) & _OBJECTS:
        return _as_object(field, value)
    return _as_number(field, value) if kinds(field) & _NUMBERS else value


def _as_number(field: dataclasses.Field, value: Any) -> Any:
    """Convert a scalar array to a number, which a file can hold and bounds can check, and 1e5 to an integer."""
    if isinstance(value, float) and value.is_integer() and "int" in kinds(field) and "float" not in kinds(field):
        return int(value)
    return value if is_static(field) and not isinstance(value, np.generic) else scalar(value)


def _holds(value: Any, kind: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, kind))


def _is_number(value: Any, kind: Any = np.number) -> bool:
    """True for a number or a concrete array of numbers, but not for a bool."""
    if isinstance(value, jax.core.Tracer):
        return False
    if isinstance(value, _ARRAYS):
        return _holds(value, kind) and not _holds(value, np.complexfloating)
    return isinstance(value, int if kind is np.integer else int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value, np.integer)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, _ARRAYS) and _holds(value, np.bool_))


def _is_network(value: Any) -> bool:
    has_both = callable(getattr(value, "init", None)) and callable(getattr(value, "apply", None))
    return has_both and not isinstance(value, type)


# The valid values of an annotation, and their description in messages.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_is_integer, "an integer"),
    "float": (_is_number, "a number"),
    "bool": (_is_flag, "True or False"),
    "str": (lambda value: isinstance(value, str), "a string"),
    "tuple[int, ...]": (
        lambda value: isinstance(value, tuple) and all(map(_is_integer, value)),
        "a tuple of integers such as (64, 64)",
    ),
    "Network": (_is_network, "an object with init and apply"),
    "ActorAndCritics": (
        lambda value: all(_is_network(getattr(value, part, None)) for part in ("actor", "critics")),
        "a networks.ActorAndCritics",
    ),
    "Optimizer": (
        lambda value: callable(value) and not isinstance(value, optax.GradientTransformation),
        "a function from the learning rate to an optax.GradientTransformation",
    ),
    "EncoderOf": (callable, "a function from a space to a linen module"),
    "Schedule": (lambda value: isinstance(value, schedules.Schedule), "a schedule such as linear(3e-4, 0)"),
    "None": (lambda value: value is None, "None"),
}

_OBJECTS = {"Network", "ActorAndCritics", "Optimizer", "EncoderOf"}  # annotations that take references

_NUMBERS = {"int", "float", "bool"}  # annotations whose values may be given as scalar arrays


def kinds(field: dataclasses.Field) -> set[str]:
    """The names of the types in a field's annotation: a type, a union of types, or either as a string."""
    text = field.type.__name__ if type(field.type) is type else str(field.type)
    return {part.strip() if "[" in part else part.strip().rpartition(".")[2] for part in text.split("|")}


def _takes(field: dataclasses.Field, value: Any) -> bool:
    """True if a field's annotation allows the value; a tracer counts as any number."""
    allowed = kinds(field)
    if not allowed <= _KINDS.keys():
        return True
    if isinstance(value, np.ndarray | jax.Array) and is_static(field):
        return False
    return isinstance(value, jax.core.Tracer) or any(_KINDS[kind][0](value) for kind in allowed)


def _check(field: dataclasses.Field, value: Any) -> None:
    """Check one field's type, and the bounds of concrete numbers."""
    text = shown(value)
    if not _takes(field, value):
        wanted = " or ".join(what for kind, (_, what) in _KINDS.items() if kind in kinds(field))
        raise UsageError(f"{field.name} must be {wanted}, got {text}.")
    words = choices(field)
    if words is not None and isinstance(value, str) and value not in words:
        raise UsageError(f"{field.name} must be one of {', '.join(words)}, got {text}.")
    if isinstance(value, schedules.Schedule):
        schedules.check(field.name, value, *field.metadata.get(_BOUNDS, (None, None)))
    if is_static(field):
        try:
            hash(value)
        except TypeError as error:
            raise UsageError(f"{field.name} must be hashable, since it is part of the program: {error}.") from None
    numbers = value if isinstance(value, tuple) and "tuple[int, ...]" in kinds(field) else (value,)
    if is_static(field) and any(isinstance(one, int) and abs(one) >= 2**63 for one in numbers):
        raise UsageError(f"{field.name} must be less than 2**63, got {text}.")
    low, high = field.metadata.get(_BOUNDS, (None, None))
    bounded = low is not None or high is not None
    if not _is_number(value) or not (bounded or kinds(field) & {"int", "float"}):
        return
    may_be_huge = isinstance(value, int) and "float" not in kinds(field)
    if not (may_be_huge or is_finite(value)):
        raise UsageError(f"{field.name} must be finite in 32 bits, got {text}.")
    if low is not None and np.any(np.less(value, low)):
        raise UsageError(f"{field.name} must be at least {low:g}, got {text}.")
    if high is not None and np.any(np.greater(value, high)):
        raise UsageError(f"{field.name} must be at most {high:g}, got {text}.")
    if not is_static(field) and _is_integer(value) and np.any(np.greater_equal(np.abs(value), 2**31)):
        raise UsageError(f"{field.name} must be less than 2**31, got {text}.")


def _as_object(field: dataclasses.Field, value: Any) -> Any:
    """The optimiser or network that a value stands for, which may be its name or a function that makes it."""
    if isinstance(value, str) and ":" in value:
        value = references.imported(field.name, value)
    elif isinstance(value, str) and "Optimizer" in kinds(field):
        return optimizers.check(value)
    return custom.adapted(value) if {"Network", "ActorAndCritics"} & kinds(field) else value


def check_value(cls: type, name: str, value: Any) -> str | None:
    """What is wrong with one field's value, whatever the others are; None if nothing is."""
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    try:
        _check(field, _converted(field, value))
    except UsageError as error:
        return str(error)
    return None


def _names(node: Any) -> list[str]:
    """The names that can follow in a path."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return [f.name for f in dataclasses.fields(node)]
    if isinstance(node, dict):
        return [str(key) for key in node]
    return list(getattr(node, "_fields", ()))


def _child(node: Any, name: str) -> Any:
    return node[name] if isinstance(node, dict) else getattr(node, name)


def value_at(config: Any, path: str) -> Any:
    """The value at a path; a `UsageError` with the nearest name if there is none."""
    node, passed = config, type(config).__qualname__
    for name in str(path).split("."):
        if name not in _names(node):
            hint = suggest(name, _names(node)) if _names(node) else "it has no fields."
            raise UsageError(f"There is no field at {path!r}, since {passed} has no {name!r}: {hint}")
        node, passed = _child(node, name), name
    return node


def with_values(config: Any, values: dict[str, Any]) -> Any:
    """Copy with values at paths, all of one object's fields at once, since the values may only be valid together."""
    own: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            below.setdefault(name, {})[rest] = value
        else:
            own[name] = value
    for name, deeper in below.items():
        current = _child(config, name)
        node = own.get(name, current)
        own[name] = with_values(make(node) if isinstance(current, Env) else node, deeper)
    if isinstance(config, dict):
        return {**config, **own}
    return config._replace(**own) if hasattr(config, "_replace") else replace(config, **own)


def kinds_at(config: Any, path: str) -> set[str]:
    """The types in the annotation of the field at a path; empty if it is not a dataclass's."""
    parent, _, name = path.rpartition(".")
    node = value_at(config, parent) if parent else config
    fields = dataclasses.fields(node) if dataclasses.is_dataclass(node) else ()
    return next((kinds(field) for field in fields if field.name == name), set())
