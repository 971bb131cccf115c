"""Where runs go: devices in a mesh, runs over lanes, states to the host and back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rljax.backend import controllers
from rljax.backend.lanes import flat, map_lanes
from rljax.envs.masks import masked
from rljax.errors import UsageError
from rljax.experiment.history import Record, Runs
from rljax.experiment.sweeps import Group
from rljax.types import RecurrentPolicy


def visible() -> list[jax.Device]:
    """The devices of this process, or of all that run together."""
    return jax.devices() if controllers.count() > 1 else jax.local_devices()


def mesh(runs: int, devices: int | None, shard: str = "runs", configs: Sequence[Any] = ()) -> Mesh:
    """The devices to use, on an axis named for what is sharded over them.

    Args:
        runs: number of runs; if they are sharded, no more devices than that are used.
        devices: how many to use; None for all.
        shard: "runs" or "envs".
        configs: of the runs; with "envs" each one's environments must divide over the devices.
    """
    found, processes = visible(), controllers.count()
    if devices is not None and devices > len(found):
        raise UsageError(f"devices={devices} requested, but JAX sees {len(found)}.")
    used = devices or len(found)
    if used % processes:
        raise UsageError(f"devices={used} cannot be divided over {processes} processes: use a multiple.")
    if shard == "runs":
        used = min(used, runs)
    else:
        for config in configs:
            _check_envs(config, used)
    by_process = np.array(found).reshape(processes, -1)  # as many in each, which `controllers` has checked
    return Mesh(by_process[:, : used // processes].ravel(), (shard,))


def max_devices(configs: Sequence[Any], at_most: int) -> int:
    """The largest number of devices, as many of each process, that the environments of all configs divide over."""
    counts, processes = [getattr(config, "num_envs", 1) for config in configs], controllers.count()
    multiples = range(at_most - at_most % processes, 0, -processes)
    return next((used for used in multiples if not any(count % used for count in counts)), processes)


def _check_envs(config: Any, devices: int) -> None:
    if not hasattr(config, "num_envs"):
        raise UsageError(
            'shard="envs" divides num_envs environments over devices, but the config has no num_envs: use shard="runs".'
        )
    if config.num_envs % devices:
        more, fewer = -(-config.num_envs // devices) * devices, max_devices([config], devices)
        raise UsageError(
            f"num_envs={config.num_envs} environments do not divide over {devices} devices: "
            f"use num_envs={more}, or {'fewer processes' if config.num_envs % fewer else f'devices={fewer}'}."
        )


class Lanes(NamedTuple):
    """The inputs of a batch: R runs, one per lane, and copies of them to fill the L lanes that divide over devices."""

    keys: jax.Array  # [L]
    config: Any  # leaves in which runs differ are `[L, ...]`
    axes: Any  # of the config


def lanes(group: Group, runs: Runs, count: int, keys: jax.Array) -> Lanes:
    """Lay runs out over `count` lanes; `keys` are those of all seeds."""
    placed = runs[np.arange(count) % len(runs)]
    place = {point: i for i, point in enumerate(group.points)}
    rows = np.array([place[point] for point in placed.configurations.tolist()])
    return Lanes(keys[placed.seeds], map_lanes(lambda leaf: leaf[rows], group.axes, group.config), group.axes)


def stacked(states: Any, axes: Any, record: Record) -> Any:
    """The runs' states `[R, ...]`, including shared counters, which for a frozen run are those of its last update."""
    runs = len(record.runs)
    frozen = {lane: iter(one.counters) for lane, one in record.frozen.items()}

    def repeat(counter: jax.Array) -> jax.Array:
        counters = jnp.broadcast_to(counter, (runs, *counter.shape))
        for lane, its_counters in frozen.items():
            counters = counters.at[lane].set(next(its_counters))
        return counters

    return map_lanes(lambda leaf: leaf[:runs], axes, jax.tree.map(jnp.asarray, states), shared=repeat)


def capture(states: Any, axes: Any, runs: int) -> tuple[list[np.ndarray], list[int | None]]:
    """The leaves of R runs' states on the host, keys as their data, and the axis of each."""

    def on_host(leaf: jax.Array) -> np.ndarray:
        return controllers.on_host(jax.random.key_data(leaf) if is_key(leaf) else leaf)

    captured = map_lanes(lambda leaf: on_host(leaf[:runs]), axes, states, shared=on_host)
    leaves, flat_axes, _ = flat(captured, axes)
    return leaves, flat_axes


def acting(algorithm: Any, config: Any) -> list[int]:
    """Which leaves of a state `act` reads, by their positions: parameters, but no replay buffer."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0), config)
    leaves, structure = jax.tree.flatten(state)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    obs, _ = jax.eval_shape(jax.vmap(masked(config.env).reset, (0, None)), key, config.env.params)

    def act(leaves: list[Any], obs: Any) -> Any:
        policy = algorithm.act(jax.tree.unflatten(structure, leaves), config)
        if isinstance(policy, RecurrentPolicy):
            return policy.step(jax.random.key(0), obs, policy.initial_hidden_state(1))
        return policy(jax.random.key(0), obs)

    program = jax.make_jaxpr(act)(leaves, obs).jaxpr
    read = {id(variable) for equation in program.eqns for variable in equation.invars}
    read |= {id(variable) for variable in program.outvars}
    return [i for i, variable in enumerate(program.invars[: len(leaves)]) if id(variable) in read]


def capture_acting(states: Any, axes: Any, runs: int, positions: list[int]) -> list[np.ndarray]:
    """The leaves of R runs' states at these positions, `[R, ...]` each, on the host."""
    leaves, flat_axes, _ = flat(states, axes)
    chosen = [(leaves[i], flat_axes[i]) for i in positions]
    chosen = [(jax.random.key_data(x) if is_key(x) else x, axis) for x, axis in chosen]
    return [
        controllers.on_host(x[:runs]) if axis == 0 else np.broadcast_to(controllers.on_host(x), (runs, *x.shape))
        for x, axis in chosen
    ]


def acting_state(leaves: list[np.ndarray], positions: list[int], like: Any) -> Any:
    """One run's state with these leaves, for `act`; the others are zeros that take no memory."""
    templates, structure = jax.tree.flatten(like)
    filled: list[Any] = [np.broadcast_to(np.zeros((), np.uint32), x.shape) for x in templates]
    for i, leaf in zip(positions, leaves, strict=True):
        filled[i] = jax.random.wrap_key_data(jnp.asarray(leaf)) if is_key(templates[i]) else leaf
    return jax.tree.unflatten(structure, filled)


def is_key(leaf: Any) -> bool:
    """True for an array of typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def restore(leaves: list[np.ndarray], axes: list[int | None], like: Any, lanes: int) -> tuple[Any, Any]:
    """Lay the leaves from `capture` out over lanes again, in the structure of one run's state from `jax.eval_shape`.

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
        x = jax.random.wrap_key_data(jnp.asarray(leaf)) if is_key(template) else leaf
        one_run = x.shape if axis is None else x.shape[1:]
        if (one_run, x.dtype) != (template.shape, template.dtype):
            raise UsageError(
                f"The saved state's {jax.tree_util.keystr(path)} is {x.dtype}{list(one_run)} and this program's "
                f"{template.dtype}{list(template.shape)}: it was written by another config or version."
            )
        restored.append(x if axis is None else x[np.arange(lanes) % len(x)])
    return jax.tree.unflatten(structure, restored), jax.tree.unflatten(structure, axes)
