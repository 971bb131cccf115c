"""A logger that writes `log.jsonl`: a JSON object on each line."""

import json
from typing import Any, TextIO

from rljax.report import files
from rljax.report.loggers import Place


class Writer:
    """Writes `log.jsonl`, or `log/SERIES.jsonl` if there are several series.

    Its lines are `{"config": {...}}`, then `{"step": ..., "train/loss": ...}`, at last `{"summary": {...}}`.
    """

    def __init__(self, place: Place) -> None:
        self._path = place.path("log").with_suffix(".jsonl")
        self._file: TextIO | None = None

    def start(self, config: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="utf-8")
        self._write({"config": config})

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._write({"step": step, **metrics})

    def finish(self, summary: dict[str, Any]) -> None:
        self._write({"summary": summary})
        assert self._file is not None
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(files.plain(line), allow_nan=False) + "\n")
        self._file.flush()
