"""The compiled programs of a batch of runs: initialise, advance, evaluate; sharded over devices.

Either the runs are sharded, each device running its own without communication, or the environments of every run are:
the compiler then divides one program, with the same keys, so only the order of sums differs.
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
from rljax.backend import sharding
from rljax.backend.lanes import flat, map_lanes
from rljax.config import replace_unchecked
from rljax.errors import UsageError
from rljax.experiment.evaluating import Evaluation

COPIED_BYTES = 2**26  # of replay buffers copied at each call to work in blocks: a few hundredths of its time
BLOCK_BYTES = 2**19  # of states worked on together on a CPU: a quarter of a typical core's cache
_KEPT = 8  # batches whose compiled programs are kept for other runs with other numbers


class Keys(NamedTuple):
    """The keys of L runs after `init`, `[L]` each."""

    updates: jax.Array
    curve: jax.Array
    final: jax.Array


class Programs(NamedTuple):
    """What trains a batch of L runs, each in a lane."""

    init: Callable[..., Any]
    """`(keys [L], config) -> states`."""
    advance: Any  # compiled
    """`(keys, states, config, first, count) -> (states, metrics [L, capacity, ...], lasted [L])`; `lasted` is the
    number of these updates after which the run was still finite: see `core.finite` and `core.finite_metrics`."""
    evaluate: Callable[..., Any]
    """`(keys, states, config, number) -> episodes`, `[L, episodes]` each, from `evaluation.play`."""
    keep: Callable[..., Any]
    """`(chosen [L], states, others) -> others`, with the chosen lanes replaced by those of `states`."""
    axes: Any
    """Of the state: 0 if a leaf is stacked over lanes, None if all lanes share it."""
    bytes: int
    """Bytes on each device while it advances."""


_compiled: dict[Any, Programs] = {}


def latest() -> Programs:
    """The programs compiled last."""
    return next(reversed(_compiled.values()))


def forget() -> None:
    """Drop all compiled programs."""
    _compiled.clear()


@jax.jit
@jax.vmap
def keys_of(key: jax.Array) -> Keys:
    """The keys that runs use after `init`, from each run's key `[L]`."""
    _, key_updates, key_evaluation = core.training_keys(key)
    key_curve, key_final = jax.random.split(key_evaluation)
    return Keys(key_updates, key_curve, key_final)


def build(
    algorithm: Any,
    config: Any,
    config_axes: Any,
    keys: jax.Array,
    mesh: Mesh,
    capacity: int,
    evaluated: Evaluation,
) -> Programs:
    """Compile a batch's programs, or return those compiled before: values of traced numbers do not matter.

    Args:
        algorithm: has `init`, `update` and `act`.
        config: its config, with leaves stacked `[L, ...]` where `config_axes` is 0.
        config_axes: a pytree like the config.
        keys: one per lane, `[L]`; if runs are sharded L divides over the mesh, otherwise `config.num_envs` does.
        mesh: the devices, on an axis named for what is sharded over them: "runs" or "envs".
        capacity: the most updates of one call of `advance`.
        evaluated: what one call of `evaluate` does, for each lane.
    """
    leaves, axes, structure = flat(config, config_axes)
    signature = tuple((jnp.shape(x), jnp.result_type(x), isinstance(x, int | float)) for x in leaves)
    functions = (algorithm.init, algorithm.update, algorithm.act)
    # The params of an environment for evaluations are constants of the program.
    params, env_structure = jax.tree.flatten(evaluated.env)
    constants = tuple((jnp.result_type(x), np.asarray(x).tobytes()) for x in params)
    evaluation_key = (evaluated.episodes, evaluated.is_greedy, env_structure, constants)
    cache_key = (*functions, structure, signature, tuple(axes), keys.shape, mesh, capacity, *evaluation_key)
    if cache_key not in _compiled:
        if len(_compiled) == _KEPT:
            del _compiled[next(iter(_compiled))]
        _compiled[cache_key] = _build(algorithm, config, config_axes, keys, mesh, capacity, evaluated)
    return _compiled[cache_key]


def _build(
    algorithm: Any,
    config: Any,
    config_axes: Any,
    keys: jax.Array,
    mesh: Mesh,
    capacity: int,
    evaluated: Evaluation,
) -> Programs:
    # Jitted, so that what is traced for one of the programs serves the others.
    init_run, update_run = jax.jit(algorithm.init, inline=True), jax.jit(algorithm.update, inline=True)

    def init(key: jax.Array, config: Any) -> Any:
        key_init, _, _ = core.training_keys(key)
        return init_run(key_init, config)

    def advance(key: jax.Array, state: Any, config: Any, first: jax.Array, count: jax.Array) -> Any:
        def update(key: jax.Array, state: Any, config: Any) -> Any:
            new_state, metrics = update_run(key, state, config)
            # Checked before the update, so that the check is not fused into what computes the new state.
            return new_state, (metrics, core.finite(state), core.finite_metrics(metrics))

        history: Any
        state, history = core.advance(update, key, state, config, first, count, capacity)
        metrics, was_finite, metrics_finite = history
        # A row's state is the one before its update: the next row has the state after it.
        is_finite = metrics_finite & jnp.roll(was_finite, -1).at[count - 1].set(core.finite(state))
        broken = jnp.logical_not(is_finite) & (jnp.arange(capacity) < count)
        return state, metrics, jnp.where(jnp.any(broken), jnp.argmax(broken), count)

    def evaluate(key: jax.Array, state: Any, config: Any, number: jax.Array) -> evaluation.Episodes:
        return evaluated.episodes_of(jax.random.fold_in(key, number), algorithm, state, config)

    axes = core.stacked_axes(algorithm, keys, config, config_axes, mesh)

    def keep(chosen: jax.Array, states: Any, others: Any) -> Any:
        return map_lanes(lambda state, other: jnp.where(chosen, state, other), axes, states, others)

    run, state, of_config = _specs(mesh, algorithm, keys, config, config_axes, axes)
    replicated = P()
    inputs, axes_in = (run, state, of_config), (0, axes, config_axes)
    init_all = sharding.sharded(init, mesh, (0, config_axes), axes, (run, of_config), state)
    states = jax.eval_shape(init_all, keys, config)
    block = block_size(states, len(keys), mesh)
    advance_all = sharding.sharded(
        advance,
        mesh,
        (*axes_in, None, None),
        (axes, 0, 0),
        (*inputs, replicated, replicated),
        (state, run, run),
        block,
    )
    evaluate_all = sharding.sharded(evaluate, mesh, (*axes_in, None), 0, (*inputs, replicated), run, block)
    number = np.int32(0)
    shapes = (jax.eval_shape(keys_of, keys).updates, states, config, number, number)
    lowered = (init_all.lower(keys, config), advance_all.lower(*shapes), evaluate_all.lower(*shapes[:4]))
    with ThreadPoolExecutor() as threads:  # XLA's compiler uses little more than one core
        begins, advances, evaluates = threads.map(lambda program: program.compile(), lowered)
    keep_all = sharding.sharded(keep, mesh, (0, axes, axes), axes, (run, state, state), state)
    size = max(map(_bytes_of_program, (begins, advances, evaluates)))
    return Programs(begins, advances, evaluates, keep_all, axes, size)


def _bytes_of_program(program: Any) -> int:
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    sizes = (analysis.argument_size_in_bytes, analysis.output_size_in_bytes, analysis.temp_size_in_bytes)
    return sum(sizes) - analysis.alias_size_in_bytes


def _specs(mesh: Mesh, algorithm: Any, keys: jax.Array, config: Any, config_axes: Any, axes: Any) -> tuple:
    """The specs of an array with one entry per run, of the state's leaves, and of the config's."""
    if "envs" in mesh.axis_names and mesh.size > 1:
        return P(), env_specs(algorithm, keys, config, config_axes, axes), P()
    return sharding.over_runs(mesh, 0), sharding.over_runs(mesh, axes), sharding.over_runs(mesh, config_axes)


def env_specs(algorithm: Any, keys: jax.Array, config: Any, config_axes: Any, axes: Any) -> Any:
    """The specs of a batch's state, sharded along the axis of each leaf that halves with the number of environments.

    It is halved, not doubled: with fewer environments a replay buffer has more slots, so no slot axis looks like
    an axis of environments, and what fits all environments fits half of them.
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
            'The algorithm\'s state has no array over num_envs environments to shard: use shard="runs", or devices=1.'
        )
    return specs


def side_by_side(state: Any, lanes: int, mesh: Mesh) -> int:
    """How many runs to train at once, given one run's state.

    On a CPU, as many as have at most 64 MiB of replay buffers in total, but at least one per device; otherwise all.

    Many runs with large replay buffers at once are slower than the same runs one after the other: each touches more
    than a cache holds, and copying their buffers rules out working in blocks (see `block_size`).
    """
    buffers, _ = _bytes(state)
    if not buffers or not _is_for_runs_on_cpu(mesh):
        return lanes
    return min(max(COPIED_BYTES // buffers // mesh.size, 1) * mesh.size, lanes)


def block_size(states: Any, lanes: int, mesh: Mesh) -> int:
    """How many runs to map together: on a CPU as many as its cache holds, otherwise all.

    Many runs at once make large arrays, which every small operation reads from memory and writes back. Cutting out a
    block copies its replay buffers, which costs more than it saves if they are large.
    """
    copied, others = _bytes(states)
    if copied > COPIED_BYTES or not _is_for_runs_on_cpu(mesh):
        return lanes
    return max(BLOCK_BYTES * lanes // others, 1)


def bytes_of(states: Any) -> int:
    """The bytes of a state or many."""
    return sum(_bytes(states))


def _bytes(states: Any) -> tuple[int, int]:
    """The bytes of the replay buffers in a state or many, and of everything else."""

    def size(tree: Any) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    parts = jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, replay.Replay))
    buffers = size([part for part in parts if isinstance(part, replay.Replay)])
    return buffers, size(states) - buffers


def _is_for_runs_on_cpu(mesh: Mesh) -> bool:
    return "envs" not in mesh.axis_names and mesh.devices.flat[0].platform == "cpu"
