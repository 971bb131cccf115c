"""What a person sees of a run: a progress bar while it trains, one table when it has."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from rljax.report.statistics import LEAST_SEEDS

_MOST_ROWS = 20  # of a sweep's table


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
    latest: dict[str, Any] = {"rate": 0.0, "current": "nan"}
    told = 0

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]:,.0f} env steps/s  return {task.fields[current]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(description, total=num_updates, **latest)

        def report(updates: int, rate: float, episode_return: float) -> None:
            nonlocal told
            latest["rate"] = rate
            if not np.isnan(episode_return):  # a chunk in which no episode ended says nothing
                latest["current"] = f"{episode_return:.{decimals(episode_return)}f}"
            bar.update(task, completed=updates, rate=rate, current=latest["current"])
            tenths = 10 * updates // num_updates
            if shown and not console.is_terminal and tenths > told:
                told = tenths
                say(f"{description}: {10 * tenths}%, {rate:,.0f} env steps/s, return {latest['current']}.")

        yield report


def decimals(*returns: float) -> int:
    """Places to print of returns that stand side by side: those of FrozenLake are below 1, CartPole's up to 500."""
    return 1 if any(abs(x) >= 10 for x in returns) else 3


def print_summary(summary: dict[str, Any]) -> None:
    """The one table of a run or a sweep, on standard output."""
    from rich.console import Console
    from rich.table import Table

    seeds = f"{summary['seeds']} seed{'s' * (summary['seeds'] > 1)}"
    begun = len(summary["final_return"]["per_seed"]) if "final_return" in summary else summary["seeds"]
    if begun < summary["seeds"]:
        seeds = f"{begun} of {seeds}"
    table = Table(title=f"{summary['algo']} on {summary['env']}: {seeds} x {summary['env_steps']:,} env steps")
    speed = {
        "env steps/s": f"{summary['env_steps_per_second']:,.0f}",
        "compile s": f"{summary['compile_seconds']:.1f}",
    }
    configurations = summary.get("configurations")
    if configurations is None:
        rows = [{**_cells(summary["final_return"], _places([summary])), **speed}]
    else:
        ranked = sorted(
            configurations, key=lambda c: (_part(c), np.nan_to_num(c["final_return"]["iqm"], nan=-np.inf)), reverse=True
        )
        several = len({_part(c) for c in configurations}) > 1
        table.caption = ", ".join(f"{value} {name}" for name, value in speed.items())
        if len(ranked) > _MOST_ROWS:
            table.caption += f"; the best {_MOST_ROWS} of {len(ranked)} configurations"
        shown = ranked[:_MOST_ROWS]
        rows = [
            {
                **{path: _short(value) for path, value in c["values"].items()},
                **({"updates": f"{c['updates']:,} of {c['num_updates']:,}"} if several else {}),
                **_cells(c["final_return"], _places(shown)),
            }
            for c in shown
        ]
    for name in rows[0]:
        table.add_column(name, justify="right", no_wrap=True)
    for cells in rows:
        table.add_row(*cells.values())
    console = Console(width=None if sys.stdout.isatty() else 120)
    with console.capture() as told:
        _print(console, table, summary)
    print(told.get(), end="")  # rich would end the process where a pipe is closed


def _print(console: Any, table: Any, summary: dict[str, Any]) -> None:
    configurations = summary.get("configurations")
    console.print(table)
    for part in configurations or [summary]:
        for sentence in _troubles(part):
            console.print(sentence)
    best = summary.get("best")
    if configurations and summary["interrupted"]:
        console.print(
            "The best configuration is provisional: it is that of those trained longest so far."
            if best
            else "There is no best configuration yet: of those trained longest, fewer than two have a final return."
        )
    if best and best["final_return"]:
        values = next(c["values"] for c in configurations or [] if c["configuration"] == best["configuration"])
        held_out = best["final_return"]
        low, high = held_out["ci95"]
        places = _places([best])
        interval = "" if np.isnan(low) else f" ({low:.{places}f} to {high:.{places}f})"
        console.print(
            f"Best by one half of the seeds: {_named(values)}; on the other half its IQM return is "
            f"{held_out['iqm']:.{places}f}{interval}."
        )


def _part(configuration: dict[str, Any]) -> float:
    """Which part of its updates a configuration has had."""
    return configuration["updates"] / configuration["num_updates"]


def _places(parts: list[dict[str, Any]]) -> int:
    return decimals(*(part["final_return"][end] for part in parts for end in ("min", "max")))


def _cells(final: dict[str, Any], places: int) -> dict[str, str]:
    low, high = final["ci95"]
    missing = "-" if len(final["per_seed"]) >= LEAST_SEEDS else f"needs {LEAST_SEEDS} seeds"
    return {
        "IQM return": f"{final['iqm']:.{places}f}",
        "95% interval": missing if np.isnan(low) else f"{low:.{places}f} to {high:.{places}f}",
        "median": f"{final['median']:.{places}f}",
        "worst seed": f"{final['min']:.{places}f}",
    }


def _troubles(part: dict[str, Any]) -> Iterator[str]:
    """What has to be said of a run, or of one configuration of a sweep."""
    where = f" of {_named(part['values'])}" if "values" in part else ""
    for run in part["diverged"]:
        yield (
            f"Seed {run['seed']}{where} diverged after {run['env_steps']:,} env steps (update {run['update']:,}): "
            "it was frozen there, and is counted as it was."
        )
    missing = part["final_return"]["not_finite"]
    if missing:
        why = "were not evaluated to the end, or have no finite return, and are left out of the statistics."
        yield f"Seeds {', '.join(map(str, missing))}{where} {why}"


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{path} {_short(value)}" for path, value in values.items())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return value.get("label", "...")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_cursor() -> None:
    """Give the terminal its cursor back, which the bar hides."""
    from rich.console import Console

    Console(stderr=True).show_cursor()


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def say(sentence: str) -> None:
    """One sentence to the person at the terminal."""
    print(f"rljax: {sentence}", file=sys.stderr, flush=True)
