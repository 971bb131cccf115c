"""Write what a finished or running experiment has: `summary.json`, `curves.csv`, `learning_curve.png`."""

import collections
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from rljax.errors import UsageError
from rljax.experiment import folders
from rljax.experiment.history import Record
from rljax.experiment.results import NotWritten, Result, Sweep, Trained
from rljax.experiment.spec import Experiment
from rljax.report import files


def curves(experiment: Experiment, records: list[Record]) -> tuple[list[str], Iterator[list[Any]]]:
    """The columns and rows of `curves.csv`: one row per run and evaluation, with the values of swept fields."""
    columns = ["seed", "update", "env_steps", "return"]
    if experiment.fields:
        columns = ["configuration", *experiment.fields, *columns]

    def rows() -> Iterator[list[Any]]:
        for record in records:
            for (point, seed), returns in zip(record.runs, record.eval_returns, strict=True):
                values = experiment.points[point].values.values() if experiment.fields else ()
                labels = [getattr(value, "label", value) for value in values]
                about = [point, *labels] if experiment.fields else []
                for update, steps, value in zip(record.eval_updates, record.eval_steps, returns, strict=True):
                    yield [*about, seed, update, steps, f"{value:.9g}"]

    return columns, rows()


def write_curves(experiment: Experiment, folder: pathlib.Path, records: list[Record]) -> None:
    """Write the curves so far.

    Raises:
        UsageError: they could not be written.
    """
    folders.require_same(folder)
    files.write_table(folder / "curves.csv", *curves(experiment, records))


def write(experiment: Experiment, folder: pathlib.Path, result: Result | Sweep, trained: list[Trained]) -> None:
    """Write all files that can be written.

    Raises:
        NotWritten: with the result, if one could not be written.
    """
    from rljax.report import plot

    try:
        folders.require_same(folder)
    except UsageError as error:
        raise NotWritten(str(error), result) from None
    records = [t.record for t in trained]
    picture = folder / "learning_curve.png"
    writes: list[Callable[[], None]] = [
        lambda: files.write_json(folder / "summary.json", result.summary),
        lambda: files.write_table(folder / "curves.csv", *curves(experiment, records)),
    ]
    if isinstance(result, Sweep):
        labels = [_label(values) for values in result.points]
        times = collections.Counter(labels)
        drawn = {
            label if times[label] == 1 else f"{label} ({point})": (r.eval_steps, r.eval_returns)
            for point, (label, r) in enumerate(zip(labels, result.results, strict=True))
            if r is not None and len(r.eval_steps)
        }
        if drawn:
            writes.append(lambda: plot.learning_curves(picture, drawn, experiment.title))
    elif len(result.eval_steps):
        writes.append(lambda: plot.learning_curve(picture, result.eval_steps, result.eval_returns, experiment.title))
    failures = []
    for write_one in writes:
        try:
            write_one()
        except Exception as error:  # the run's result must survive it
            failures.append(str(error))
    if failures:
        raise NotWritten(failures[0], result)


def _label(values: dict[str, Any]) -> str:
    """The label of a configuration in a picture's legend."""
    shown = {k: f"{v:.3g}" if isinstance(v, float) else str(getattr(v, "label", v)) for k, v in values.items()}
    # A network's text has many lines.
    return ", ".join(f"{path.rpartition('.')[2]}={' '.join(value.split())[:80]}" for path, value in shown.items())
