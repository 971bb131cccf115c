"""Batches of vmapped runs, one lane per run: which leaves of the state are stacked, and which runs have diverged."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rljax import core
from rljax.backend import sharding


def finite(state: Any) -> jax.Array:
    """True `[]` unless the run has diverged: `params` are not finite, or a state without `params` has a NaN."""
    params = getattr(state, "params", None)
    tree, is_valid = (state, lambda x: ~jnp.isnan(x)) if params is None else (params, jnp.isfinite)
    leaves = [jnp.all(is_valid(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array(leaves)) if leaves else jnp.bool_(True)


def stacked_axes(algorithm: Any, keys: jax.Array, config: Any, config_axes: Any, mesh: Mesh | None = None) -> Any:
    """The axes of a batch's state for `jax.vmap`: 0 for leaves that differ between runs, None for the others.

    Counters do not differ. They stay unbatched between calls, as they do inside one `vmap` of a whole run, so that a
    branch on a counter stays a branch and both give the same bits.

    With the mesh on which the batch is trained, the traces made here are reused by its programs.
    """
    batched: Any = None
    state: Any = None

    @jax.custom_batching.custom_vmap
    def record_axes(state: Any) -> Any:
        return state

    @record_axes.def_vmap
    def _(_: int, in_batched: list[Any], state: Any) -> tuple[Any, Any]:
        nonlocal batched
        (batched,) = in_batched
        return state, batched

    def one_update(key: jax.Array, config: Any) -> None:
        nonlocal state
        key_init, key_updates, _ = core.training_keys(key)
        state = jax.jit(algorithm.init, inline=True)(key_init, config)
        state = record_axes(core.advance(algorithm.update, key_updates, state, config, 0, 1, 1)[0])

    in_axes = (0, config_axes)
    if mesh is None:
        mapped = jax.vmap(one_update, in_axes)
    else:
        mapped = sharding.sharded(
            one_update, mesh, in_axes, 0, tuple(sharding.over_runs(mesh, axes) for axes in in_axes), P()
        )
    jax.eval_shape(mapped, keys, config)
    if batched is None:  # the rule is not called if nothing depends on the key
        return jax.tree.map(lambda _: None, state)
    return jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)


def flat(states: Any, axes: Any) -> tuple[list[Any], list[int | None], Any]:
    """The leaves of `states`, their axes, and the tree's structure."""
    structure: Any
    leaves, structure = jax.tree.flatten(states)
    return leaves, structure.flatten_up_to(axes), structure  # keeps axes of None, but not None in `states`


def map_lanes(stacked: Callable[..., Any], axes: Any, *trees: Any, shared: Callable[..., Any] | None = None) -> Any:
    """Apply one function to leaves that are stacked over lanes, and another to leaves that all lanes share.

    Args:
        stacked: called with the trees' corresponding leaves where `axes` is 0.
        axes: a tree with 0 or None for each leaf.
        *trees: of the same structure.
        shared: called with the trees' corresponding leaves where `axes` is None; by default it returns the last one.
    """
    first, flat_axes, structure = flat(trees[0], axes)
    remaining = [jax.tree.leaves(tree) for tree in trees[1:]]
    keep_last = shared or (lambda *leaves: leaves[-1])
    rows = zip(flat_axes, first, *remaining, strict=True)
    return jax.tree.unflatten(structure, [(keep_last if axis is None else stacked)(*leaves) for axis, *leaves in rows])


def shared_leaves(tree: Any, axes: Any) -> list[Any]:
    """The leaves that all lanes share, such as counters."""
    leaves, flat_axes, _ = flat(tree, axes)
    return [leaf for leaf, axis in zip(leaves, flat_axes, strict=True) if axis is None]
