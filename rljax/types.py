"""The types that modules share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Metrics = dict[str, jax.Array]

Policy = Callable[[Any, jax.Array], Any]


class RecurrentPolicy(NamedTuple):
    """A policy with a memory, carried from step to step: what `act` may give in place of a `Policy`."""

    initial_memory: Callable[[int], Any]  # of that many environments: a pytree [N, ...]
    step: Callable[[Any, jax.Array, Any], tuple[Any, Any]]  # (key, obs [N, ...], memory) -> (action [N, ...], memory)


Init = Callable[[jax.Array, Any], Any]

Update = Callable[[jax.Array, Any, Any], tuple[Any, Metrics]]

Scalar = jax.Array | float
