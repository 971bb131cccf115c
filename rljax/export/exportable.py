"""A policy as a pure function of named arrays: what all formats are written from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
from jax.interpreters import partial_eval

from rljax.envs import spaces
from rljax.envs.masks import Masked, complete, masked, plain
from rljax.errors import UsageError, located
from rljax.types import RecurrentPolicy

BATCH = "batch"  # the name of the number of observations
_OBS, _LEGAL, _HIDDEN = "obs", "legal_actions", "hidden_state"
_ACTION, _NEXT = "action", "next_hidden_state"


class Exportable(NamedTuple):
    """A greedy policy as a pure function of arrays."""

    function: Callable[..., tuple[Any, ...]]
    """`(key, *inputs) -> outputs`."""
    inputs: dict[str, jax.ShapeDtypeStruct]
    """By name, without the batch axis: `obs`, or `obs.PATH` for each leaf of nested observations; `legal_actions`, a
    mask, if the environment has one; `hidden_state`, or `hidden_state.PATH`, of a recurrent policy."""
    outputs: list[str]
    """`action`, and `next_hidden_state` or `next_hidden_state.PATH` of a recurrent policy."""
    initial_hidden_state: dict[str, np.ndarray]
    """Of one episode, by the names of the inputs."""


def of_policy(policy: Any, env: Any) -> Exportable:
    """A policy as a function of the named arrays of its observations and its hidden state."""
    obs, _ = jax.eval_shape(masked(env).reset, jax.random.key(0), env.params)
    bare = plain(obs)
    named = {f"{_OBS}.{path}" if path else _OBS: x for path, x in spaces.by_path(bare).items()}
    num_obs, structure = len(named), jax.tree.structure(bare)
    if isinstance(obs, Masked):
        named[_LEGAL] = obs.legal
    num_seen = len(named)
    is_recurrent, hidden = isinstance(policy, RecurrentPolicy), {}
    if is_recurrent:
        start = policy.initial_hidden_state(1)
        hidden = {_joined(_HIDDEN, path): np.asarray(x[0]) for path, x in spaces.by_path(start).items()}
        hidden_structure = jax.tree.structure(start)
        named |= {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in hidden.items()}

    def function(key: jax.Array, *inputs: jax.Array) -> tuple[Any, ...]:
        seen = jax.tree.unflatten(structure, inputs[:num_obs])
        if isinstance(obs, Masked):
            seen = Masked(seen, complete(env.action_space, inputs[num_obs]))
        if not is_recurrent:
            return (policy(key, seen),)
        action, after = policy.step(key, seen, jax.tree.unflatten(hidden_structure, inputs[num_seen:]))
        return (action, *jax.tree.leaves(after))

    outputs = [_ACTION, *(name.replace(_HIDDEN, _NEXT) for name in hidden)]
    return Exportable(function, named, outputs, hidden)


def _joined(name: str, path: str) -> str:
    return f"{name}.{path}" if path else name


def specs(policy: Exportable) -> list[jax.ShapeDtypeStruct]:
    """The inputs `[batch, ...]` with a symbolic batch size."""
    (batch,) = jax.export.symbolic_shape(BATCH)
    return [jax.ShapeDtypeStruct((batch, *x.shape), x.dtype) for x in policy.inputs.values()]


def traced(policy: Exportable) -> tuple[Any, list[Any]]:
    """The policy's jaxpr for a symbolic batch size, and the values of its constants.

    Raises:
        UsageError: the policy draws random numbers, or it cannot act on any number of observations.
    """
    inputs = specs(policy)
    try:
        closed = jax.make_jaxpr(policy.function)(jax.random.key(0), *inputs)
    except Exception as error:  # of a custom policy's code
        raise UsageError(f"The policy cannot be traced for any number of observations: {located(error)}.") from error
    kept = [False, *[True] * len(inputs)]
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), kept)
    if used[0]:
        raise UsageError("The policy draws random numbers: only greedy policies can be exported.")
    rows = [x.shape[:1] for x in closed.out_avals]
    if any(row != inputs[0].shape[:1] for row in rows):
        raise UsageError("The policy's outputs must have one row for each observation.")
    return jaxpr, closed.consts


def results(policy: Exportable) -> list[Any]:
    """The shapes and dtypes of the outputs, `[batch, ...]`."""
    return list(jax.eval_shape(policy.function, jax.random.key(0), *specs(policy)))
