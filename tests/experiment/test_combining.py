"""Results combined from batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import State, own, walk

import rljax
from rljax.experiment import placement, sweeps
from rljax.experiment.batching import Batch
from rljax.experiment.combining import Trained, result_of
from rljax.experiment.history import Record, Runs
from rljax.experiment.options import Options
from rljax.experiment.spec import Experiment


def experiment(sweep=None, **changes):
    config = own.Config(env=walk, num_updates=4)
    points = tuple(sweeps.points(config, sweep))
    return Experiment(
        algorithm=own, name="own", points=points, fields=tuple(sweep or ()), options=Options(**changes),
        mesh=placement.mesh(1, 1), folder=None,
    )  # fmt: skip


def trained(experiment, runs, updates, seconds, place, evaluated=()):
    """A batch's outcome: states and returns that say which configuration and seed they are of."""
    (group,) = sweeps.groups(list(experiment.points))
    record = Record(Runs.of(runs))
    number = np.array([10.0 * point + seed for point, seed in runs])
    for update in range(1, updates + 1):
        metrics = {"env_steps": np.full((len(runs), 1), 10 * update), "episode_return": number[:, None] + update}
        record.add_chunk(metrics, 1, seconds / updates)
        if update in evaluated:
            returns = np.stack([number - update, number + 3 * update], axis=1)
            record.add_evaluation(returns, {"length": 2 * returns})
    record.final_measures = {"length": 3 * number}
    states = State(jnp.asarray(number)[:, None] * jnp.ones(2), jnp.full(len(runs), updates))
    final = np.stack([number, number + 4.0], axis=1)
    return Trained(Batch(group, record.runs, len(runs), folder_name=f"{place:04d}"), record, states, final, 4)


def test_seeds_come_in_order_from_batches_of_different_lengths():
    """Five seeds in two batches, the second of which was interrupted after two of four updates."""
    spec = experiment(seeds=5)
    parts = [
        trained(spec, [(0, 3), (0, 0), (0, 4)], 4, 6.0, 0, evaluated=(1, 2, 4)),
        trained(spec, [(0, 2), (0, 1)], 2, 2.0, 1, evaluated=(2,)),
    ]
    result = result_of(spec, parts, 7.0)
    np.testing.assert_array_equal(result.states.params[:, 0], np.arange(5))
    np.testing.assert_array_equal(result.metrics["env_steps"][:, -1], [40, 0, 0, 40, 40])
    np.testing.assert_array_equal(result.metrics["episode_return"][1], [2.0, 3.0, np.nan, np.nan])
    np.testing.assert_array_equal(result.metrics["episode_return"][3], 3.0 + np.arange(1, 5))
    assert result.eval_steps.tolist() == [10, 20, 40]
    np.testing.assert_array_equal(result.eval_returns[3], 3.0 + np.array([1, 2, 4]))
    np.testing.assert_array_equal(result.eval_returns[1], [np.nan, 3.0, np.nan])
    np.testing.assert_array_equal(result.eval_measures["length"], 2 * result.eval_returns)
    summary = result.summary
    assert summary["final_return"]["per_seed"] == [2.0, 3.0, 4.0, 5.0, 6.0]
    length = summary["final_measures"]["length"]
    assert (length["mean"], length["per_seed"]) == (6.0, [0.0, 3.0, 6.0, 9.0, 12.0])
    assert 0.0 < length["ci95"][0] < 6.0 < length["ci95"][1] < 12.0
    assert (summary["eval_policy"], summary["eval_env"]) == ("greedy", None)
    assert (summary["env_steps"], summary["compile_seconds"], summary["train_seconds"]) == (40, 7.0, 8.0)
    assert summary["env_steps_per_second"] == pytest.approx((3 * 40 + 2 * 20) / 8.0)
    assert summary["interrupted"]
    assert not result_of(spec, [trained(spec, [(0, i) for i in range(5)], 4, 1.0, 0)], 0.0).summary["interrupted"]
    assert result_of(spec, [trained(spec, [(0, 0)], 4, 1.0, 0)], 0.0).summary["interrupted"]  # four have not begun


def test_configurations_with_the_largest_part_of_their_updates_are_compared():
    """The first has the highest return and the fewest updates."""
    spec = experiment({"rate": [0.3, 0.1, 0.2]}, seeds=2)
    parts = [
        trained(spec, [(1, 0), (1, 1), (2, 0), (2, 1)], 4, 1.0, 0),
        trained(spec, [(0, 0), (0, 1)], 2, 1.0, 1)._replace(final=np.full((2, 1), 1e6)),
    ]
    result = result_of(spec, parts, 0.0)
    assert [c["updates"] for c in result.summary["configurations"]] == [2, 4, 4]
    assert [c["env_steps"] for c in result.summary["configurations"]] == [20, 40, 40]
    assert [c["values"] for c in result.summary["configurations"]] == [{"rate": 0.3}, {"rate": 0.1}, {"rate": 0.2}]
    assert result.summary["best"]["configuration"] == 2
    started = trained(spec, [(0, 0)], 4, 1.0, 1)  # one of its seeds has not begun
    assert result_of(spec, [parts[0], started], 0.0).summary["configurations"][0]["updates"] == 0
    assert isinstance(result, rljax.experiment.results.Sweep)
    assert jax.tree.leaves(result.results[1].states)[0].shape == (2, 2)
