"""Spaces that compare and hash by value, so that they can be static parts of a compiled program."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.errors import UsageError

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
            raise UsageError(f"Discrete needs a whole number of at least one element, got n={self.n!r}.")

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform draw, `[]`."""
        return jax.random.randint(key, (), 0, self.n)

    def contains(self, x: jax.Array) -> jax.Array:
        """Whether `x` is an element, `[]` bool."""
        return (x >= 0) & (x < self.n)


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Arrays of a shape within bounds; `low` and `high` broadcast to `shape` and may be infinite."""

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = np.float32

    def __post_init__(self) -> None:
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        low = np.where(low <= -_UNBOUNDED, -np.inf, low)
        high = np.where(high >= _UNBOUNDED, np.inf, high)
        if not isinstance(self.shape, tuple | list):
            raise UsageError(f"Box needs its shape as a tuple, got {self.shape!r}.")
        shape = tuple(int(n) for n in self.shape)
        try:
            low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
        except ValueError:
            raise UsageError(
                f"Box bounds of shapes {low.shape} and {high.shape} do not broadcast to {shape}."
            ) from None
        if not np.all(low <= high):
            raise UsageError("Box needs low <= high in every dimension.")
        values = {"low": low, "high": high, "shape": shape, "dtype": np.dtype(self.dtype)}
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
        """Whether the elements are whole numbers or flags."""
        return not np.issubdtype(self.dtype, np.inexact)

    def sample(self, key: jax.Array) -> jax.Array:
        """A draw, as Gymnasium's: uniform between two bounds, exponential from one, standard normal without any."""
        key_uniform, key_exponential, key_normal = jax.random.split(key, 3)
        # Every whole number between the bounds is as likely as any other: the next one begins where the last one ends.
        low, high = self.low, self.high + 1.0 if self.is_integral else self.high
        ends = np.where(self.bounded, low, 0.0), np.where(self.bounded, high, 1.0)
        uniform = jax.random.uniform(key_uniform, self.shape, minval=ends[0], maxval=ends[1])
        away = jax.random.exponential(key_exponential, self.shape)
        normal = jax.random.normal(key_normal, self.shape)
        one_sided = jnp.where(np.isfinite(low), low + away, jnp.where(np.isfinite(high), high - away, normal))
        drawn = jnp.where(self.bounded, uniform, one_sided)
        if self.is_integral:
            drawn = jnp.minimum(jnp.floor(drawn), self.high)
        return drawn.astype(self.dtype)

    def contains(self, x: jax.Array) -> jax.Array:
        """Whether `x` lies within the bounds, `[]` bool."""
        return jnp.all((x >= self.low) & (x <= self.high))

    def from_unit(self, x: jax.Array) -> jax.Array:
        """Map `[-1, 1]` onto the bounds, each dimension with its own scale, and clip; unbounded ones pass unscaled."""
        low, high = np.where(self.bounded, self.low, -1.0), np.where(self.bounded, self.high, 1.0)
        center, half_range = low / 2 + high / 2, high / 2 - low / 2
        scaled = jnp.clip(center + half_range * x, self.low, self.high)
        return (jnp.round(scaled) if self.is_integral else scaled).astype(self.dtype)

    def from_unit_vector(self, x: jax.Array) -> jax.Array:
        """`from_unit` of vectors `[..., D]` with an element for each of the D dimensions, shaped as the space is."""
        return self.from_unit(x.reshape(*x.shape[:-1], *self.shape))


Space = Discrete | Box


def count(space: Space, what: str = "actions") -> int:
    """How many elements a discrete space has; for a box a `UsageError` that says `what` should be discrete."""
    if isinstance(space, Discrete):
        return space.n
    raise UsageError(f"This algorithm needs discrete {what}, and the environment's are a Box of shape {space.shape}.")


def bounded_box(space: Space) -> Box:
    """The space, which a squashed policy can cover; a `UsageError` where it is discrete or has a bound missing."""
    if isinstance(space, Discrete):
        raise UsageError(f"This algorithm needs continuous actions, and the environment's are {space.n} discrete ones.")
    if not space.bounded.all():
        raise UsageError("This algorithm needs actions bounded on both sides: wrap the environment, or use ppo.")
    return space
