"""Sentences and tables of a run, in the terminal."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from rljax.report.statistics import MIN_SEEDS

_MAX_ROWS = 20  # in a sweep's table


class Stderr(io.TextIOBase):
    """Standard error, which may be closed, or a terminal that is gone after SIGHUP."""

    def __init__(self) -> None:
        self._stream: Any = getattr(sys.stderr, "rich_proxied_file", sys.stderr) or io.StringIO()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"


def decimals(*returns: float) -> int:
    """Decimal places for a column of returns: FrozenLake's are below 1, CartPole's up to 500."""
    return 1 if any(abs(x) >= 10 for x in returns) else 3


def title(summary: dict[str, Any]) -> str:
    """The algorithm's and the environments' names."""
    return f"{summary['algo']} on {summary['env']}"


def quantity(summary: dict[str, Any]) -> str:
    """What the returns of the evaluations are, such as "greedy return"."""
    where = summary.get("eval_env")
    return f"{summary['eval_policy']} return" + (f" in {where}" if where else "")


def line(summary: dict[str, Any]) -> str:
    """A run or a sweep in a few words, for its `repr`."""
    about = f"{title(summary)}, {_seeds(summary['seeds'])} x {summary['env_steps']:,} env steps"
    if "values" in summary:  # one configuration of a sweep
        about += f", {_settings(summary['values'])[:300]}"
    if "configurations" in summary:
        return f"{about}, {len(summary['configurations'])} configurations"[:500]
    cells = summary_cells(summary["final_return"], _places([summary]))
    return f"{about}, IQM return {cells['IQM return']}, 95% interval {cells['95% interval']}"[:500]


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def label(values: dict[str, Any]) -> str:
    """A short label of a configuration's values, for a legend."""
    shown = {k: f"{v:.3g}" if isinstance(v, float) else str(getattr(v, "label", v)) for k, v in values.items()}
    # A network's text has many lines.
    return ", ".join(f"{path.rpartition('.')[2]}={' '.join(value.split())[:80]}" for path, value in shown.items())


def table(summary: dict[str, Any]) -> Any:
    """The table of a run or a sweep."""
    from rich.table import Table

    seeds = _seeds(summary["seeds"])
    started = len(summary["final_return"]["per_seed"]) if "final_return" in summary else summary["seeds"]
    if started < summary["seeds"]:
        seeds = f"{started} of {seeds}"
    made = Table(title=f"{summary['algo']} on {summary['env']}: {seeds} x {summary['env_steps']:,} env steps")
    speed = {
        "env steps/s": f"{summary['env_steps_per_second']:,.0f}",
        "compile s": f"{summary['compile_seconds']:.1f}",
    }
    configurations = summary.get("configurations")
    if configurations is None:
        rows = [{**summary_cells(summary["final_return"], _places([summary])), **speed}]
    else:
        ranked = _ranked(configurations)
        differ = len({_done(c) for c in configurations}) > 1
        made.caption = ", ".join(f"{value} {name}" for name, value in speed.items())
        if len(ranked) > _MAX_ROWS:
            made.caption += f"; the best {_MAX_ROWS} of {len(ranked)} configurations"
        shown = ranked[:_MAX_ROWS]
        rows = [
            {
                **{path: _format(value) for path, value in c["values"].items()},
                **({"updates": f"{c['updates']:,} of {c['num_updates']:,}"} if differ else {}),
                **summary_cells(c["final_return"], _places(shown)),
            }
            for c in shown
        ]
    for name in rows[0]:
        made.add_column(name, justify="right", no_wrap=True)
    for cells in rows:
        made.add_row(*cells.values())
    return made


def print_summary(summary: dict[str, Any]) -> None:
    """Print the table of a run or a sweep to standard output."""
    print_with(lambda console: _print(console, summary))


def print_with(draw: Callable[[Any], object]) -> None:
    """Print to standard output what is drawn on a console of rich."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, force_jupyter=False)
    with console.capture() as output:
        draw(console)
    print(output.get(), end="")  # printed directly, rich would end the process when the pipe is closed


def _print(console: Any, summary: dict[str, Any]) -> None:
    configurations = summary.get("configurations")
    console.print(table(summary))
    if summary["eval_policy"] != "greedy" or summary["eval_env"]:
        console.print(f"Evaluated: {quantity(summary)}.")
    for part in configurations or [summary]:
        for sentence in (*_measures(part), *warnings_of(part)):
            console.print(sentence)
    best = summary.get("best")
    if configurations and summary["interrupted"]:
        console.print(
            "The best configuration is provisional: only those trained longest so far were compared."
            if best
            else "There is no best configuration yet: fewer than two of those trained longest have a final return."
        )
    if best and best["final_return"]:
        values = next(c["values"] for c in configurations or [] if c["configuration"] == best["configuration"])
        held_out = best["final_return"]
        low, high = held_out["ci95"]
        places = _places([best])
        interval = "" if np.isnan(low) else f" ({low:.{places}f} to {high:.{places}f})"
        console.print(
            f"Best on one half of the seeds: {_settings(values)}; on the other half its IQM return is "
            f"{held_out['iqm']:.{places}f}{interval}."
        )
        if _ranked(configurations or [])[0]["configuration"] != best["configuration"]:
            console.print("The table's first row is another: it ranks by all seeds, also those that chose it.")


def _ranked(configurations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The configurations by the part of their updates that is done, and by the IQM of all seeds."""
    return sorted(
        configurations, key=lambda c: (_done(c), np.nan_to_num(c["final_return"]["iqm"], nan=-np.inf)), reverse=True
    )


def _done(configuration: dict[str, Any]) -> float:
    """The fraction of its updates that a configuration has completed."""
    return configuration["updates"] / configuration["num_updates"]


def _places(parts: list[dict[str, Any]]) -> int:
    return decimals(*(part["final_return"][end] for part in parts for end in ("min", "max")))


def summary_cells(final: dict[str, Any], places: int) -> dict[str, str]:
    """The numbers of a `summarize` as text, by column."""
    low, high = final["ci95"]
    missing = "-" if len(final["per_seed"]) >= MIN_SEEDS else f"needs {MIN_SEEDS} seeds"
    return {
        "IQM return": f"{final['iqm']:.{places}f}",
        "95% interval": missing if np.isnan(low) else f"{low:.{places}f} to {high:.{places}f}",
        "median": f"{final['median']:.{places}f}",
        "worst seed": f"{final['min']:.{places}f}",
    }


def _measures(part: dict[str, Any]) -> Iterator[str]:
    """A sentence with what the environment's info gave in the final evaluation, if it gave anything."""
    measured = {name: one for name, one in part["final_measures"].items() if np.isfinite(one["mean"])}
    if measured.keys() - {"length"}:
        where = f" of {_settings(part['values'])}" if "values" in part else ""
        means = ", ".join(f"{name} {one['mean']:.4g}{_interval(one)}" for name, one in measured.items())
        yield f"Final evaluation{where}, means with 95% intervals: {means}."


def _interval(measure: dict[str, Any]) -> str:
    """The interval of a measure's mean in parentheses; nothing if there is none or all seeds are equal."""
    low, high = measure.get("ci95", (np.nan, np.nan))
    return f" ({low:.4g} to {high:.4g})" if low < high else ""


def warnings_of(part: dict[str, Any]) -> Iterator[str]:
    """Warnings about a run or about one configuration of a sweep, one sentence each."""
    where = f" of {_settings(part['values'])}" if "values" in part else ""
    for run in part["diverged"]:
        yield (
            f"Seed {run['seed']}{where} diverged after {run['env_steps']:,} env steps (update {run['update']:,}): "
            "its state was frozen there, and its returns are those of that state."
        )
    if "solved" in part:
        steps = sorted(run["env_steps"] for run in part["solved"])
        when = f", the median one after {steps[len(steps) // 2]:,} env steps" if steps else ""
        yield f"Solved{where}: {len(steps)} of {len(part['final_return']['per_seed'])} seeds{when}."
    missing = part["final_return"]["not_finite"]
    if missing:
        seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        why = "since not evaluated to the end or without a finite return"
        yield f"Excluded from the statistics, {why}: {seeds}{where}."


def configuration(summary: dict[str, Any]) -> str:
    """Which configuration of a sweep a summary is of, with its values; empty if it is of no sweep."""
    if "configuration" not in summary:
        return ""
    return f"configuration {summary['configuration']} ({_settings(summary['values'])})"


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{path} {_format(value)}" for path, value in values.items())


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return value.get("label", "...")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_cursor() -> None:
    """Show the terminal's cursor again, which the bar hides."""
    from rich.console import Console

    Console(file=cast(Any, Stderr())).show_cursor()


def duration(seconds: float) -> str:
    """Format seconds in a readable unit."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


_listeners: list[Callable[[str], object]] = []


@contextlib.contextmanager
def listening(listener: Callable[[str], object]) -> Iterator[None]:
    """Pass sentences on instead of printing them: on a cluster's worker, whose standard error nobody reads."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


_names: dict[str, str] = {}


@contextlib.contextmanager
def naming(text: str, name: str) -> Iterator[None]:
    """Replace a text by a name in all sentences: the folder where files wait for upload by its URL."""
    _names[text] = name
    try:
        yield
    finally:
        del _names[text]


def say(sentence: str) -> None:
    """Print one sentence to standard error, prefixed with "rljax"."""
    for text, name in _names.items():
        sentence = sentence.replace(text, name)
    if _listeners:
        _listeners[-1](sentence)
        return
    with contextlib.suppress(OSError, RuntimeError):  # a terminal that is gone; within another print, in a handler
        print(f"rljax: {sentence}", file=sys.stderr or io.StringIO(), flush=True)
