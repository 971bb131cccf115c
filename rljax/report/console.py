"""What a person sees of a run: a progress bar while it trains, one table when it has."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np


class Progress(Protocol):
    """Told of every chunk that lands."""

    def __call__(self, updates: int, rate: float, episode_return: float) -> None:
        """Updates done so far, environment steps per second of all seeds, the current return."""


@contextlib.contextmanager
def progress_bar(description: str, num_updates: int, shown: bool) -> Iterator[Progress]:
    """A bar on standard error with environment steps per second and the current return.

    Where standard error is no terminal, in the log of a batch job say, it is a line at every tenth of the run.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    latest: dict[str, Any] = {"rate": 0.0, "current": np.nan}
    told = 0

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]:,.0f} env steps/s  return {task.fields[current]:.1f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(description, total=num_updates, **latest)

        def report(updates: int, rate: float, episode_return: float) -> None:
            nonlocal told
            latest["rate"] = rate
            if not np.isnan(episode_return):  # a chunk in which no episode ended says nothing
                latest["current"] = episode_return
            bar.update(task, completed=updates, rate=rate, current=latest["current"])
            tenths = 10 * updates // num_updates
            if shown and not console.is_terminal and tenths > told:
                told = tenths
                say(f"{description}: {10 * tenths}%, {rate:,.0f} env steps/s, return {latest['current']:.1f}.")

        yield report


def print_summary(summary: dict[str, Any]) -> None:
    """The one table of a run, on standard output."""
    from rich.console import Console
    from rich.table import Table

    final = summary["final_return"]
    title = f"{summary['algo']} on {summary['env']}: {summary['seeds']} seeds x {summary['env_steps']:,} env steps"
    table = Table(title=title)
    cells = {
        "IQM return": f"{final['iqm']:.1f}",
        "95% interval": f"{final['ci95'][0]:.1f} to {final['ci95'][1]:.1f}"
        if summary["seeds"] > 1
        else "needs 2 seeds",
        "median": f"{final['median']:.1f}",
        "worst seed": f"{final['min']:.1f}",
        "env steps/s": f"{summary['env_steps_per_second']:,.0f}",
        "compile s": f"{summary['compile_seconds']:.1f}",
    }
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*cells.values())
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for name, why in (("diverged", "have parameters that are not finite"), ("not_finite", "have no finite return")):
        seeds = summary["diverged"] if name == "diverged" else final["not_finite"]
        if seeds:
            console.print(f"Seeds {', '.join(map(str, seeds))} {why}.")


def show_cursor() -> None:
    """Give the terminal its cursor back, which the bar hides."""
    from rich.console import Console

    Console(stderr=True).show_cursor()


def say(sentence: str) -> None:
    """One sentence to the person at the terminal."""
    print(f"rljax: {sentence}", file=sys.stderr, flush=True)
