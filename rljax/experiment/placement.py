"""Where runs go: devices in a mesh, runs over lanes, states to the host and back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rljax.backend.lanes import flat
from rljax.errors import UsageError, scalar
from rljax.experiment.history import Record
from rljax.experiment.sweeps import Group

SHARDED = ("runs", "envs")  # what may be divided over the devices


def mesh(runs: int, devices: int | None, shard: str = "runs", configs: Sequence[Any] = ()) -> Mesh:
    """The devices to use, on an axis named for what is sharded over them.

    Args:
        runs: how many there are; where they are sharded, no more devices are used.
        devices: how many to use; None for all.
        shard: one of `SHARDED`.
        configs: of the runs; with "envs" the environments of each must divide over the devices.
    """
    there, devices = jax.local_devices(), scalar(devices)
    if shard not in SHARDED:
        raise UsageError(f"shard={shard!r} cannot be: it is 'runs' or 'envs'.")
    if devices is not None and (not isinstance(devices, int) or not 1 <= devices <= len(there)):
        raise UsageError(f"devices={devices} cannot be had: JAX shows {len(there)} here.")
    used = devices or len(there)
    if shard == "runs":
        used = min(used, runs)
    else:
        for config in configs:
            _check_envs(config, used)
    return Mesh(np.array(there[:used]), (shard,))


def most_devices(configs: Sequence[Any], at_most: int) -> int:
    """Over how many devices the environments of all these configs divide."""
    counts = [getattr(config, "num_envs", 1) for config in configs]
    return next(used for used in range(at_most, 0, -1) if not any(count % used for count in counts))


def _check_envs(config: Any, devices: int) -> None:
    if not hasattr(config, "num_envs"):
        raise UsageError('shard="envs" divides num_envs environments over devices, and the config has no num_envs.')
    if config.num_envs % devices:
        whole, fewer = -(-config.num_envs // devices) * devices, most_devices([config], devices)
        raise UsageError(
            f"num_envs={config.num_envs} environments do not divide over {devices} devices: "
            f"take num_envs={whole}, or devices={fewer}."
        )


class Lanes(NamedTuple):
    """The inputs of a batch, one lane a run: R runs, and copies of them up to the L lanes that divide over devices."""

    keys: jax.Array  # [L]
    config: Any  # leaves in which runs differ are `[L, ...]`
    axes: Any  # of the config


def lanes(group: Group, runs: np.ndarray, count: int, keys: jax.Array) -> Lanes:
    """Lay runs `[R, 2]`, configuration and seed of each, out over `count` lanes; `keys` are those of all seeds."""
    points, seeds = runs[np.arange(count) % len(runs)].T
    place = {point: i for i, point in enumerate(group.points)}
    rows = np.array([place[point] for point in points])
    leaves, axes, structure = flat(group.config, group.axes)
    leaves = [leaf if axis is None else leaf[rows] for leaf, axis in zip(leaves, axes, strict=True)]
    return Lanes(keys[seeds], jax.tree.unflatten(structure, leaves), group.axes)


def stacked(states: Any, axes: Any, record: Record) -> Any:
    """The runs' states `[R, ...]`, the counters stacked like everything else, a frozen run's being its own."""
    leaves, flat_axes, structure = flat(jax.tree.map(jnp.asarray, states), axes)
    counted = 0
    for i, (leaf, axis) in enumerate(zip(leaves, flat_axes, strict=True)):
        if axis is not None:
            leaves[i] = leaf[: len(record.runs)]
            continue
        leaves[i] = jnp.broadcast_to(leaf, (len(record.runs), *leaf.shape))
        for lane, frozen in record.diverged.items():
            leaves[i] = leaves[i].at[lane].set(frozen.counters[counted])
        counted += 1
    return jax.tree.unflatten(structure, leaves)


def capture(states: Any, axes: Any, runs: int) -> tuple[list[np.ndarray], list[int | None]]:
    """The leaves of R runs' states on the host, keys as their numbers, and the axis of each."""
    leaves, flat_axes, _ = flat(states, axes)
    numbers = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]
    return [np.asarray(x if a is None else x[:runs]) for x, a in zip(numbers, flat_axes, strict=True)], flat_axes


def restore(leaves: list[np.ndarray], axes: list[int | None], like: Any, lanes: int) -> tuple[Any, Any]:
    """What `capture` took, laid out over lanes again, in the structure of one run's state, as `jax.eval_shape` has it.

    Returns:
        the states, and the axes in the same structure.

    Raises:
        UsageError: the leaves are those of another state.
    """
    templates, structure = jax.tree_util.tree_flatten_with_path(like)
    if len(templates) != len(leaves):
        raise UsageError(f"The saved state has {len(leaves)} arrays and this program's has {len(templates)}.")
    restored: list[Any] = []
    for leaf, axis, (path, template) in zip(leaves, axes, templates, strict=True):
        is_key = jnp.issubdtype(template.dtype, jax.dtypes.prng_key)
        x = jax.random.wrap_key_data(jnp.asarray(leaf)) if is_key else leaf
        one_run = x.shape if axis is None else x.shape[1:]
        if (one_run, x.dtype) != (template.shape, template.dtype):
            raise UsageError(
                f"The saved state's {jax.tree_util.keystr(path)} is {x.dtype}{list(one_run)} and this program's "
                f"{template.dtype}{list(template.shape)}: it was written by another config or version."
            )
        restored.append(x if axis is None else x[np.arange(lanes) % len(x)])
    return jax.tree.unflatten(structure, restored), jax.tree.unflatten(structure, axes)
