"""Policies of a result side by side: the states that they act with, in one program."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rljax.envs import pools
from rljax.errors import UsageError, shown
from rljax.experiment import placement
from rljax.experiment.options import EVALUATED


def check(algorithm: Any, policy: str) -> None:
    """Raise a `UsageError` if `policy` is not one of `EVALUATED`, or the algorithm has no such policy."""
    if policy not in EVALUATED:
        raise UsageError(f"policy must be {' or '.join(EVALUATED)}, got {shown(policy)}.")
    if policy == "stochastic" and "greedy" not in inspect.signature(algorithm.act).parameters:
        raise UsageError(
            'The algorithm has no stochastic policy: leave policy="greedy", or give its act() an argument greedy=True.'
        )


def side_by_side(result: Any, chosen: Sequence[tuple[int, str | int]], function: Callable[[Any], Any]) -> Any:
    """The results of a function of a state, stacked on the host, for rows of a `Result` at checkpoints.

    The states have only what `act` reads; the rest of them is zero.
    """
    algorithm, config = result.algorithm, result.config
    positions = placement.acting(algorithm, config)
    like = jax.eval_shape(algorithm.init, jax.random.key(0), config)

    def acting(row: int, checkpoint: str | int) -> list[np.ndarray]:
        if checkpoint != "last":
            return list(result.kept_at(row, checkpoint).acting(row))
        leaves = jax.tree.leaves(result.states)
        read = [leaves[i][row] for i in positions]
        return [np.asarray(jax.random.key_data(x) if placement.is_key(x) else x) for x in read]

    stacked = [np.stack(leaf) for leaf in zip(*(acting(*one) for one in chosen), strict=True)]
    together = jax.vmap(lambda leaves: function(placement.acting_state(leaves, positions, like)), axis_size=len(chosen))
    with pools.failures():
        return jax.device_get(jax.jit(together)(stacked))
