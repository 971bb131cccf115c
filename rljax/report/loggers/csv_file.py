"""A logger that writes `log.csv`: one row for each number, with its step and name."""

import csv
from typing import Any, TextIO

from rljax.report.loggers import Place


class Writer:
    """Writes `log.csv`, or `log/SERIES.csv` if there are several series."""

    def __init__(self, place: Place) -> None:
        self._path = place.path("log").with_suffix(".csv")
        self._file: TextIO | None = None

    def start(self, config: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["step", "name", "value"])

    def log(self, metrics: dict[str, float], step: int) -> None:
        assert self._file is not None
        self._rows.writerows([step, name, f"{value:.9g}"] for name, value in metrics.items())
        self._file.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.close()
