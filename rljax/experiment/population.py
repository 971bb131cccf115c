"""Population-based training with its members on several workers of a Ray cluster.

A round is one Ray task for every few members. Their states stay in Ray's object store, from which the next round's
tasks fetch those of the parents; scores and metrics come to the driver, which selects. If a node dies, Ray computes
the states that it held again, to the same bits.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import pbt
from rljax.backend import lanes
from rljax.errors import UsageError, number
from rljax.experiment import cluster as clusters
from rljax.experiment import shipping, worker
from rljax.experiment.options import Options
from rljax.experiment.placement import is_key
from rljax.experiment.run import check, start_jax


class _Job(NamedTuple):
    """What workers need to know of a population."""

    algorithm: Any
    config: Any
    interval: int


class _Members(NamedTuple):
    """Some members, with their values before a round."""

    key_data: np.ndarray  # [M, ...] of their keys
    values: dict[str, np.ndarray]  # [M] each
    rows: list[tuple[int, int]]  # of each one's state: which of the tasks before, and the row there


def train_population(
    algorithm: Any,
    key: jax.Array,
    config: Any,
    explore: Mapping[str, tuple[float, float]],
    *,
    population: int = 16,
    interval: int = 10,
    fraction: float = 0.25,
    factor: float = 1.25,
    cluster: str = "ray",
    task_resources: str | None = None,
    members_per_task: int = 4,
) -> pbt.Outcome:
    """Train a population as `rljax.pbt.train` does, with its members on the workers of a Ray cluster.

    For the same `members_per_task` the bits do not depend on the number of workers, nor on which of them die. They are
    those of `rljax.pbt.train` to rounding.

    Args:
        algorithm, key, config, explore, population, interval, fraction, factor: as for `rljax.pbt.train`.
        cluster, task_resources: as for `rljax.run`.
        members_per_task: how many members are trained side by side.

    Raises:
        UsageError: an argument is invalid, or the cluster cannot be used.
        Exception: from the algorithm, unchanged.
    """
    start_jax()
    check(algorithm, config)
    explore, population, interval, fraction, factor = pbt.checked(
        config, explore, population, interval, fraction, factor
    )
    members_per_task = number("members_per_task", members_per_task, integer=True, minimum=1)
    options = Options(cluster=cluster, task_resources=task_resources)
    values, run_keys, key_rounds = pbt.begin(key, explore, population)
    key_data = np.asarray(jax.random.key_data(run_keys))
    parts = [
        np.arange(first, min(first + members_per_task, population)) for first in range(0, population, members_per_task)
    ]
    parents: Any = np.arange(population)
    states: list[Any] = []
    history, rounds = [values], []
    with clusters.connected(options) as connection:
        ray = connection.ray
        shipment = ray.put(shipping.pack(_Job(algorithm, config, interval), ray.cloudpickle.dumps))
        remote = connection.remote(play, None, num_returns=2, max_retries=-1)
        for index in range(config.num_updates // interval):
            submitted = []
            for part in parts:
                places = [divmod(int(parent), members_per_task) for parent in np.asarray(parents)[part]]
                used = sorted({task for task, _ in places}) if states else []
                rows = [(used.index(task), row) for task, row in places] if states else []
                own = {path: np.asarray(x)[part] for path, x in values.items()}
                members = _Members(key_data[part], own, rows)
                inputs = [states[task] for task in used]
                submitted.append(remote.remote(shipment, connection.identity, members, index, *inputs))
            states = [reference for reference, _ in submitted]
            results = _results(connection, [reference for _, reference in submitted])
            scores = jnp.concatenate([scores for scores, _ in results])
            parents, values = pbt.select(key_rounds, jnp.int32(index), scores, values, explore, fraction, factor)
            history.append(values)
            rounds.append((scores, parents, jax.tree.map(lambda *xs: np.concatenate(xs), *[m for _, m in results])))
        last = ray.get(states)
    places = [divmod(int(parent), members_per_task) for parent in np.asarray(parents)]
    program = pbt.program_of(algorithm, config, run_keys, values, interval)
    like = jax.eval_shape(program.init, run_keys, values)[1]
    return pbt.Outcome(
        states=_gathered(last, places, like, program.axes),
        values={path: jnp.stack([one[path] for one in history]) for path in values},
        scores=jnp.stack([scores for scores, _, _ in rounds]),
        parents=jnp.stack([chosen for _, chosen, _ in rounds]),
        metrics=jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *[metrics for _, _, metrics in rounds]),
    )


def _results(connection: clusters.Connection, references: list[Any]) -> list[tuple[np.ndarray, Any]]:
    """Scores and metrics of a round's tasks."""
    try:
        results = connection.ray.get(references)
    except connection.ray.exceptions.RayError as error:
        raise connection.refusal(error) from None
    for one in results:
        if isinstance(one, bytes):
            raise worker.unpickled(one)
    return results


_programs: dict[tuple[str, int], Any] = {}


def play(shipment: shipping.Shipment, drivers: dict[str, str], members: _Members, index: int, *before: Any) -> Any:
    """Train some members for a round: the leaves of their states, and scores and metrics or a pickled error."""
    try:
        worker.check_identity(drivers)
        job = worker.unpacked(shipment)
        if not isinstance(job, _Job):
            raise UsageError("The driver has sent something else than a population.")
        run_keys = jax.random.wrap_key_data(jnp.asarray(members.key_data))
        values = {path: jnp.asarray(x) for path, x in members.values.items()}
        program = pbt.program_of(job.algorithm, job.config, run_keys, values, job.interval)
        name = worker.key_of(shipment), len(run_keys)
        if name not in _programs:
            _programs[name] = jax.jit(program.init), jax.jit(program.play)
        init, play_round = _programs[name]
        update_keys, states = init(run_keys, values)
        if before:
            like = jax.eval_shape(program.init, run_keys, values)[1]
            states = _gathered(list(before), members.rows, like, program.axes)
        states, metrics, scores = play_round(update_keys, states, values, jnp.int32(index))
        leaves = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(states)]
        return leaves, (np.asarray(scores), jax.tree.map(np.asarray, metrics))
    except Exception as error:
        return None, worker.pickled(error)


def _gathered(parts: list[list[np.ndarray]], places: list[tuple[int, int]], like: Any, axes: Any) -> Any:
    """The states of the members at these places, each a part and a row in it."""
    templates, leaf_axes, structure = lanes.flat(like, axes)
    leaves: list[Any] = []
    for i, (template, axis) in enumerate(zip(templates, leaf_axes, strict=True)):
        stacked = parts[0][i] if axis is None else np.stack([parts[part][i][row] for part, row in places])
        leaves.append(jax.random.wrap_key_data(jnp.asarray(stacked)) if is_key(template) else jnp.asarray(stacked))
    return jax.tree.unflatten(structure, leaves)
