"""Loggers: where a run's numbers go besides its own files. Each built-in one is a module here."""

import importlib
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from rljax.errors import UsageError, shown, suggest


class Logger(Protocol):
    """Receives the numbers of one series: a configuration's runs, averaged, or a single run.

    A user's own class with these methods is a logger too: pass the class, and each series gets an instance, or pass an
    instance, and the names of several series precede those of the metrics.
    """

    def start(self, config: dict[str, Any]) -> None:
        """Called once, before the first numbers, with the config as plain data."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Called at chunk ends and evaluations; `step` counts the environment steps of one run."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Called once, at the end, with the contents of `summary.json`."""


class Place(NamedTuple):
    """Where a series is logged."""

    folder: pathlib.Path | None  # of the run
    title: str  # "ppo on CartPole-v1"
    series: str  # empty if it is the only one

    def path(self, name: str) -> pathlib.Path:
        """A path for this series in the run's folder, in a subfolder if there are several."""
        assert self.folder is not None
        return self.folder / name / self.series if self.series else self.folder / name


Maker = Callable[[Place], Logger]


class _BuiltIn(NamedTuple):
    module: str  # with a class `Writer`
    package: str | None  # that it needs
    needs_folder: bool = True


BUILT_IN = {
    "csv": _BuiltIn("csv_file", None),
    "jsonl": _BuiltIn("json_lines", None),
    "tensorboard": _BuiltIn("tensorboard", "tensorboardX"),
    "wandb": _BuiltIn("wandb", "wandb", needs_folder=False),
    "trackio": _BuiltIn("trackio", "trackio", needs_folder=False),
    "mlflow": _BuiltIn("mlflow", "mlflow", needs_folder=False),
}


def chosen(given: Any, folder: Any) -> tuple[list[Maker], list[Logger]]:
    """Loggers from names, classes and instances: what makes one for each series, and those that all series share.

    Raises:
        UsageError: a name is unknown, its package is not installed, or something is not a logger.
    """
    makers: list[Maker] = []
    shared: list[Logger] = []
    for one in as_tuple(given):
        if isinstance(one, str):
            makers.append(_built_in(one, folder))
        elif not all(callable(getattr(one, name, None)) for name in ("start", "log", "finish")):
            raise UsageError(
                f"A logger is one of {', '.join(BUILT_IN)}, or has start(config), log(metrics, step) and "
                f"finish(summary): got {shown(one)}."
            )
        elif isinstance(one, type):
            makers.append(_of_class(one))
        else:
            shared.append(one)
    return makers, shared


def as_tuple(given: Any) -> tuple[Any, ...]:
    """One logger or several, as a tuple."""
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _of_class(logger: type) -> Maker:
    return lambda _: logger()


def _built_in(name: str, folder: Any) -> Maker:
    if name not in BUILT_IN:
        raise UsageError(f"There is no logger {name!r}: {suggest(name, BUILT_IN)}")
    module, package, needs_folder = BUILT_IN[name]
    if package is not None and importlib.util.find_spec(package) is None:
        raise UsageError(f"The logger {name} needs {package}: pip install {package}.")
    if needs_folder and folder is None:
        raise UsageError(f"The logger {name} writes into the run's folder: pass out as well.")
    return importlib.import_module(f"{__name__}.{module}").Writer
