"""Shard runs or environments over devices, and map runs in blocks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def shard_batch(batch: Any, axis: int = 0) -> Any:
    """Shard a batch, a pytree of arrays with B at `axis`, over the devices that share one run's environments.

    A loss over the batch is then sharded too, and its gradient becomes a sum over devices; otherwise the compiler would
    have every device compute all of it. If environments are not sharded, this does nothing.
    """
    return _constrain(batch, P(*[None] * axis, "envs"))


def replicate(tree: Any) -> Any:
    """Copy arrays to all devices that share one run's environments: the counterpart of `shard_batch`."""
    return _constrain(tree, P())


def _constrain(tree: Any, spec: P) -> Any:
    if not environments_are_sharded():
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def environments_are_sharded() -> bool:
    """True while tracing a program for devices that share one run's environments."""
    return "envs" in jax.sharding.get_abstract_mesh().axis_names


def over_runs(mesh: Mesh, axes: Any) -> Any:
    """`PartitionSpec`s of leaves, sharded over runs where `axes` is 0 and the mesh has runs, else replicated."""
    if mesh.size == 1 or "runs" not in mesh.axis_names:
        return P()
    return jax.tree.map(lambda axis: P() if axis is None else P("runs"), axes, is_leaf=lambda axis: axis is None)


def _in_blocks(function: Callable, in_axes: Any, out_axes: Any, block: int) -> Callable:
    """`jax.vmap(function, in_axes, out_axes)` over equal blocks of about `block` lanes, one block at a time."""
    mapped = jax.vmap(function, in_axes, out_axes)

    def is_stacked(axes: Any, tree: Any) -> list[bool]:
        stacked = jax.tree.map(lambda axis: axis is not None, axes, is_leaf=lambda axis: axis is None)
        return jax.tree.leaves(jax.tree.broadcast(stacked, tree))

    def program(*inputs: Any) -> Any:
        leaves, structure = jax.tree.flatten(inputs)
        stacked = is_stacked(in_axes, inputs)
        lanes = next(len(x) for x, over_lanes in zip(leaves, stacked, strict=True) if over_lanes)
        divisors = (n for n in range(1, lanes + 1) if lanes % n == 0)
        size = min(divisors, key=lambda n: max(n / block, block / n))
        if size == lanes:
            return mapped(*inputs)

        def one_block(parts: list[jax.Array]) -> Any:
            remaining = iter(parts)
            block_leaves = [next(remaining) if over_lanes else x for x, over_lanes in zip(leaves, stacked, strict=True)]
            return mapped(*jax.tree.unflatten(structure, block_leaves))

        pairs = zip(leaves, stacked, strict=True)
        parts = [x.reshape(-1, size, *x.shape[1:]) for x, over_lanes in pairs if over_lanes]
        outputs, structure_out = jax.tree.flatten(jax.lax.map(one_block, parts))
        stacked_out = is_stacked(out_axes, jax.tree.unflatten(structure_out, outputs))
        joined = [
            x.reshape(lanes, *x.shape[2:]) if over_lanes else x[0]
            for x, over_lanes in zip(outputs, stacked_out, strict=True)
        ]
        return jax.tree.unflatten(structure_out, joined)

    return program


def _without_empty_constants(function: Callable) -> Callable:
    """The same function, with its constants that have no elements made by operations.

    XLA's compiler (jaxlib 0.11.2) dies of a segmentation fault at such a constant in a `shard_map`. The models of
    physics engines are full of them: a robot without wings has an array of no wings.
    """

    def same(*inputs: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*inputs)
        constants = [x if np.size(x) else jnp.zeros(np.shape(x), x.dtype) for x in closed.consts]
        outputs = jax.core.eval_jaxpr(closed.jaxpr, constants, *jax.tree.leaves(inputs))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return same


def sharded(
    function: Callable, mesh: Mesh, in_axes: Any, out_axes: Any, in_specs: Any, out_specs: Any, block: int | None = None
) -> Any:
    """Vmap a function of one run over a batch and jit it, with inputs and outputs sharded over a mesh.

    Args:
        function: of one run.
        mesh: the devices. With an axis "runs" they work independently; with "envs" the compiler adds communication.
        in_axes, out_axes: as for `jax.vmap`.
        in_specs, out_specs: trees of `PartitionSpec`, prefixes of the inputs and outputs.
        block: the number of runs that each device maps at a time; None for all.
    """
    mapped = jax.vmap(function, in_axes, out_axes)
    if block is not None:
        mapped = _in_blocks(function, in_axes, out_axes, block)
    if mesh.size == 1:
        return jax.jit(mapped)

    def over_environments(*inputs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for `environments_are_sharded`
            return mapped(*inputs)

    def shardings(specs: Any) -> Any:
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    if "envs" in mesh.axis_names:
        program = over_environments
    else:
        program = jax.shard_map(
            _without_empty_constants(mapped), mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )
    return jax.jit(program, in_shardings=shardings(in_specs), out_shardings=shardings(out_specs))
