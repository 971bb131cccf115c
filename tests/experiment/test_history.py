"""The history of a batch, on the host."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.experiment.history import Frozen, Kept, Record, Runs


def chunk(first, count, lanes=4, capacity=5):
    """Metrics `[lanes, capacity]` of updates from `first` on; only `count` columns are filled."""
    update = first + np.arange(1, capacity + 1)
    lane = np.arange(lanes)[:, None]
    returns = np.where(update % 2 == 0, 100.0 * lane + update, np.nan)
    env_steps = np.broadcast_to(10 * update, returns.shape)
    return {"env_steps": env_steps, "episode_return": returns, "episodes": env_steps % 3}, count


@pytest.fixture
def record():
    """Three runs in four lanes; the second one diverged after its third update, and the record has seven."""
    record = Record(Runs.of([(0, 0), (0, 1), (1, 0)]))
    record.add_evaluation(
        np.arange(12.0).reshape(4, 3), {"speed": jnp.ones((4, 3)), "length": np.arange(12).reshape(4, 3)}
    )
    record.add_chunk(*chunk(0, 2), seconds=2.0)
    record.frozen[1] = Frozen(3, 30, [])
    record.add_chunk(*chunk(2, 4), seconds=3.0)
    record.add_evaluation(np.arange(12.0).reshape(4, 3) ** 2, {"speed": jnp.zeros((4, 3)), "length": np.ones((4, 3))})
    record.add_chunk(*chunk(6, 1), seconds=1.0)
    return record


def test_chunks_add_up(record):
    assert (record.updates, record.env_steps, record.seconds) == (7, 70, 6.0)
    assert record.eval_updates == [0, 6]
    assert record.eval_steps == [0, 60]
    np.testing.assert_allclose(record.eval_returns, [[1, 5 / 3], [4, 50 / 3], [7, 149 / 3]])
    expected = np.arange(1, 8)
    np.testing.assert_array_equal(record.metrics["env_steps"][[0, 2]], [10 * expected] * 2)
    np.testing.assert_array_equal(record.metrics["episodes"][0], 10 * expected % 3)
    assert list(record.measures) == ["length", "speed"]
    np.testing.assert_array_equal(record.measures["length"], [[1, 1], [4, 1], [7, 1]])


def test_metrics_of_a_diverged_run_end_with_the_update_that_spoiled_it(record):
    np.testing.assert_array_equal(record.metrics["env_steps"][1], [10, 20, 30, 40, 40, 40, 40])
    np.testing.assert_array_equal(record.metrics["episode_return"][1], [np.nan, 102, np.nan, 104, *[np.nan] * 3])
    np.testing.assert_array_equal(record.metrics["episodes"][1], [1, 2, 0, 1, 0, 0, 0])
    record.frozen[2] = Frozen(1, 10, [])  # before this chunk
    record.add_chunk(*chunk(7, 2), seconds=0.0)
    np.testing.assert_array_equal(record.metrics["env_steps"][2, -3:], [70, 70, 70])


def test_some_runs_of_a_record(record):
    part = record.rows(np.array([1, 2]))
    assert list(part.runs) == [(0, 1), (1, 0)]
    assert (part.updates, part.env_steps, part.seconds) == (7, 70, 4.0)
    assert part.frozen == {0: record.frozen[1]}
    np.testing.assert_array_equal(part.metrics["episode_return"], record.metrics["episode_return"][1:])
    np.testing.assert_array_equal(part.eval_returns, record.eval_returns[1:])
    np.testing.assert_array_equal(part.measures["length"], record.measures["length"][1:])
    copied = record.copy()
    copied.add_chunk(*chunk(7, 1), seconds=1.0)
    assert (record.updates, copied.updates) == (7, 8)
    assert record.runs.rows_of(0).tolist() == [0, 1]
    assert record.runs.rows_of(1).tolist() == [2]


def test_the_parts_of_a_record_join_to_the_whole(record):
    record.final_measures = {"length": np.array([3.0, 1.0, 2.0])}
    parts = [record.rows(np.array(rows)) for rows in ([0], [1, 2])]
    whole = Record.joined(parts)
    assert list(whole.runs) == list(record.runs)
    assert (whole.updates, whole.env_steps, whole.frozen) == (7, 70, record.frozen)
    for of in (lambda one: one.metrics, lambda one: one.measures, lambda one: one.final_measures):
        assert list(of(whole)) == list(of(record))
        for name, rows in of(record).items():
            np.testing.assert_array_equal(of(whole)[name], rows)
    np.testing.assert_array_equal(whole.eval_returns, record.eval_returns)


def test_the_better_policy_of_each_run_is_kept():
    """The later one of the first run and of the last, which had no return before; of equal ones the earlier."""
    early = Kept(np.full(3, 1), np.array([2.0, 5.0, np.nan]), [np.zeros((3, 2))])
    late = Kept(np.full(3, 4), np.array([3.0, 5.0, 1.0]), [np.ones((3, 2))])
    best = early.or_better(late)
    np.testing.assert_array_equal(best.updates, [4, 1, 4])
    np.testing.assert_array_equal(best.returns, [3.0, 5.0, 1.0])
    np.testing.assert_array_equal(best.leaves[0], [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
