"""Types shared between modules."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Metrics = dict[str, jax.Array]

Policy = Callable[[Any, Any], Any]


class RecurrentPolicy(NamedTuple):
    """A policy with a hidden state carried from step to step; `act` returns one for a recurrent network."""

    initial_hidden_state: Callable[[int], Any]  # N -> hidden state, a pytree [N, ...]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]  # (key, obs, hidden state) -> (action, hidden state)


Init = Callable[[jax.Array, Any], Any]

Loss = Callable[..., tuple[jax.Array, Any]]  # (parameters, ..., config) -> (loss [], metrics or what else it returns)

Update = Callable[[jax.Array, Any, Any], tuple[Any, Metrics]]

Scalar = jax.Array | float
