"""Pictures of learning curves."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.report.statistics import bootstrap_interval, interquartile_mean

_MOST_CURVES = 10  # in one picture


def learning_curve(path: pathlib.Path, env_steps: np.ndarray, returns: np.ndarray, title: str) -> None:
    """Draw the IQM of `returns` `[seeds, evaluations]` with its 95% band, and a thin line a seed."""
    figure, axes = _axes(title)
    axes.plot(env_steps, returns.T, color="0.6", linewidth=0.4, alpha=0.6)
    whole, seeds = _whole(returns), "1 seed" if len(returns) == 1 else f"{len(returns)} seeds"
    cut_short = f", {len(whole)} that were not cut short" if len(whole) < len(returns) else ""
    axes.plot([], [], color="0.6", linewidth=0.8, label=f"each of {seeds}")
    low, high = bootstrap_interval(whole)
    axes.fill_between(env_steps, low, high, color="tab:blue", alpha=0.3, linewidth=0, label="95% bootstrap interval")
    label = f"interquartile mean{cut_short}"
    axes.plot(env_steps, interquartile_mean(whole), color="tab:blue", linewidth=2, label=label)
    _save(path, figure)


def learning_curves(path: pathlib.Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> None:
    """Draw the IQM and its 95% band of each configuration, the ten that end highest.

    Args:
        path: of the picture.
        curves: label to environment steps `[evaluations]` and returns `[seeds, evaluations]`.
        title: of the picture.
    """
    figure, axes = _axes(title)
    curves = {label: (env_steps, _whole(returns)) for label, (env_steps, returns) in curves.items()}
    finals = {
        label: np.nan_to_num(interquartile_mean(returns)[-1], nan=-np.inf) for label, (_, returns) in curves.items()
    }
    shown = sorted(finals, key=lambda label: finals[label], reverse=True)[:_MOST_CURVES]
    for label in shown:
        env_steps, returns = curves[label]
        (line,) = axes.plot(env_steps, interquartile_mean(returns), linewidth=1.6, label=label)
        axes.fill_between(env_steps, *bootstrap_interval(returns), color=line.get_color(), alpha=0.2, linewidth=0)
    _save(path, figure)


def _whole(returns: np.ndarray) -> np.ndarray:
    """Of `[seeds, evaluations]` those that an interrupt did not cut short; all where none is whole."""
    is_whole = ~np.isnan(returns).any(axis=1)
    return returns[is_whole] if is_whole.any() else returns


def _axes(title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # drawn without pyplot, so that no window system or global state is touched
    axes = figure.add_subplot()
    axes.set(xlabel="environment steps", ylabel="greedy return", title=title)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x else "0")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(path: pathlib.Path, figure: Any) -> None:
    figure.axes[0].legend(frameon=False, loc="best")
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"{path} could not be written ({error.strerror}): make room, or choose another folder."
        ) from None
