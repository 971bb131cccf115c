"""Figures of the metrics that show how training goes: entropy, KL, values, gradients, action frequencies, ..."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.report import figures, series
from rljax.report.figures import Figure
from rljax.report.runs import Entry
from rljax.report.series import BOOKKEEPING, Series

_FIRST = {  # in this order, with these titles; all other metrics follow
    "entropy": "entropy of the policy",
    "approximate_kl": "KL divergence from the policy that collected the data",
    "clip_fraction": "clip fraction",
    "explained_variance": "explained variance of the value function",
    "gradient_norm": "gradient norm",
    "learning_rate": "learning rate",
    "loss": "loss",
}
_VALUES = ("action_value", "action_value_min", "action_value_max")
_MOST = 30  # figures
_ENTRY_OF = re.compile(r"^(.+)_(\d+)$")  # of a metric that is a vector, such as action frequencies


def of(entries: Sequence[tuple[str, int, Entry]]) -> dict[str, Figure]:
    """Figures by their titles, of the metrics that any of the runs has; each with its label and place."""
    names = dict.fromkeys(name for _, _, entry in entries for name in entry.metrics if name not in BOOKKEEPING)
    vectors = dict.fromkeys(found[1] for name in names if (found := _ENTRY_OF.match(name)) and f"{found[1]}_0" in names)
    single = [name for name in names if not ((found := _ENTRY_OF.match(name)) and found[1] in vectors)]
    made: dict[str, Figure] = {}
    if "action_value" in names:
        made["action values against the realised return"] = _values(entries)
    ordered = [name for name in _FIRST if name in single] + [name for name in single if name not in (*_FIRST, *_VALUES)]
    for name in ordered:
        known = [(label, at, one) for label, at, e in entries if (one := series.metric(e, name)) is not None]
        known = [(label, at, one) for label, at, one in known if np.isfinite(one.values).any()]
        if known:
            figure = figures.curves(known, name, None, is_interval=False)
            figure["layout"] |= {"showlegend": False, "margin": {"b": 45}}  # the page has one for all of them
            made[_FIRST.get(name, name.replace("_", " "))] = figure
    for name in vectors:
        for label, _, entry in entries:
            parts = [(i, series.metric(entry, f"{name}_{i}")) for i in range(_size(entry, name))]
            lines = [(str(i), i, one) for i, one in parts if one is not None]
            if lines:
                title = f"{name.replace('_', ' ')} of {label}"
                made[title] = figures.curves([_median(*line) for line in lines], name, None, is_interval=False)
    return dict(list(made.items())[:_MOST])


def _size(entry: Entry, name: str) -> int:
    return sum((found := _ENTRY_OF.match(one)) is not None and found[1] == name for one in entry.metrics)


def _median(label: str, at: int, one: Series) -> tuple[str, int, Series]:
    """One line without seeds."""
    axes = {name: series.middle(axis) for name, axis in one.axes.items()}
    known = ~np.isnan(one.values).all(axis=0)
    middle = np.full((1, len(known)), np.nan)
    middle[0, known] = np.nanmedian(one.values[:, known], axis=0)
    return label, at, Series(axes, middle, one.seeds[:1])


def _values(entries: Sequence[tuple[str, int, Entry]]) -> Figure:
    """Mean action values, and what they would be if they were right."""
    lines: list[tuple[str, int, Series]] = []
    realised: list[tuple[str, int, Series]] = []
    for label, place, entry in entries:
        if (one := series.metric(entry, "action_value")) is not None:
            lines.append((label, place, one))
            if (true := series.realised_value(entry)) is not None:
                realised.append(_median(label, place, true))
    figure = figures.curves(lines, "action value", None, is_interval=False)
    others: list[dict[str, Any]] = figures.curves(realised, "", None, is_interval=False)["data"]
    for trace in others:
        name = f"{trace['name']}, discounted return of its episodes"
        figure["data"].append({**trace, "name": name, "line": {**trace["line"], "dash": "dash"}})
    return figure
