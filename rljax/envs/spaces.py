"""Spaces that compare and hash by value, so that they can be static parts of a compiled program."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.errors import UsageError, shown

# gymnax writes float32's maximum where it means "no bound".
_UNBOUNDED = 1e30


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers `0 .. n - 1`, as `int32` scalars."""

    n: int
    shape: tuple[int, ...] = dataclasses.field(default=(), init=False)
    dtype: Any = dataclasses.field(default=np.dtype(np.int32), init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.n, int | np.integer) or self.n < 1:
            raise UsageError(f"Discrete needs an integer n of at least 1, got n={shown(self.n)}.")

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform sample, `[]`."""
        return jax.random.randint(key, (), 0, self.n, jnp.int32)

    def contains(self, x: jax.Array) -> jax.Array:
        """True if `x` is an element, `[]` bool."""
        return (x >= 0) & (x < self.n)


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
        """Map `[-1, 1]` onto the bounds, dimension by dimension, and clip; unbounded dimensions are not scaled."""
        low, high = np.where(self.bounded, self.low, -1.0), np.where(self.bounded, self.high, 1.0)
        center, half_range = low / 2 + high / 2, high / 2 - low / 2
        scaled = jnp.clip(center + half_range * x, self.low, self.high)
        return (jnp.round(scaled) if self.is_integral else scaled).astype(self.dtype)

    def from_unit_vector(self, x: jax.Array) -> jax.Array:
        """`from_unit` of flat vectors `[..., D]`, reshaped to `[..., *shape]`; D is the product of `shape`."""
        return self.from_unit(x.reshape(*x.shape[:-1], *self.shape))


Space = Discrete | Box


def text(space: Any) -> str:
    """A space in a few words: the number of elements, or shape, type and range."""
    if isinstance(space, Discrete):
        return f"Discrete({space.n})"
    if isinstance(space, Box):
        return f"Box{list(space.shape)} {space.dtype.name}, from {space.low.min():.4g} to {space.high.max():.4g}"
    return str(space)


def count(space: Space, what: str = "actions") -> int:
    """The number of elements of a discrete space. Raises `UsageError` for a Box; `what` completes the message."""
    if isinstance(space, Discrete):
        return space.n
    raise UsageError(f"This algorithm needs discrete {what}, but the environment's are a Box of shape {space.shape}.")


def bounded_box(space: Space) -> Box:
    """Return the space if it is a fully bounded Box, as a squashed policy needs; otherwise raise `UsageError`."""
    if isinstance(space, Discrete):
        raise UsageError(f"This algorithm needs continuous actions, but the environment has {space.n} discrete ones.")
    if not space.bounded.all():
        raise UsageError("This algorithm needs actions bounded on both sides: wrap the environment, or use ppo.")
    return space
