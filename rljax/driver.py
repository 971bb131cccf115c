"""One batch of runs, from its keys to its final evaluation: the host's loop around the compiled programs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import core
from rljax.errors import UsageError
from rljax.programs import Keys, Programs, flat
from rljax.record import Diverged, Record
from rljax.report import console
from rljax.supervision import wait
from rljax.sweeps import Group

_CHUNK_SECONDS = 0.5  # how long the driver is away: what an interrupt waits for, and how often the bar moves
_CALL_SECONDS = 0.1  # what a call may cost besides its updates; where it costs more, chunks are longer in proportion


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


class Hooks(NamedTuple):
    """What a batch tells of itself while it trains."""

    landed: Callable[[Record], None]  # after every chunk
    evaluated: Callable[[Record], None]  # after every evaluation
    safe: Callable[[Record, Any], None]  # after every chunk, with the states that go with the record
    interrupted: Callable[[], bool]


def train(
    programs: Programs,
    lanes: Lanes,
    keys: Keys,
    start: list[Any],
    record: Record,
    marks: tuple[int, ...],
    num_updates: int,
    capacity: int,
    hooks: Hooks,
) -> Any:
    """The updates that are left, in chunks of half a second or five times what a call costs, evaluations between them.

    Args:
        programs: compiled for these lanes.
        lanes: the runs' configs.
        keys: the runs' keys.
        start: of one element, the states as far as `record` has come. It is taken out: a caller that still held it
            would keep a third copy of all replays in memory.
        record: what has landed; it is added to.
        marks: numbers of updates at which to evaluate.
        num_updates: of a whole run.
        capacity: the most updates of a chunk.
        hooks: told of every chunk and evaluation; asked whether to end early.

    Returns:
        the states.
    """
    states = start.pop()
    # A call copies the states, as the ones before it are needed where a run diverges: seconds for gigabytes of replays.
    none = (keys.updates, states, lanes.config, np.int32(record.updates), np.int32(0))
    call_seconds = min(_seconds(programs.advance, *none) for _ in range(2))  # the first one may also set things up
    away = _CHUNK_SECONDS * max(1.0, call_seconds / _CALL_SECONDS)
    del none
    pace = 1.0
    for number, stop in enumerate((*marks, num_updates)):
        if number < len(record.eval_updates):
            continue
        while record.updates < stop and not hooks.interrupted():
            count = int(min(max(pace, 1.0), stop - record.updates, capacity))
            started = time.perf_counter()
            before, chunk = states, (np.int32(record.updates), np.int32(count))
            states, metrics, lasted = wait(programs.advance, keys.updates, before, lanes.config, *chunk)
            seconds = time.perf_counter() - started
            pace = min(4.0 * count, count * away / seconds)
            states = _freeze(programs, lanes, keys, before, states, metrics, record, np.asarray(lasted), count)
            record.landed(metrics, count, seconds)
            hooks.landed(record)
            hooks.safe(record, states)
        if hooks.interrupted():
            break
        if number < len(marks):
            returns, _ = wait(programs.evaluate, keys.curve, states, lanes.config, np.int32(number))
            record.evaluated(np.asarray(returns))
            hooks.evaluated(record)
    return states


def _seconds(program: Callable[..., Any], *arguments: Any) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    wait(program, *arguments)
    return time.perf_counter() - started


def _freeze(
    programs: Programs,
    lanes: Lanes,
    keys: Keys,
    before: Any,
    states: Any,
    metrics: Any,
    record: Record,
    lasted: np.ndarray,
    count: int,
) -> Any:
    """Hold runs that have diverged at their last finite states; the others go on untouched.

    A run that diverged in this chunk is led again from the chunk's start to the update before it did, which gives the
    same bits, so that where it stands does not depend on how the run was cut into chunks.
    """
    # Lanes beyond the runs are copies of the first ones, and share their fate.
    frozen = np.isin(np.arange(len(lasted)) % len(record.runs), list(record.diverged))
    if frozen.any():
        states = wait(programs.keep, frozen, before, states)
    broken = (lasted < count) & ~frozen
    last, done = before, 0
    for position in np.unique(lasted[broken]).tolist():
        if position > done:
            chunk = (np.int32(record.updates + done), np.int32(position - done))
            last, _, _ = wait(programs.advance, keys.updates, last, lanes.config, *chunk)
            done = position
        here = broken & (lasted == position)
        states = wait(programs.keep, here, last, states)
        leaves, axes, _ = flat(last, programs.axes)
        counters = [np.asarray(x) for x, axis in zip(leaves, axes, strict=True) if axis is None]
        for lane in np.flatnonzero(here[: len(record.runs)]).tolist():
            if position:
                env_steps = int(np.asarray(metrics["env_steps"])[lane, position - 1])
            else:
                env_steps = int(record.chunks[-1]["env_steps"][lane, -1]) if record.chunks else 0
            record.diverged[lane] = Diverged(record.updates + position, env_steps, counters)
    return states


def evaluate(programs: Programs, lanes: Lanes, keys: Keys, states: Any, runs: int, episodes: int) -> np.ndarray:
    """Returns `[R, episodes]` of the final greedy policies, in as many calls as it takes."""
    batches: list[np.ndarray] = []
    endless = 0
    while sum(batch.shape[1] for batch in batches) < episodes:
        returns, ended = wait(programs.evaluate, keys.final, states, lanes.config, np.int32(len(batches)))
        batches.append(np.asarray(returns)[:runs])
        endless += int(np.sum(~np.asarray(ended)[:runs]))
    if endless:
        console.say(
            f"{endless:,} of {sum(batch.size for batch in batches):,} episodes of the final evaluation had not ended "
            f"after {core.MOST_STEPS:,} steps; their returns so far count. To give an environment an end, wrap it: "
            "rljax.envs.time_limit(env, 1000)."
        )
    return np.concatenate(batches, axis=1)[:, :episodes]


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
