"""Successive halving: which configurations continue after each rung (Jamieson and Talwalkar 2016)."""

from collections.abc import Iterator

import jax
import numpy as np

from rljax.experiment import batching, checkpoints
from rljax.experiment.batching import Batch, divided
from rljax.experiment.results import Trained
from rljax.experiment.spec import Experiment
from rljax.report import statistics


def select(
    experiment: Experiment, batch: Batch, done: Trained, saved: checkpoints.Saved, numbers: Iterator[int]
) -> tuple[Trained, list[Batch]]:
    """At a rung of successive halving: what is over, and the batch, if any, of the runs that go on."""
    rungs = experiment.rungs(batch.group, batch.num_updates(experiment))
    if batch.rung >= len(rungs) or done.record.updates < rungs[batch.rung][0]:
        return done, []
    of_run, returns = batch.runs[:, 0], done.final.mean(axis=1)
    # By the seeds that the best configuration will be chosen by, so that it is reported on others still.
    chosen_on = batch.runs[:, 1] % 2 == 0
    scores = {point: statistics.score(returns[chosen_on & (of_run == point)]) for point in np.unique(of_run).tolist()}
    best = sorted(scores, key=lambda point: -scores[point])[: rungs[batch.rung][1]]
    kept, dropped = np.flatnonzero(np.isin(of_run, best)), np.flatnonzero(~np.isin(of_run, best))
    lanes = divided(len(kept), experiment.lane_devices)
    part = saved.rows(kept)._replace(lanes=lanes, rung=batch.rung + 1)
    survivors = Batch(batch.group, batch.runs[kept], lanes, part, batch.rung + 1, place=f"{next(numbers):04d}")
    if experiment.checkpoint_every is not None:
        batching.save(experiment, survivors, part)
    states = jax.tree.map(lambda x: x[dropped], done.states)
    over = Trained(batch, done.record.rows(dropped), states, done.final[dropped], done.record.updates)
    return over, [survivors]
