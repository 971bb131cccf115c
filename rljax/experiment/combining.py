"""Combine the outcomes of batches into the result of an experiment."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend import controllers
from rljax.backend.versions import versions
from rljax.errors import UsageError
from rljax.experiment import checkpoints, placement, remote
from rljax.experiment.batching import Batch
from rljax.experiment.checkpoints import Saved
from rljax.experiment.description import describe
from rljax.experiment.history import Kept, Record
from rljax.experiment.results import Parts, Result, Sweep
from rljax.experiment.spec import Experiment
from rljax.report import statistics


class Trained(NamedTuple):
    """A batch's outcome."""

    batch: Batch
    record: Record
    states: Any  # stacked, [R, ...]
    final: np.ndarray  # [R, episodes] returns of the final evaluation
    num_updates: int  # that the runs were to complete: a whole run's, or their rung's if they were dropped


def result_of(experiment: Experiment, trained: list[Trained], compile_seconds: float) -> Result | Sweep:
    """Combine the outcomes of batches: the runs of each configuration, in the order of their seeds."""
    seconds = sum(t.record.seconds for t in trained)
    env_steps = sum(len(t.record.runs) * t.record.env_steps for t in trained)
    common = {
        **about(experiment, trained),
        "env_steps_per_second": env_steps / seconds if seconds else 0.0,
        "compile_seconds": compile_seconds,
        "train_seconds": seconds,
        "device": f"{experiment.devices} x {experiment.device}",
        "versions": versions(),
        "interrupted": any(t.record.updates < t.num_updates for t in trained)
        or sum(len(t.record.runs) for t in trained) < experiment.num_runs,
    }
    whole = [of_configuration(experiment, trained, point) for point in range(len(experiment.points))]
    if not experiment.fields:
        (result,) = whole
        assert result is not None
        return dataclasses.replace(result, summary={**common, **result.summary})
    summary = {
        **common,
        "fields": list(experiment.fields),
        "configurations": [r.summary for r in whole if r is not None],
        **(_compared(whole, common["interrupted"]) if _has_best(experiment) else {}),
    }
    results = [r and dataclasses.replace(r, summary={**common, **r.summary}) for r in whole]
    points = experiment.points
    return Sweep(tuple(p.values for p in points), tuple(p.config for p in points), tuple(results), summary)


def about(experiment: Experiment, trained: list[Trained]) -> dict[str, Any]:
    """What was trained and for how long: the part of a summary that names its runs."""
    configs = [point.config for point in experiment.points]
    return {
        "algo": experiment.name,
        "env": ", ".join(dict.fromkeys(config.env.name for config in configs)),
        "eval_policy": experiment.judged_by,
        "eval_env": getattr(experiment.options.eval_env, "label", None),
        "seed": experiment.options.seed,
        "seeds": experiment.options.seeds,
        "total_steps": max(int(c.total_steps) for c in configs) if hasattr(configs[0], "total_steps") else None,
        "env_steps": max(t.record.env_steps for t in trained),
    }


def _has_best(experiment: Experiment) -> bool:
    """False with one seed, where differences may be chance, and for a sweep of environments, whose returns differ."""
    return experiment.options.seeds > 1 and "env" not in experiment.fields


def _compared(results: list[Result | None], is_interrupted: bool) -> dict[str, Any]:
    """The best configuration by `statistics.compare`, among those that had the largest part of their updates.

    The others ended at a rung or an interrupt and had less time to learn. Empty if fewer than two are left after an
    interrupt.
    """
    parts = [0.0 if r is None else r.summary["updates"] / r.summary["num_updates"] for r in results]
    finals = [
        np.array(r.summary["final_return"]["per_seed"]) if r is not None and part == max(parts) else None
        for r, part in zip(results, parts, strict=True)
    ]
    if not max(parts) or (
        is_interrupted and sum(values is not None and np.isfinite(values).any() for values in finals) < 2
    ):
        return {}
    return statistics.compare(finals)


def of_configuration(experiment: Experiment, trained: list[Trained], point: int) -> Result | None:
    """The result of one configuration, whose summary is its part of the sweep's; None if none of its runs has begun."""
    parts = [(t, t.record.runs.rows_of(point)) for t in trained]
    parts = [(t, rows) for t, rows in parts if len(rows)]
    if not parts:
        return None
    seeds = np.concatenate([t.record.runs.seeds[rows] for t, rows in parts])

    def gathered(pieces: list[Any]) -> Any:
        return _by_seed(_joined(pieces), seeds)

    final = gathered([t.final[rows].mean(axis=1) for t, rows in parts])
    frozen = [
        ({"seed": int(t.record.runs.seeds[row]), "update": one.update, "env_steps": one.env_steps}, one.is_solved)
        for t, rows in parts
        for row, one in t.record.frozen.items()
        if row in rows
    ]
    frozen.sort(key=lambda run: run[0]["seed"])
    longest = max((t.record for t, _ in parts), key=lambda record: record.updates)
    # In a run that was made longer, batches that had not begun were evaluated at other updates.
    marks = sorted({mark for t, _ in parts for mark in zip(t.record.eval_updates, t.record.eval_steps, strict=True)})
    eval_returns = gathered([_at(marks, t.record, t.record.eval_returns)[rows] for t, rows in parts])

    def measured(of: Callable[[Record], dict[str, np.ndarray]], missing: tuple[int, ...]) -> dict[str, np.ndarray]:
        names = dict.fromkeys(name for t, _ in parts for name in of(t.record))

        def values(record: Record, name: str) -> np.ndarray:
            return of(record)[name] if name in of(record) else np.full((len(record.runs), *missing), np.nan)

        return {name: gathered([values(t.record, name)[rows] for t, rows in parts]) for name in names}

    eval_measures = measured(
        lambda record: {name: _at(marks, record, rows) for name, rows in record.measures.items()}, (len(marks),)
    )
    final_measures = measured(lambda record: record.final_measures, ())
    summary: dict[str, Any] = {"diverged": [run for run, is_solved in frozen if not is_solved]}
    if experiment.options.stop_at is not None:
        summary["solved"] = [run for run, is_solved in frozen if is_solved]
    summary["final_return"] = statistics.summarize(final)
    summary["final_measures"] = {name: _measure(values) for name, values in final_measures.items()}
    if experiment.fields:
        values = describe(experiment.points[point].values)
        summary = {
            "configuration": point,
            "values": values,
            "env_steps": longest.env_steps,
            # The fewest of all its runs; 0 if one has not begun.
            "updates": min(t.record.updates for t, _ in parts) if len(final) == experiment.options.seeds else 0,
            "num_updates": experiment.points[point].config.num_updates,
            **summary,
        }
    eval_steps, config = np.array([steps for _, steps in marks]), experiment.points[point].config
    if any(t.states is None for t, _ in parts):  # trained on a cluster
        load: Callable[[], Parts] = functools.cache(functools.partial(_parts, experiment, parts))
    else:
        load = functools.partial(Parts._make, _parts(experiment, parts))
    return Result(
        parts=load,
        eval_steps=eval_steps,
        eval_returns=eval_returns,
        eval_measures=eval_measures,
        summary=summary,
        algorithm=experiment.algorithm,
        config=config,
        seeds=np.sort(seeds),
    )


def _parts(experiment: Experiment, parts: list[tuple[Trained, np.ndarray]]) -> Parts:
    """What is large in the result of one configuration, given its rows in each batch."""
    parts = [_with_states(experiment, t, rows) for t, rows in parts]
    seeds = np.concatenate([t.record.runs.seeds[rows] for t, rows in parts])

    def gathered(pieces: list[Any]) -> Any:
        return _by_seed(_joined(pieces), seeds)

    states = gathered([jax.tree.map(lambda x, rows=rows: x[rows[0] : rows[-1] + 1], t.states) for t, rows in parts])
    # After an interrupt the batches may have been evaluated different numbers of times.
    kept = [
        Kept(*gathered([one.rows(rows) for one, (_, rows) in zip(ones, parts, strict=True)]))
        for ones in zip(*(t.record.kept for t, _ in parts), strict=False)
    ]
    longest = max((t.record for t, _ in parts), key=lambda record: record.updates)
    metrics = {
        name: gathered([_padded(t.record.metrics[name][rows], longest.updates) for t, rows in parts])
        for name in longest.metrics
    }
    return Parts(states, metrics, kept)


def _with_states(experiment: Experiment, trained: Trained, rows: np.ndarray) -> tuple[Trained, np.ndarray]:
    """A batch's outcome with the states that a cluster has left in the folder, and where the rows are in it."""
    if trained.states is not None:
        return trained, rows
    folder, name = experiment.folder, trained.batch.folder_name
    assert folder is not None
    with remote.reopened(folder, lambda one: one.startswith(f"{checkpoints.FOLDER}/{name}/")) as found:
        saved = checkpoints.newest(found / checkpoints.FOLDER / name)
    if saved is None:
        raise UsageError(f"{folder} no longer has the checkpoints of batch {name}: restore them.")
    place = {run: row for row, run in enumerate(saved.record.runs)}
    whole, _ = from_checkpoint(experiment, trained.batch._replace(runs=saved.record.runs, saved=saved))
    return whole, np.array([place[run] for run in trained.record.runs[rows]])


def _measure(per_seed: np.ndarray) -> dict[str, Any]:
    """A measure of the final evaluation: its mean over seeds with a 95% interval, and each seed's."""
    values = per_seed[np.isfinite(per_seed)]
    low, high = statistics.bootstrap_interval(values, statistic=np.mean)
    return {
        "mean": float(values.mean()) if len(values) else np.nan,
        "ci95": [float(low), float(high)],
        "per_seed": [float(x) for x in per_seed],
    }


def _joined(parts: list[Any]) -> Any:
    """Concatenate trees of arrays, on the host if there are several."""

    def join(*xs: Any) -> Any:
        if jnp.issubdtype(xs[0].dtype, jax.dtypes.prng_key):
            return jnp.concatenate(xs)
        return np.concatenate([np.asarray(x) for x in xs])

    return parts[0] if len(parts) == 1 else jax.tree.map(join, *parts)


def _by_seed(tree: Any, seeds: np.ndarray) -> Any:
    """Sort a tree of arrays over runs by their seeds."""
    order = np.argsort(seeds)
    return tree if np.array_equal(order, np.arange(len(seeds))) else jax.tree.map(lambda x: x[order], tree)


def _at(marks: list[tuple[int, int]], record: Record, evaluated: np.ndarray) -> np.ndarray:
    """What a record's evaluations gave, `[R, ...]`, at these marks, `[R, E]`; NaN where it has none."""
    place = {mark: i for i, mark in enumerate(marks)}
    values = np.full((len(record.runs), len(marks)), np.nan)
    columns = [place[mark] for mark in zip(record.eval_updates, record.eval_steps, strict=True)]
    values[:, columns] = evaluated
    return values


def _padded(rows: np.ndarray, width: int) -> np.ndarray:
    """Pad rows `[R, U, ...]` that an interrupt cut short, with NaN or 0."""
    missing = np.nan if np.issubdtype(rows.dtype, np.inexact) else 0
    only_updates = [(0, width - rows.shape[1] if axis == 1 else 0) for axis in range(rows.ndim)]
    return np.pad(rows, only_updates, constant_values=missing)


def states_of(experiment: Experiment, saved: Saved, lanes: int) -> tuple[Any, Any]:
    """The states of a batch's checkpoint, over this many lanes, and their axes."""
    config = experiment.points[saved.record.runs.configurations[0]].config
    like = jax.eval_shape(experiment.algorithm.init, jax.random.key(0), config)
    return placement.restore(saved.leaves, saved.axes, like, lanes)


def from_checkpoint(experiment: Experiment, batch: Batch) -> tuple[Trained, Saved]:
    """A batch's outcome from its checkpoint; final returns are NaN if it was saved before the end."""
    saved = batch.saved
    assert saved is not None
    states, axes = states_of(experiment, saved, len(batch.runs))
    states = jax.tree.map(on_host, placement.stacked(states, axes, saved.record))
    final = np.full((len(batch.runs), 1), np.nan) if saved.final is None else saved.final
    ended = batch.dropped or saved.record.is_solved
    num_updates = saved.record.updates if ended else batch.num_updates(experiment)
    return Trained(batch, saved.record, states, final, num_updates), saved


def on_host(x: jax.Array) -> Any:
    """The array as NumPy's; one of random keys as JAX's, on this process's device."""
    if not placement.is_key(x):
        return controllers.on_host(x)
    if controllers.count() == 1:
        return x
    return jax.random.wrap_key_data(jnp.asarray(controllers.on_host(jax.random.key_data(x))))
