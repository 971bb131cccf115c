"""How arrays and programs are laid out over devices: runs or environments sharded, lanes mapped in blocks."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def spread(batch: Any, axis: int = 0) -> Any:
    """A batch, a pytree of arrays with B at `axis`, as it is, but each device is to hold only a part of B.

    Where one run's environments are sharded, a loss over the batch is then sharded too, and its gradient becomes a sum
    over devices. The compiler would else have every device compute the whole of it. Nothing happens elsewhere.
    """
    return _laid_out(batch, P(*[None] * axis, "envs"))


def whole(tree: Any) -> Any:
    """The same arrays, but each device is to hold all of them: the counterpart of `spread`."""
    return _laid_out(tree, P())


def _laid_out(tree: Any, spec: P) -> Any:
    if not environments_are_spread():
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def environments_are_spread() -> bool:
    """Whether this is traced for devices that share one run's environments."""
    return "envs" in jax.sharding.get_abstract_mesh().axis_names


def over_runs(mesh: Mesh, axes: Any) -> Any:
    """The specs of leaves that hold an entry a run where `axes` says 0: sharded where runs are."""
    if mesh.size == 1 or "runs" not in mesh.axis_names:
        return P()
    return jax.tree.map(lambda axis: P() if axis is None else P("runs"), axes, is_leaf=lambda axis: axis is None)


def _in_blocks(function: Callable, in_axes: Any, out_axes: Any, block: int) -> Callable:
    """`jax.vmap(function, in_axes, out_axes)`, about `block` lanes at a time, all blocks being of one size."""
    mapped = jax.vmap(function, in_axes, out_axes)

    def is_stacked(axes: Any, tree: Any) -> list[bool]:
        known = jax.tree.map(lambda axis: axis is not None, axes, is_leaf=lambda axis: axis is None)
        return jax.tree.leaves(jax.tree.broadcast(known, tree))

    def program(*inputs: Any) -> Any:
        leaves, structure = jax.tree.flatten(inputs)
        stacked = is_stacked(in_axes, inputs)
        lanes = next(len(x) for x, over_lanes in zip(leaves, stacked, strict=True) if over_lanes)
        divisors = (n for n in range(1, lanes + 1) if lanes % n == 0)
        size = min(divisors, key=lambda n: max(n / block, block / n))
        if size == lanes:
            return mapped(*inputs)

        def one_block(parts: list[jax.Array]) -> Any:
            rest = iter(parts)
            whole = [next(rest) if over_lanes else x for x, over_lanes in zip(leaves, stacked, strict=True)]
            return mapped(*jax.tree.unflatten(structure, whole))

        pairs = zip(leaves, stacked, strict=True)
        parts = [x.reshape(-1, size, *x.shape[1:]) for x, over_lanes in pairs if over_lanes]
        outputs, structure_out = jax.tree.flatten(jax.lax.map(one_block, parts))
        of_lanes = is_stacked(out_axes, jax.tree.unflatten(structure_out, outputs))
        joined = [
            x.reshape(lanes, *x.shape[2:]) if over_lanes else x[0]
            for x, over_lanes in zip(outputs, of_lanes, strict=True)
        ]
        return jax.tree.unflatten(structure_out, joined)

    return program


def sharded(
    function: Callable, mesh: Mesh, in_axes: Any, out_axes: Any, in_specs: Any, out_specs: Any, block: int | None = None
) -> Any:
    """`function` of one run mapped over a batch and jitted, its inputs and outputs on the mesh as the specs say.

    Args:
        function: of one run.
        mesh: the devices. Over "runs" each goes its own way; over "envs" the compiler has them work together.
        in_axes, out_axes: of the mapping.
        in_specs, out_specs: trees of `PartitionSpec`, prefixes of the inputs and outputs.
        block: how many runs each device is to map together; None for all.
    """
    mapped = jax.vmap(function, in_axes, out_axes)
    if block is not None:
        mapped = _in_blocks(function, in_axes, out_axes, block)
    if mesh.size == 1:
        return jax.jit(mapped)

    def together(*inputs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # `core.spread` asks for it
            return mapped(*inputs)

    def shardings(specs: Any) -> Any:
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)

    if "envs" in mesh.axis_names:
        program = together
    else:
        program = jax.shard_map(mapped, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(program, in_shardings=shardings(in_specs), out_shardings=shardings(out_specs))
