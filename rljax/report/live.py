"""What is shown while a run trains: a live table in a terminal or a notebook, lines elsewhere."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from html import escape
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from rljax.report import console, html
from rljax.report.statistics import bootstrap_interval, interquartile_mean

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARKS_SHOWN = 24
_RESAMPLES = 500  # for an interval that is drawn again at every evaluation


class Status(NamedTuple):
    """How far an experiment is, and what its latest runs are like."""

    updates: int  # of all runs together
    env_steps_per_second: float  # of the runs that train now
    training_return: float  # mean over the latest chunk's episodes, with exploration; NaN if none ended
    evaluations: list[np.ndarray]  # returns so far, `[R]` each
    name: Callable[[int], str]  # of one of the R runs, such as "seed 3"
    diverged: int = 0
    solved: int = 0
    measures: Mapping[str, np.ndarray] = MappingProxyType({})  # of the latest evaluation, besides the return
    policy: str = "greedy"  # that is evaluated


class Show(Protocol):
    """Called after every chunk of updates and every evaluation."""

    def __call__(self, status: Status) -> None:
        """Show the status."""


@contextlib.contextmanager
def view(description: str, num_updates: int, shown: bool) -> Iterator[Show]:
    """Show "compiling", then how the run gets on: on standard error, or in the cell of a notebook."""
    from rich.console import Console

    terminal = Console(file=cast(Any, console.Stderr()))
    if not shown:
        yield lambda status: None
    elif _in_notebook():
        yield _Notebook(description, num_updates)
    elif terminal.is_terminal:
        with _terminal(terminal, description, num_updates) as show:
            yield show
    else:
        yield _Lines(description, num_updates)


def cells(status: Status) -> dict[str, str]:
    """The table's columns and their text."""
    texts = {"env steps/s": f"{status.env_steps_per_second:,.0f}"}
    curve = np.array([_middle(returns) for returns in status.evaluations])
    if len(curve) and np.isfinite(curve[-1]):
        latest = status.evaluations[-1]
        places = console.decimals(*latest[np.isfinite(latest)])
        low, high = bootstrap_interval(latest[np.isfinite(latest)], resamples=_RESAMPLES)
        interval = "" if np.isnan(low) else f" ({low:.{places}f} to {high:.{places}f})"
        texts[f"{status.policy} return"] = f"{curve[-1]:.{places}f}{interval}"
        texts["so far"] = sparks(curve)
        if len(latest) > 1:
            for column, row in (("worst", np.nanargmin(latest)), ("best", np.nanargmax(latest))):
                texts[column] = f"{latest[row]:.{places}f} ({status.name(int(row))})"
        for name, values in status.measures.items():
            if name != "length" and np.isfinite(values).any():  # most environments' returns say as much
                texts[name] = f"{np.nanmean(values):.4g}"
    if not np.isnan(status.training_return):
        texts["training return"] = f"{status.training_return:.{console.decimals(status.training_return)}f}"
    if status.solved:
        texts["solved"] = str(status.solved)
    if status.diverged:
        texts["diverged"] = str(status.diverged)
    return texts


def _middle(returns: np.ndarray) -> float:
    finite = returns[np.isfinite(returns)]
    return float(interquartile_mean(finite)) if len(finite) else np.nan


def sparks(values: np.ndarray) -> str:
    """A line of bars, one for each of the latest finite values."""
    values = values[np.isfinite(values)][-_SPARKS_SHOWN:]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    heights = (values - low) / ((high - low) or 1.0)
    return "".join(_SPARKS[round(height * (len(_SPARKS) - 1))] for height in heights)


def _table(texts: dict[str, str]) -> Any:
    from rich.table import Table

    # One number a line: side by side they would not fit into 80 columns.
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    for name, text in texts.items():
        table.add_row(name, text)
    return table


class _Seen:
    """Keeps the latest training return where no episode ended in a chunk."""

    def __init__(self) -> None:
        self.training_return = np.nan

    def __call__(self, status: Status) -> Status:
        if not np.isnan(status.training_return):
            self.training_return = status.training_return
        return status._replace(training_return=self.training_return)


@contextlib.contextmanager
def _terminal(terminal: Any, description: str, num_updates: int) -> Iterator[Show]:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=terminal,
    )
    task = bar.add_task(description, total=num_updates, state="compiling")
    seen = _Seen()
    with Live(bar, console=terminal, refresh_per_second=4) as live:

        def show(status: Status) -> None:
            status = seen(status)
            bar.update(task, completed=status.updates, state=f"{status.updates / num_updates:.0%}")
            live.update(Group(bar, _table(cells(status))))

        yield show


class _Lines:
    """A line at every tenth of the run."""

    def __init__(self, description: str, num_updates: int) -> None:
        self._description, self._num_updates, self._printed, self._seen = description, num_updates, 0, _Seen()
        console.say(f"{description}: compiling.")

    def __call__(self, status: Status) -> None:
        status = self._seen(status)
        tenths = 10 * status.updates // self._num_updates
        if tenths <= self._printed:
            return
        self._printed = tenths
        texts = cells(status)
        texts.pop("so far", None)  # bars, which some logs cannot hold
        parts = [f"{texts.pop('env steps/s')} env steps/s", *(f"{name} {text}" for name, text in texts.items())]
        console.say(f"{self._description}: {10 * tenths}%, {', '.join(parts)}.")


def _in_notebook() -> bool:
    """True in a Jupyter kernel, whose shell can replace what it has displayed."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


class _Notebook:
    """A bar and the table as HTML, replaced in place, or as a line of text; no widgets are needed."""

    def __init__(self, description: str, num_updates: int) -> None:
        from IPython.display import display

        self._description, self._num_updates, self._seen = description, num_updates, _Seen()
        self._handle = display(self._shown(0, "compiling", {}), display_id=True)

    def __call__(self, status: Status) -> None:
        done = status.updates / self._num_updates
        self._handle.update(self._shown(done, f"{done:.0%}", cells(self._seen(status))))

    def _shown(self, done: float, state: str, texts: dict[str, str]) -> "_Shown":
        line = ", ".join([f"{self._description}: {state}", *(f"{name} {text}" for name, text in texts.items())])
        bar = f"{escape(self._description)} <progress value='{done:.4f}' max='1'></progress> {state}"
        page = f"<div>{bar}</div>" + (html.table(list(texts), [texts.values()]) if texts else "")
        return _Shown(line, page)


class _Shown(NamedTuple):
    """What a frontend shows: the page if it can, else the line."""

    line: str
    page: str

    def __repr__(self) -> str:
        return self.line

    def _repr_html_(self) -> str:
        return self.page
