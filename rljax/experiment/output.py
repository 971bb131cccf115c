"""Write what a finished or running experiment has: `summary.json`, `curves.csv`, `learning_curve.png`."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from rljax.errors import UsageError
from rljax.experiment import folders, remote
from rljax.experiment.history import Record
from rljax.experiment.results import NotWritten, Result, Sweep
from rljax.experiment.spec import Experiment
from rljax.report import files


def curves(experiment: Experiment, records: list[Record]) -> tuple[list[str], Iterator[list[Any]]]:
    """The columns and rows of `curves.csv`: one row per run and evaluation, with the values of swept fields.

    After the return come the other measures of the evaluations; a cell is empty where a run has none of that name.
    """
    names = list(dict.fromkeys(name for record in records for name in record.measures))
    columns = ["seed", "update", "env_steps", "return", *names]
    if experiment.fields:
        columns = ["configuration", *experiment.fields, *columns]

    def rows() -> Iterator[list[Any]]:
        # By configuration and seed: a resumed sweep with rungs has its batches in another order.
        runs = [(run, lane, record) for record in records for lane, run in enumerate(record.runs)]
        evaluated = {id(record): (record.eval_returns, record.measures) for record in records}
        for (point, seed), lane, record in sorted(runs, key=lambda one: one[0]):
            values = experiment.points[point].values.values() if experiment.fields else ()
            labels = [getattr(value, "label", value) for value in values]
            about = [point, *labels] if experiment.fields else []
            returns, measures = evaluated[id(record)]
            for i, (update, steps) in enumerate(zip(record.eval_updates, record.eval_steps, strict=True)):
                others = [f"{measures[name][lane, i]:.9g}" if name in measures else "" for name in names]
                yield [*about, seed, update, steps, f"{returns[lane, i]:.9g}", *others]

    return columns, rows()


def write_curves(experiment: Experiment, folder: pathlib.Path, records: list[Record]) -> None:
    """Write the curves so far.

    Raises:
        UsageError: they could not be written.
    """
    folders.require_same(folder)
    files.write_table(folder / "curves.csv", *curves(experiment, records))


def write(experiment: Experiment, folder: pathlib.Path, result: Result | Sweep, records: list[Record]) -> None:
    """Write all files that can be written.

    Raises:
        NotWritten: with the result, if one could not be written.
    """
    try:
        folders.require_same(folder)
    except UsageError as error:
        raise NotWritten(str(error), result) from None
    writes: list[Callable[[], None]] = [
        lambda: files.write_json(folder / "summary.json", result.summary),
        lambda: files.write_table(folder / "curves.csv", *curves(experiment, records)),
    ]
    if result.curves() if isinstance(result, Sweep) else len(result.eval_steps):
        writes.append(lambda: result.plot(folder / "learning_curve.png"))
    writes.append(lambda: remote.upload(folder))
    failures = []
    for write_one in writes:
        try:
            write_one()
        except Exception as error:  # the run's result must survive it
            failures.append(str(error))
    if failures:
        raise NotWritten(failures[0], result)
