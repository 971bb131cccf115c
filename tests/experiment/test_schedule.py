"""Tasks: the same for every order in which they end."""

import itertools

import numpy as np
import pytest
from toys import own, walk

from rljax.experiment import placement, sweeps
from rljax.experiment.batching import Batch
from rljax.experiment.combining import Trained
from rljax.experiment.history import Record
from rljax.experiment.options import Options
from rljax.experiment.schedule import Schedule
from rljax.experiment.spec import Experiment

EVERY = set(itertools.product(range(8), range(2)))


@pytest.fixture
def make():
    """Makes a schedule of eight configurations and two seeds in batches of three runs."""
    points = tuple(sweeps.points(own.Config(env=walk, num_updates=8), {"rate": [0.1 * i for i in range(8)]}))
    groups = sweeps.groups(list(points))

    def make(**changes):
        options = Options(seeds=2, halving=2, runs_per_batch=3, **changes)
        spec = Experiment(
            algorithm=own, name="own", points=points, fields=("rate",), options=options, mesh=placement.mesh(1, 1),
            folder=None,
        )  # fmt: skip
        return Schedule(spec, groups)

    return make


def ended(task, updates):
    """What a task has done: the higher a configuration's number, the better."""
    record = Record(task.runs)
    record.updates = updates
    name = f"{task.number:04d}"
    batch = Batch(task.group, task.runs, task.lanes, rung=task.rung, task=task.number, folder_name=name)
    return [Trained(batch, record, None, task.runs.configurations[:, None] * 1.0, 8)]


def runs_of(schedule):
    """Every run and its updates, from what has been trained."""
    return sorted((run, t.record.updates) for t in schedule.trained(with_waiting=True) for run in t.record.runs)


def played(schedule, rng, lengths=(1, 2, 4, 8)):
    """End tasks in any order: what each was, with its number."""
    waiting, tasks, seen = list(schedule.tasks), {}, set()
    while waiting:
        task = waiting.pop(rng.integers(len(waiting)))
        tasks[task.number] = (task.rung, list(task.runs), task.lanes, task.sources)
        waiting += schedule.done(task, ended(task, lengths[task.rung]))
        seen |= set(task.runs)
        assert [run for run, _ in runs_of(schedule)] == sorted(seen)  # each run once, also between two rungs
    return tasks


def test_tasks_do_not_depend_on_the_order_in_which_others_end(make):
    """16 runs, then 8, 4 and 2, in batches of three."""
    rng = np.random.default_rng(0)
    expected = played(make(), rng)
    assert sorted(expected) == list(range(6 + 3 + 2 + 1))
    assert [expected[number][0] for number in sorted(expected)] == [0] * 6 + [1] * 3 + [2] * 2 + [3]
    assert expected[6][1:] == ([(4, 0), (4, 1), (5, 0)], 3, ("0002", "0003"))
    assert expected[11][1:] == ([(7, 0), (7, 1)], 2, ("0009", "0010"))
    for _ in range(5):
        schedule = make()
        assert played(schedule, rng) == expected
        assert [updates for _, updates in runs_of(schedule)] == [1] * 8 + [2] * 4 + [4] * 2 + [8] * 2
        assert [t.num_updates for t in schedule.trained(with_waiting=True) if t.record.updates < 8] == [
            t.record.updates for t in schedule.trained(with_waiting=True) if t.record.updates < 8
        ]


def test_asynchronous_halving_promotes_the_best_whatever_the_order(make):
    """A configuration's task has the same number in every order; the best ones get as far as they would by waiting."""
    rng = np.random.default_rng(0)
    numbers = {}
    for _ in range(20):
        schedule = make(asynchronous=True)
        tasks = played(schedule, rng)
        assert max(tasks) < schedule.count
        for number, (rung, runs, _, _) in tasks.items():
            assert numbers.setdefault(number, (rung, runs)) == (rung, runs)
        updates = dict(runs_of(schedule))
        assert updates.keys() == EVERY
        assert updates[7, 0] == updates[7, 1] == 8
        assert min(updates[6, 0], updates[6, 1]) >= 4
        assert all(updates[point, seed] >= 2 for point in (4, 5) for seed in range(2))


def test_an_interrupted_rung_promotes_nothing(make):
    schedule = make()
    for task in schedule.tasks:
        assert schedule.done(task, ended(task, 0 if task.number == 3 else 1)) == []
    assert {run for run, _ in runs_of(schedule)} == EVERY
    assert all(t.num_updates == 8 for t in schedule.trained(with_waiting=True))
    schedule = make()
    for task in schedule.tasks:
        assert schedule.done(task, [] if task.number == 5 else ended(task, 1)) == []


def test_runs_between_two_rungs_were_to_continue(make):
    schedule = make()
    for task in schedule.tasks:
        schedule.done(task, ended(task, 1))
    lengths = {run: t.num_updates for t in schedule.trained(with_waiting=True) for run in t.record.runs}
    assert lengths == {(point, seed): 8 if point >= 4 else 1 for point, seed in EVERY}
    assert {run for t in schedule.trained(with_waiting=False) for run in t.record.runs} == {
        run for run in EVERY if run[0] < 4
    }
