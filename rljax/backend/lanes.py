"""Batches of vmapped runs, one lane per run: which leaves of the state are stacked, and which runs have diverged."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rljax import core, running_statistics
from rljax.backend import sharding

_FINITE = {"loss", "losses", "gradient", "grad", "norm", "error", "value", "target"}


def finite(state: Any) -> jax.Array:
    """True `[]` unless the run has diverged.

    It has if `params` are not finite, if a state without `params` has a NaN, or if running statistics have one.
    """
    params = getattr(state, "params", None)
    if params is None:
        return _all(lambda x: ~jnp.isnan(x), state)
    parts = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, running_statistics.Moments))
    moments = [part for part in parts if isinstance(part, running_statistics.Moments)]
    return _all(jnp.isfinite, params) & _all(lambda x: ~jnp.isnan(x), moments)


def finite_metrics(metrics: Any) -> jax.Array:
    """True `[]` if every metric that must be finite is: losses, gradients and their norms, errors, values and targets.

    These are recognised by a word of the name: loss, gradient, grad, norm, error, value or target, as in `critic_loss`
    or `td_error`. All other metrics may be NaN, such as the mean return of an update in which no episode ended.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(metrics)
    words = [set(re.findall("[a-z]+", jax.tree_util.keystr(path).lower())) for path, _ in leaves]
    return _all(jnp.isfinite, [x for (_, x), found in zip(leaves, words, strict=True) if found & _FINITE])


def _all(is_valid: Callable[[jax.Array], jax.Array], tree: Any) -> jax.Array:
    """True `[]` if all floats of a tree are valid."""
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
