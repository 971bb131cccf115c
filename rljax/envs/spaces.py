"""Spaces that compare and hash by value, so that they can be static parts of a compiled program."""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.errors import UsageError, shown

# gymnax writes float32's maximum where it means "no bound".
_UNBOUNDED = 1e30


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers `start .. start + n - 1`, as `int32` scalars."""

    n: int
    start: int = 0
    shape: tuple[int, ...] = dataclasses.field(default=(), init=False)
    dtype: Any = dataclasses.field(default=np.dtype(np.int32), init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.n, int | np.integer) or self.n < 1:
            raise UsageError(f"Discrete needs an integer n of at least 1, got n={shown(self.n)}.")
        if not isinstance(self.start, int | np.integer):
            raise UsageError(f"Discrete needs an integer start, got start={shown(self.start)}.")

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform sample, `[]`."""
        return self.from_index(jax.random.randint(key, (), 0, self.n, jnp.int32))

    def contains(self, x: jax.Array) -> jax.Array:
        """True if `x` is an element, `[]` bool."""
        return (x >= self.start) & (x < self.start + self.n)

    def index(self, x: jax.Array) -> jax.Array:
        """The positions `[...]` of elements `[...]`, counted from 0."""
        return x - self.start if self.start else x

    def from_index(self, index: jax.Array) -> jax.Array:
        """The elements `[...]` at positions `[...]`, counted from 0."""
        return index + self.start if self.start else index


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Vectors `[D]` int32 of several integers: the i-th is in `0 .. nvec[i] - 1`."""

    nvec: tuple[int, ...]
    dtype: Any = dataclasses.field(default=np.dtype(np.int32), init=False)

    def __post_init__(self) -> None:
        sizes = np.asarray(self.nvec)
        if sizes.ndim != 1 or not len(sizes) or sizes.dtype.kind not in "iu" or sizes.min() < 1:
            raise UsageError(f"MultiDiscrete needs integers of at least 1, such as (2, 3), got {self.nvec!r}.")
        object.__setattr__(self, "nvec", tuple(sizes.tolist()))

    @property
    def shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return (len(self.nvec),)

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform sample, `[D]`."""
        return jax.random.randint(key, self.shape, 0, np.array(self.nvec), jnp.int32)

    def contains(self, x: jax.Array) -> jax.Array:
        """True if `x` is an element, `[]` bool."""
        return jnp.all((x >= 0) & (x < np.array(self.nvec)))

    def split(self, x: jax.Array) -> list[jax.Array]:
        """The part `[..., nvec[i]]` of every integer in `[..., sum(nvec)]`, such as logits."""
        return jnp.split(x, np.cumsum(self.nvec)[:-1].tolist(), axis=-1)

    def joint(self, x: jax.Array) -> jax.Array:
        """The positions `[...]` int32 of elements `[..., D]` among all `prod(nvec)`; the last integer counts first."""
        return jnp.sum(x * np.array([int(np.prod(self.nvec[i + 1 :])) for i in range(len(self.nvec))], np.int32), -1)


def _bound(bound: np.ndarray) -> str:
    """A bound in a few characters: a number if all are equal."""
    if bound.size and (bound == bound.flat[0]).all():
        return f"{bound.flat[0]:g}"
    return np.array2string(bound.ravel(), precision=4, separator=", ", threshold=8, edgeitems=2, max_line_width=1_000)


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Arrays of a given shape within bounds; `low` and `high` broadcast to `shape` and may be infinite."""

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = np.float32

    def __post_init__(self) -> None:
        try:
            low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
            dtype, shape = np.dtype(self.dtype), tuple(map(operator.index, self.shape))
            if not (jnp.issubdtype(dtype, np.number) or np.issubdtype(dtype, np.bool_)):
                raise TypeError(f"{dtype} is not a number's")
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(
                "Box needs numbers as bounds, a tuple of integers as its shape, and NumPy's name of a dtype: "
                f"{' '.join(str(error).split())[:200]}."
            ) from None
        low = np.where(low <= -_UNBOUNDED, -np.inf, low)
        high = np.where(high >= _UNBOUNDED, np.inf, high)
        try:
            low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
        except ValueError:
            raise UsageError(
                f"Box bounds of shapes {low.shape} and {high.shape} do not broadcast to {shape}."
            ) from None
        if not np.all(low <= high):
            raise UsageError("Box needs low <= high in every dimension.")
        values = {"low": low, "high": high, "shape": shape, "dtype": dtype}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Box({_bound(self.low)}, {_bound(self.high)}, {self.shape}, {self.dtype.name})"

    def _identity(self) -> tuple[Any, ...]:
        return self.shape, self.dtype, self.low.tobytes(), self.high.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    @property
    def bounded(self) -> np.ndarray:
        """Where both bounds are finite, a bool array of `shape`."""
        return np.isfinite(self.low) & np.isfinite(self.high)

    @property
    def is_integral(self) -> bool:
        """True if the elements are integers or bools."""
        return not np.issubdtype(self.dtype, np.inexact)

    def sample(self, key: jax.Array) -> jax.Array:
        """Sample like Gymnasium: uniform between two bounds, exponential from a single one, else standard normal."""
        key_uniform, key_exponential, key_normal = jax.random.split(key, 3)
        # Integers are floored, so that each one has an interval of length 1 and all are equally likely.
        low, high = self.low, self.high + 1.0 if self.is_integral else self.high
        ends = np.where(self.bounded, low, 0.0), np.where(self.bounded, high, 1.0)
        uniform = jax.random.uniform(key_uniform, self.shape, minval=ends[0], maxval=ends[1])
        distance = jax.random.exponential(key_exponential, self.shape)
        normal = jax.random.normal(key_normal, self.shape)
        one_sided = jnp.where(np.isfinite(low), low + distance, jnp.where(np.isfinite(high), high - distance, normal))
        sample = jnp.where(self.bounded, uniform, one_sided)
        if self.is_integral:
            sample = jnp.minimum(jnp.floor(sample), self.high)
        return sample.astype(self.dtype)

    def contains(self, x: jax.Array) -> jax.Array:
        """True if `x` lies within the bounds, `[]` bool."""
        return jnp.all((x >= self.low) & (x <= self.high))

    def from_unit(self, x: jax.Array) -> jax.Array:
        """Map `[-1, 1]` onto the bounds, dimension by dimension, and clip.

        Without bounds a dimension is unchanged. With one bound it is only shifted: -1 becomes `low`, or 1 becomes
        `high`.
        """
        low = np.where(np.isfinite(self.low), self.low, np.where(np.isfinite(self.high), self.high - 2.0, -1.0))
        high = np.where(np.isfinite(self.high), self.high, np.where(np.isfinite(self.low), self.low + 2.0, 1.0))
        center, half_range = low / 2 + high / 2, high / 2 - low / 2
        scaled = jnp.clip(center + half_range * x, self.low, self.high)
        return (jnp.round(scaled) if self.is_integral else scaled).astype(self.dtype)

    def from_unit_vector(self, x: jax.Array) -> jax.Array:
        """`from_unit` of flat vectors `[..., D]`, reshaped to `[..., *shape]`; D is the product of `shape`."""
        return self.from_unit(x.reshape(*x.shape[:-1], *self.shape))


Leaf = Discrete | MultiDiscrete | Box
"""The spaces of one array."""


@dataclasses.dataclass(frozen=True)
class Dict:
    """Spaces by name: its elements are dicts."""

    spaces: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.spaces, Mapping) or not all(isinstance(name, str) for name in self.spaces):
            raise UsageError(f"Dict needs spaces by name, such as Dict({{'position': Box(...)}}), got {self.spaces!r}.")
        for name in self.spaces:
            if not name or "." in name:  # a point separates the names in a path
                raise UsageError(f"The names in a Dict must not be empty or contain a point, got {name!r}.")
        _check_parts("Dict", list(self.spaces.values()))
        object.__setattr__(self, "spaces", dict(self.spaces))

    def __hash__(self) -> int:
        return hash(frozenset(self.spaces.items()))

    def sample(self, key: jax.Array) -> Any:
        """A sample of every space."""
        return _sample(self, key)

    def contains(self, x: Any) -> jax.Array:
        """True if every part of `x` is an element, `[]` bool."""
        return _contains(self, x)


@dataclasses.dataclass(frozen=True)
class Tuple:
    """A sequence of spaces: its elements are tuples."""

    spaces: Sequence[Any]

    def __post_init__(self) -> None:
        if not isinstance(self.spaces, Sequence):
            raise UsageError(
                f"Tuple needs a sequence of spaces, such as Tuple((Box(...), Discrete(3))), got {self.spaces!r}."
            )
        _check_parts("Tuple", self.spaces)
        object.__setattr__(self, "spaces", tuple(self.spaces))

    def sample(self, key: jax.Array) -> Any:
        """A sample of every space."""
        return _sample(self, key)

    def contains(self, x: Any) -> jax.Array:
        """True if every part of `x` is an element, `[]` bool."""
        return _contains(self, x)


Space = Leaf | Dict | Tuple


def _check_parts(kind: str, parts: Sequence[Any]) -> None:
    if not len(parts):
        raise UsageError(f"{kind} needs at least one space.")
    for part in parts:
        if not isinstance(part, Space):
            raise UsageError(f"{kind} needs rljax spaces, got {part!r}.")


def _sample(space: Space, key: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(leaves_of(space))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [leaf.sample(key) for leaf, key in zip(leaves, keys, strict=True)])


def _contains(space: Space, x: Any) -> jax.Array:
    leaves = jax.tree.map(lambda leaf, part: leaf.contains(part), leaves_of(space), x)
    return jnp.all(jnp.stack(jax.tree.leaves(leaves)))


def leaves_of(space: Any) -> Any:
    """The pytree of a space's leaves, of the structure of its elements: nested dicts and tuples, or the space itself.

    `jax.tree.map(function, leaves_of(space), obs)` calls the function with the space of every array in `obs`.
    """
    if isinstance(space, Dict):
        return {name: leaves_of(part) for name, part in space.spaces.items()}
    return tuple(map(leaves_of, space.spaces)) if isinstance(space, Tuple) else space


def alike(tree: Any, other: Any) -> bool:
    """True if two pytrees have the same structure."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other))


def space_of_leaves(tree: Any) -> Any:
    """The space of a pytree as `leaves_of` returns it."""
    if isinstance(tree, dict):
        return Dict({name: space_of_leaves(part) for name, part in tree.items()})
    return Tuple(tuple(map(space_of_leaves, tree))) if isinstance(tree, tuple) else tree


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of nested dicts and tuples by their paths, such as "camera.left" or "1"; "" for a single leaf."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def path_name(path: Sequence[Any]) -> str:
    """A path of JAX's keys as text, with points between the parts."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator=".")


def map_paths(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` of a function that also gets each leaf's path, as text."""
    return jax.tree.map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def discrete(space: Space, what: str = "actions") -> Discrete:
    """Return the space if it is a Discrete; otherwise raise `UsageError`, whose message `what` completes."""
    if isinstance(space, Discrete):
        return space
    if isinstance(space, MultiDiscrete):
        several = f"several at once, MultiDiscrete({space.nvec})"
        hint = ": use ppo, a2c, reinforce or sac." if what == "actions" else "."
        raise UsageError(f"This algorithm needs single discrete {what}, but the environment's are {several}{hint}")
    kind = f"a Box of shape {space.shape}" if isinstance(space, Box) else f"a {type(space).__name__}"
    raise UsageError(f"This algorithm needs discrete {what}, but the environment's are {kind}.")


def text(space: Any) -> str:
    """A space in a few words: the number of elements, or shape, type and range."""
    if isinstance(space, Discrete):
        return f"Discrete({space.n}{f', start={space.start}' if space.start else ''})"
    if isinstance(space, MultiDiscrete):
        return f"MultiDiscrete({space.nvec})"
    if isinstance(space, Dict | Tuple):
        return "; ".join(f"{path}: {text(leaf)}" for path, leaf in by_path(leaves_of(space)).items())
    if isinstance(space, Box):
        return f"Box{list(space.shape)} {space.dtype.name}, from {space.low.min():.4g} to {space.high.max():.4g}"
    return str(space)


def count(space: Space, what: str = "actions") -> int:
    """The number of elements of a `Discrete`. Raises `UsageError` for other spaces; `what` completes the message."""
    return discrete(space, what).n


def num_joint_actions(space: Space) -> int:
    """The number of elements of a discrete space, of all combinations if there are several integers."""
    return int(np.prod(space.nvec)) if isinstance(space, MultiDiscrete) else count(space)


def bounded_box(space: Space) -> Box:
    """Return the space if it is a fully bounded Box, as a squashed policy needs; otherwise raise `UsageError`."""
    if not isinstance(space, Box):
        given = f"{space.n} discrete ones" if isinstance(space, Discrete) else f"a {type(space).__name__} of them"
        raise UsageError(f"This algorithm needs continuous actions, but the environment has {given}.")
    if not space.bounded.all():
        raise UsageError("This algorithm needs actions bounded on both sides: wrap the environment, or use ppo.")
    return space
