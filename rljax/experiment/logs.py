"""Loggers of a run: which series of numbers each gets, and when."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import located
from rljax.experiment.description import describe
from rljax.experiment.history import Runs
from rljax.experiment.spec import Experiment
from rljax.report import console, loggers
from rljax.report.loggers import Logger, Place
from rljax.report.statistics import interquartile_mean

MAX_POINTS = 1_000  # of each metric in a series: more updates are averaged over windows


class _Series(NamedTuple):
    """Runs that are logged as one: those of a configuration in a batch, or a single run."""

    name: str  # empty if it is the only one
    configuration: int
    seeds: tuple[int, ...]


@dataclasses.dataclass
class _Window:
    """Sums of a series' metrics since the last point, over runs and updates, without NaN."""

    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    env_steps: int = 0

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        for name, rows in metrics.items():
            is_finite = np.isfinite(rows)
            self.sums[name] = self.sums.get(name, 0.0) + float(rows[is_finite].sum(dtype=np.float64))
            self.counts[name] = self.counts.get(name, 0) + int(is_finite.sum())
        self.env_steps = int(metrics["env_steps"][:, -1].max())

    def means(self) -> dict[str, float]:
        names = [name for name, count in self.counts.items() if count and name != "env_steps"]
        return {f"train/{name}": self.sums[name] / self.counts[name] for name in names}


class Logs:
    """Passes a run's metrics and returns to its loggers; a logger that fails is reported and dropped."""

    def __init__(self, experiment: Experiment) -> None:
        """Check the loggers' names and packages before anything trains."""
        self._experiment = experiment
        self._makers, self._shared = loggers.chosen(experiment.options.log, experiment.folder)
        self._started: dict[_Series, list[Logger]] = {}
        self._windows: dict[_Series, _Window] = {}
        self._failed: list[Logger] = []

    def chunk(self, runs: Runs, first: int, metrics: dict[str, np.ndarray]) -> None:
        """Log metrics `[R, U, ...]` of R runs, of the U updates after the first `first`."""
        if not (self._makers or self._shared):
            return
        scalars = {name: rows for name, rows in metrics.items() if rows.ndim == 2}
        count = scalars["env_steps"].shape[1]
        for series, rows in self._series(runs):
            every = self._every(series)
            ends = [u for u in range(first + 1, first + count + 1) if u % every == 0]
            start = first
            for end in (*ends, *([] if ends and ends[-1] == first + count else [first + count])):
                window = self._windows.setdefault(series, _Window())
                window.add({name: values[rows, start - first : end - first] for name, values in scalars.items()})
                if end % every == 0:
                    self._log(series, self._windows.pop(series).means(), window.env_steps)
                start = end

    def evaluation(self, runs: Runs, env_steps: int, evaluated: dict[str, np.ndarray]) -> None:
        """Log an evaluation's means `[R]`, by name: `return`, summarised over runs, and the means of other measures."""
        if not (self._makers or self._shared):
            return
        for series, rows in self._series(runs):
            finite = {name: values[rows][np.isfinite(values[rows])] for name, values in evaluated.items()}
            returns = finite.pop("return")
            if not len(returns):
                continue
            named = {"eval/return": float(interquartile_mean(returns))}
            if len(rows) > 1:
                named |= {"eval/return_lowest": float(returns.min()), "eval/return_highest": float(returns.max())}
            named |= {f"eval/{name}": float(values.mean()) for name, values in finite.items() if len(values)}
            self._log(series, named, env_steps)

    def finish(self, summary: dict[str, Any]) -> None:
        """Log what is left of the last windows, and end all loggers."""
        for series, window in list(self._windows.items()):
            self._log(series, window.means(), window.env_steps)
        parts = {part["configuration"]: part for part in summary.get("configurations", [])}
        for series, started in self._started.items():
            for logger in started:
                self._call(logger, "finish", parts.get(series.configuration, summary))
        if self._started:
            for logger in self._shared:
                self._call(logger, "finish", summary)

    def _every(self, series: _Series) -> int:
        """Updates of a window: a multiple of `metrics_every`, so that there are at most `MAX_POINTS`."""
        every = self._experiment.options.metrics_every
        num_updates = self._experiment.points[series.configuration].config.num_updates
        return every * max(math.ceil(num_updates / (every * MAX_POINTS)), 1)

    def _series(self, runs: Runs) -> Iterator[tuple[_Series, np.ndarray]]:
        options = self._experiment.options
        for configuration in dict.fromkeys(runs.configurations.tolist()):
            rows = runs.rows_of(configuration)
            groups = [rows] if options.log_each == "configuration" else [rows[i : i + 1] for i in range(len(rows))]
            for group in groups:
                seeds = tuple(runs.seeds[group].tolist())
                yield _Series(self._name(configuration, seeds), configuration, seeds), group

    def _name(self, configuration: int, seeds: tuple[int, ...]) -> str:
        parts = [f"configuration_{configuration:04d}"] if self._experiment.fields else []
        if len(seeds) == 1 and self._experiment.options.seeds > 1:
            parts.append(f"seed_{seeds[0]:04d}")
        elif len(seeds) < self._experiment.options.seeds:
            parts.append(f"seeds_{seeds[0]:04d}_{seeds[-1]:04d}")
        return "_".join(parts)

    def _log(self, series: _Series, metrics: dict[str, float], step: int) -> None:
        if series not in self._started:
            self._start(series)
        for logger in self._started[series]:
            self._call(logger, "log", metrics, step)
        named = {f"{series.name}/{name}": value for name, value in metrics.items()} if series.name else metrics
        for logger in self._shared:
            self._call(logger, "log", named, step)

    def _start(self, series: _Series) -> None:
        experiment = self._experiment
        place = Place(experiment.folder, experiment.title, series.name)
        about = {"algorithm": experiment.name, "seeds": list(series.seeds)}
        config = {**describe(experiment.points[series.configuration].config), **about}
        is_first = not self._started
        self._started[series] = [make(place) for make in self._makers]
        for logger in (*self._started[series], *(self._shared if is_first else ())):
            self._call(logger, "start", config)

    def _call(self, logger: Logger, method: str, *arguments: Any) -> None:
        """Call a logger's method; if it fails, report that and use this logger no more."""
        if any(logger is failed for failed in self._failed):
            return
        try:
            getattr(logger, method)(*arguments)
        except Exception as error:  # of a network, a full disk, the user's code
            self._failed.append(logger)
            console.say(f"{type(logger).__name__} failed in {method}() and is not used any more: {located(error)}.")
