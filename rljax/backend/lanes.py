"""Batches of vmapped runs, one lane per run: which leaves of the state are stacked, and which all lanes share."""

from collections.abc import Callable
from typing import Any

import jax


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
