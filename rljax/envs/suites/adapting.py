"""What adapters of outside suites share: their types and spaces as ours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from rljax.errors import UsageError


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
