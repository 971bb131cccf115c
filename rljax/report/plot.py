"""Plots of learning curves."""

import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rljax.report import files
from rljax.report.statistics import bootstrap_interval, interquartile_mean

Path = str | os.PathLike[str] | None

_MAX_CURVES = 10  # in one plot


def learning_curve(
    path: Path, env_steps: np.ndarray, returns: np.ndarray, title: str, quantity: str = "greedy return"
) -> Any:
    """Plot the IQM of `returns` `[seeds, evaluations]` with its 95% interval, and a thin line per seed.

    Returns the figure; writes it to a PNG file if there is a path.
    """
    from matplotlib.collections import LineCollection

    figure, axes = _axes(title, quantity)
    # Thousands of lines of their own would take seconds, in the search for the legend's place too.
    lines = [np.stack([env_steps, row], axis=1) for row in returns]
    axes.add_collection(LineCollection(lines, color="0.6", linewidth=0.4, alpha=0.6))
    axes.autoscale_view()
    complete, seeds = _complete(returns), "1 seed" if len(returns) == 1 else f"{len(returns)} seeds"
    cut_short = f", {len(complete)} that were not cut short" if len(complete) < len(returns) else ""
    axes.plot([], [], color="0.6", linewidth=0.8, label=f"each of {seeds}")
    low, high = bootstrap_interval(complete)
    axes.fill_between(env_steps, low, high, color="tab:blue", alpha=0.3, linewidth=0, label="95% bootstrap interval")
    label = f"interquartile mean{cut_short}"
    axes.plot(env_steps, interquartile_mean(complete), color="tab:blue", linewidth=2, label=label)
    return _finished(path, figure)


def learning_curves(
    path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, quantity: str = "greedy return"
) -> Any:
    """Plot the IQM and its 95% interval for the ten configurations with the highest final IQM.

    Args:
        path: the PNG file, or None.
        curves: from label to environment steps `[evaluations]` and returns `[seeds, evaluations]`.
        title: of the plot.
        quantity: what the returns are.
    """
    figure, axes = _axes(title, quantity)
    curves = {label: (env_steps, _complete(returns)) for label, (env_steps, returns) in curves.items()}
    finals = {
        label: np.nan_to_num(interquartile_mean(returns)[-1], nan=-np.inf) for label, (_, returns) in curves.items()
    }
    shown = sorted(finals, key=lambda label: finals[label], reverse=True)[:_MAX_CURVES]
    for label in shown:
        env_steps, returns = curves[label]
        (line,) = axes.plot(env_steps, interquartile_mean(returns), linewidth=1.6, label=printable(label))
        axes.fill_between(env_steps, *bootstrap_interval(returns), color=line.get_color(), alpha=0.2, linewidth=0)
    return _finished(path, figure)


def _complete(returns: np.ndarray) -> np.ndarray:
    """The seeds of `[seeds, evaluations]` that were not cut short by an interrupt; all seeds if every one was."""
    is_complete = ~np.isnan(returns).any(axis=1)
    return returns[is_complete] if is_complete.any() else returns


def printable(text: str) -> str:
    """Text with escapes for what is not Unicode, such as a name in another encoding."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def picture(width: float, height: float) -> Any:
    """A matplotlib figure of a size in inches, without pyplot, which would use a window system and global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows, also where pyplot is not set up."""

        def _repr_png_(self) -> bytes:
            return png(self)

    figure = Picture(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _axes(title: str, quantity: str) -> tuple[Any, Any]:
    figure = picture(7, 4.2)
    axes = figure.add_subplot()
    axes.set(xlabel="environment steps", ylabel=printable(quantity), title=printable(title))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x else "0")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Any) -> bytes:
    """A figure as a PNG of 100 pixels an inch."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _finished(path: Path, figure: Any) -> Any:
    figure.axes[0].legend(loc="best", framealpha=0.8, edgecolor="none")
    return written(path, figure)


def written(path: Path, figure: Any) -> Any:
    """The figure, written to a PNG file if there is a path."""
    if path is not None:
        files.replace(pathlib.Path(path), lambda part: figure.savefig(part, format="png"))
    return figure
