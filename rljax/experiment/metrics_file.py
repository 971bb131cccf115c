"""Every update's metrics on disk while a run trains: `metrics.csv`, or Parquet part files if that would be large."""

import contextlib
import importlib.util
import math
import pathlib
import shutil
import time

import numpy as np

from rljax.errors import UsageError
from rljax.experiment import folders, tables
from rljax.experiment.history import Record, Runs
from rljax.experiment.spec import Experiment
from rljax.report import console, files

CSV_BYTES = 50e6  # a larger table is written as Parquet
_CELL_BYTES = 10  # of a number in CSV, roughly
_PART_ROWS = 500_000
_PART_SECONDS = 60.0  # between two parts: what a killed run loses at most


class MetricsFile:
    """Writes the metrics of one batch after another."""

    def __init__(self, experiment: Experiment, folder: pathlib.Path, updates: int) -> None:
        """Write into `folder`; `updates` are those of all runs together."""
        self._experiment, self._folder, self._updates = experiment, folder, updates
        self._format = ""  # "csv" or "parquet", once the number of metrics is known
        self._columns: list[str] = []
        self._waiting: list[tuple[Runs, int, dict[str, np.ndarray]]] = []
        self._waiting_rows, self._parts, self._last_part = 0, 0, time.monotonic()

    def add(self, runs: Runs, first: int, metrics: dict[str, np.ndarray]) -> None:
        """Write metrics `[R, U, ...]` of R runs, of the U updates after the first `first`.

        Raises:
            UsageError: they cannot be written.
        """
        if not self._format:
            self._clear()
        self._waiting.append((runs, first, metrics))
        self._waiting_rows += metrics["env_steps"].size
        self._format = self._format or self._chosen_format(metrics)
        is_full = self._waiting_rows >= _PART_ROWS or time.monotonic() - self._last_part >= _PART_SECONDS
        if self._format == "csv" or is_full:
            self.flush()

    def flush(self) -> None:
        """Write what waits; if that fails it waits longer, since a full disk may have room again.

        Raises:
            UsageError: it cannot be written.
        """
        if not self._waiting:
            return
        folders.require_same(self._folder)
        try:
            if self._format == "csv":
                while self._waiting:
                    self._append(self._table(*self._waiting[0]))
                    del self._waiting[0]
            else:
                self._write_part([self._table(*one) for one in self._waiting])
        except OSError as error:
            raise UsageError(f"Metrics cannot be written to {self._folder} ({error.strerror or error}).") from error
        self._waiting, self._waiting_rows = [], 0

    def _clear(self) -> None:
        """Remove what an earlier session wrote: it is written again."""
        (self._folder / "metrics.csv").unlink(missing_ok=True)
        shutil.rmtree(self._folder / "metrics", ignore_errors=True)

    def _chosen_format(self, metrics: dict[str, np.ndarray]) -> str:
        cells = sum(math.prod(rows.shape[2:]) for rows in metrics.values()) + 4
        size = self._updates * cells * _CELL_BYTES / self._experiment.options.metrics_every
        if size <= CSV_BYTES:
            return "csv"
        if importlib.util.find_spec("pyarrow") is None:
            console.say(
                f"metrics.csv will have about {size / 1e6:,.0f} MB: for Parquet files install pyarrow "
                "(pip install pyarrow), or keep each tenth update with metrics_every=10."
            )
            return "csv"
        return "parquet"

    def _table(self, runs: Runs, first: int, metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        options, is_sweep = self._experiment.options, bool(self._experiment.fields)
        return tables.of_metrics(runs, first, metrics, options.seeds, is_sweep, options.metrics_every)

    def gather(self) -> None:
        """Write the parts of a cluster's batches as one CSV file, unless they are large.

        Raises:
            UsageError: it cannot be written.
        """
        from pyarrow import parquet

        paths = sorted(part_of(self._folder, "").parent.glob(part_of(self._folder, "*").name))
        about = [parquet.read_metadata(path) for path in paths]
        if sum(one.num_rows * one.num_columns for one in about) * _CELL_BYTES > CSV_BYTES:
            return
        try:
            (self._folder / "metrics.csv").unlink(missing_ok=True)
            for path in paths:
                table = parquet.read_table(path)
                self._append({name: table[name].to_numpy() for name in table.column_names})
        except OSError as error:
            raise UsageError(f"Metrics cannot be written to {self._folder} ({error.strerror or error}).") from error
        shutil.rmtree(self._folder / "metrics", ignore_errors=True)

    def _append(self, columns: dict[str, np.ndarray]) -> None:
        path = self._folder / "metrics.csv"
        if not self._columns:
            self._columns = list(columns)
            files.write_text(path, ",".join(columns) + "\n")
        elif new := [name for name in columns if name not in self._columns]:
            self._widen(path, new)
        rows = len(columns["run"])
        missing = np.full(rows, np.nan)
        values = np.stack([columns.get(name, missing).astype(np.float64) for name in self._columns], axis=1)
        whole = [name in columns and not np.issubdtype(columns[name].dtype, np.floating) for name in self._columns]
        formats = ["%d" if is_whole else "%.9g" for is_whole in whole]
        with path.open("ab") as file:
            size = file.tell()
            try:
                np.savetxt(file, values, fmt=formats, delimiter=",")
                file.flush()
            except OSError:
                file.truncate(size)  # no part of a row stays
                raise

    def _widen(self, path: pathlib.Path, new: list[str]) -> None:
        """Add columns that only a later batch has; earlier rows have no value there."""
        self._columns += new
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        empty = ",nan" * len(new)
        files.write_text(path, "\n".join([",".join([head, *new]), *(row + empty for row in rows), ""]))

    def _write_part(self, waiting: list[dict[str, np.ndarray]]) -> None:
        import pyarrow
        from pyarrow import parquet

        part_table = pyarrow.concat_tables(map(pyarrow.table, waiting), promote_options="default")
        folder = self._folder / "metrics"
        folder.mkdir(exist_ok=True)
        path = folder / f"part-{self._parts:06d}.parquet"
        files.replace(path, lambda part: parquet.write_table(part_table, part, compression="zstd"))
        self._parts, self._last_part = self._parts + 1, time.monotonic()


def part_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where a worker of a cluster writes the metrics of a batch."""
    return folder / "metrics" / f"batch-{name}.parquet"


def write_batch(experiment: Experiment, folder: pathlib.Path, name: str, record: Record, first: int) -> None:
    """Write all metrics of a batch after the first `first` updates, which another batch has, unless they are there.

    Raises:
        UsageError: they cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    if record.updates == first:
        return
    path, options = part_of(folder, name), experiment.options
    metrics = {key: rows[:, first:] for key, rows in record.metrics.items()}
    columns = tables.of_metrics(
        record.runs, first, metrics, options.seeds, bool(experiment.fields), options.metrics_every
    )
    with contextlib.suppress(OSError, pyarrow.ArrowInvalid):  # there is none yet, or it is damaged
        if parquet.read_metadata(path).num_rows == len(columns["run"]):
            return
    try:
        path.parent.mkdir(exist_ok=True)
        files.replace(path, lambda part: parquet.write_table(pyarrow.table(columns), part, compression="zstd"))
    except OSError as error:
        raise UsageError(f"Metrics cannot be written to {path} ({error.strerror or error}).") from error
