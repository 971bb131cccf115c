"""The compiled programs of a batch of runs: begin, advance, evaluate; sharded over devices.

Either the runs are sharded, a program each without communication, or every run's environments are: the compiler then
divides one and the same program, with the same keys, so that nothing differs but the order of sums.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rljax import core, evaluation, replay
from rljax.backend import lanes, sharding
from rljax.config import replace_unchecked
from rljax.errors import UsageError

_COPIED_BYTES = 2**26  # of replays that are copied at each call for the sake of blocks: a few hundredths of its time

_BLOCK_BYTES = 2**19  # of states that are worked on together on a CPU: a quarter of a core's cache, as most now have it

_KEPT = 8  # batches whose compiled programs are kept for another run with other numbers


class Keys(NamedTuple):
    """Each run's keys `[L]`, for what follows `init`."""

    updates: jax.Array
    curve: jax.Array
    final: jax.Array


class Programs(NamedTuple):
    """What a batch of L runs is trained by. A run of the batch is a lane."""

    init: Callable[..., Any]
    """`(keys [L], config) -> (Keys, states)`."""
    advance: Callable[..., Any]
    """`(keys, states, config, first, count) -> (states, metrics [L, capacity, ...], lasted [L])`; `lasted` is the
    number of these updates after which the run's parameters were still finite."""
    evaluate: Callable[..., Any]
    """`(keys, states, config, number) -> (returns [L, episodes], ended [L, episodes])`, as `core.play` has them."""
    keep: Callable[..., Any]
    """`(chosen [L], states, others) -> others`, with the lanes chosen as they are in `states`."""
    axes: Any
    """Of the state: 0 where a leaf is stacked over lanes, None where it is one for all."""
    memory: int
    """Bytes on each device while it advances."""


_compiled: dict[Any, Programs] = {}


def latest() -> Programs:
    """Return the programs compiled last."""
    return next(reversed(_compiled.values()))


def forget() -> None:
    """Drop all compiled programs, so that every batch compiles its programs again."""
    _compiled.clear()


def build(
    algorithm: Any, config: Any, config_axes: Any, keys: jax.Array, mesh: Mesh, capacity: int, episodes: int
) -> Programs:
    """Compile a batch's programs, or find them compiled: traced numbers of the config do not enter.

    Args:
        algorithm: has `init`, `update` and `act`.
        config: its config, leaves stacked `[L, ...]` where `config_axes` says 0.
        config_axes: a pytree like the config.
        keys: one a lane, `[L]`; where runs are sharded L divides over the mesh, else `config.num_envs` does.
        mesh: the devices, on an axis named for what is sharded over them: "runs" or "envs".
        capacity: the most updates of one call of `advance`.
        episodes: of one call of `evaluate`, for each lane.
    """
    leaves, axes, structure = lanes.flat(config, config_axes)
    signature = tuple((jnp.shape(x), jnp.result_type(x), isinstance(x, int | float)) for x in leaves)
    functions = (algorithm.init, algorithm.update, algorithm.act)
    cached = (*functions, structure, signature, tuple(axes), keys.shape, mesh, capacity, episodes)
    if cached not in _compiled:
        if len(_compiled) == _KEPT:
            del _compiled[next(iter(_compiled))]
        _compiled[cached] = _build(algorithm, config, config_axes, keys, mesh, capacity, episodes)
    return _compiled[cached]


def _build(
    algorithm: Any, config: Any, config_axes: Any, keys: jax.Array, mesh: Mesh, capacity: int, episodes: int
) -> Programs:
    # Jitted, so that what is traced for one of the programs serves the others.
    begin, go_on = jax.jit(algorithm.init, inline=True), jax.jit(algorithm.update, inline=True)

    def init(key: jax.Array, config: Any) -> tuple[Keys, Any]:
        key_init, key_updates, key_evaluation = core.training_keys(key)
        key_curve, key_final = jax.random.split(key_evaluation)
        return Keys(key_updates, key_curve, key_final), begin(key_init, config)

    def advance(key: jax.Array, state: Any, config: Any, first: jax.Array, count: jax.Array) -> Any:
        def update(key: jax.Array, state: Any, config: Any) -> Any:
            following, metrics = go_on(key, state, config)
            # Asked of the state that came in, so that nothing is fused into what makes the one that goes out.
            return following, (metrics, lanes.finite(state))

        history: Any
        state, history = core.advance(update, key, state, config, first, count, capacity)
        metrics, was_finite = history
        broken = jnp.logical_not(was_finite) & (jnp.arange(capacity) < count)
        lasted = jnp.where(jnp.any(broken), jnp.argmax(broken) - 1, count - jnp.logical_not(lanes.finite(state)))
        return state, metrics, jnp.maximum(lasted, 0)

    def evaluate(key: jax.Array, state: Any, config: Any, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        policy = algorithm.act(state, config)
        return evaluation.play(jax.random.fold_in(key, number), config.env, policy, episodes)

    number = np.int32(0)
    axes = lanes.stacked_axes(algorithm, keys, config, config_axes, mesh)

    def keep(chosen: jax.Array, states: Any, others: Any) -> Any:
        theirs, stacked, structure = lanes.flat(others, axes)
        pairs = zip(jax.tree.leaves(states), theirs, stacked, strict=True)
        return jax.tree.unflatten(structure, [y if axis is None else jnp.where(chosen, x, y) for x, y, axis in pairs])

    run, state, of_config = _specs(mesh, algorithm, keys, config, config_axes, axes)
    whole = P()
    of_run, per_run = (run, state, of_config), (0, axes, config_axes)
    init_all = sharding.sharded(init, mesh, (0, config_axes), (0, axes), (run, of_config), (run, state))
    run_keys, states = jax.eval_shape(init_all, keys, config)
    block = _block(states, len(keys), mesh)
    advance_all = sharding.sharded(
        advance, mesh, (*per_run, None, None), (axes, 0, 0), (*of_run, whole, whole), (state, run, run), block
    )
    evaluate_all = sharding.sharded(evaluate, mesh, (*per_run, None), (0, 0), (*of_run, whole), (run, run), block)
    inputs = (run_keys.updates, states, config, number, number)
    lowered = (init_all.lower(keys, config), advance_all.lower(*inputs), evaluate_all.lower(*inputs[:4]))
    with ThreadPoolExecutor() as threads:  # XLA's compiler uses little more than one core
        begins, advances, evaluates = threads.map(lambda program: program.compile(), lowered)
    keep_all = sharding.sharded(keep, mesh, (0, axes, axes), axes, (run, state, state), state)
    return Programs(begins, advances, evaluates, keep_all, axes, max(map(_memory, (begins, advances, evaluates))))


def _memory(program: Any) -> int:
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    sizes = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
    return sum(sizes) - analysis.alias_size_in_bytes


def _specs(mesh: Mesh, algorithm: Any, keys: jax.Array, config: Any, config_axes: Any, axes: Any) -> tuple:
    """How a batch lies on the devices: an array of one entry a run, the leaves of the state, those of the config."""
    if "envs" in mesh.axis_names and mesh.size > 1:
        return P(), _over_envs(algorithm, keys, config, config_axes, axes), P()
    return sharding.over_runs(mesh, 0), sharding.over_runs(mesh, axes), sharding.over_runs(mesh, config_axes)


def _over_envs(algorithm: Any, keys: jax.Array, config: Any, config_axes: Any, axes: Any) -> Any:
    """Each leaf of a batch's state with the axis sharded that runs over environments: the one that halves with them.

    Halves rather than doubles, since what holds a number of environments holds fewer too. A replay, which then has
    more slots, never looks as if it ran over environments there.
    """

    def shapes(num_envs: int) -> Any:
        def init(key: jax.Array, config: Any) -> Any:
            return algorithm.init(key, replace_unchecked(config, num_envs=num_envs))

        return jax.eval_shape(jax.vmap(init, (0, config_axes), axes), keys, config)

    fewer = config.num_envs // 2

    def spec(one: Any, other: Any) -> P:
        halves = [pair == (config.num_envs, fewer) for pair in zip(one.shape, other.shape, strict=True)]
        return P(*[None] * halves.index(True), "envs") if any(halves) else P()

    specs = jax.tree.map(spec, shapes(config.num_envs), shapes(fewer))
    if all(spec == P() for spec in jax.tree.leaves(specs)):
        raise UsageError(
            'The algorithm\'s state has no array over num_envs environments to shard: take shard="runs", or devices=1.'
        )
    return specs


def side_by_side(state: Any, lanes: int, mesh: Mesh) -> int:
    """How many of so many runs to train at once, given one's state: on a CPU as many as have small replays together.

    Many runs with large replays at once are slower than the same runs in turn, as each touches more than a cache holds
    and is not worked on in blocks (see `_block`).
    """
    replays, _ = _bytes(state)
    if not replays or not _is_for_runs_on_cpu(mesh):
        return lanes
    return min(max(_COPIED_BYTES // replays // mesh.size, 1) * mesh.size, lanes)


def _block(states: Any, lanes: int, mesh: Mesh) -> int:
    """How many runs to map together: on a CPU as many as its cache holds, else all.

    Many runs at once make large arrays, each of them read from memory and written to it by every small operation. To
    cut a block out copies its replays, which is more than is won where they are large; of small ones little is touched.
    """
    copied, others = _bytes(states)
    if copied > _COPIED_BYTES or not _is_for_runs_on_cpu(mesh):
        return lanes
    return max(_BLOCK_BYTES * lanes // others, 1)


def _bytes(states: Any) -> tuple[int, int]:
    """Those of the replays in a state or many, and those of all else."""

    def size(tree: Any) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    parts = jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, replay.Replay))
    replays = size([part for part in parts if isinstance(part, replay.Replay)])
    return replays, size(states) - replays


def _is_for_runs_on_cpu(mesh: Mesh) -> bool:
    return "envs" not in mesh.axis_names and mesh.devices.flat[0].platform == "cpu"
