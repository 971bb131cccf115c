"""Interactive figures of runs, as plotly's JSON. The page's script applies the colours of its theme."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rljax.envs import Box, Discrete, Leaf
from rljax.report import series, statistics
from rljax.report.compare import Pair
from rljax.report.runs import Entry
from rljax.report.series import Series

Figure = dict[str, Any]

# Okabe and Ito 2008: distinct for the colour-blind, and on white and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("solid", "dash", "dot", "dashdot")  # beyond six runs
_SCALE = "Cividis"
_SHORT_LEGEND = 4  # that needs no space of its own
_BINS = 25  # of a histogram of actions
_MOST_ENTRIES = len(COLOURS)  # of an action
_MOST_TICKS = 20
_RESAMPLES = 500  # for an interval at every point of a curve


def style(place: int) -> dict[str, Any]:
    """The line of the run at this place."""
    return {"color": COLOURS[place % len(COLOURS)], "dash": _DASHES[place // len(COLOURS) % len(_DASHES)]}


def _faint(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def plain(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Numbers with few digits, for JSON; None for those that are not finite."""
    return [float(f"{x:.{digits}g}") if math.isfinite(x) else None for x in np.ravel(values).tolist()]


def curves(
    entries: Sequence[tuple[str, int, Series]], quantity: str, baseline: float | None, is_interval: bool = True
) -> Figure:
    """Curves over training with bands, a thin line per seed, and the random policy's return.

    Args:
        entries: label, place among the page's runs, and series of each.
        quantity: what the values are.
        baseline: the random policy's return, if it is known.
        is_interval: the interquartile mean, its 95% interval and every seed; else the median and the middle half of the
            seeds, since some seeds' extremes would hide the rest.
    """
    data = [trace for entry in entries for trace in _traces(*entry, is_interval)]
    data += [_baseline(baseline, [one for _, _, one in entries])] if baseline is not None else []
    known = [x for trace in data for x in trace["y"] if x is not None]
    figure = _figure(data, quantity, "env steps", positive=bool(known) and min(known) > 0)
    if len(entries) > _SHORT_LEGEND and is_interval:
        figure["layout"]["height"] = 400 + 20 * (len(entries) - _SHORT_LEGEND)
    return figure


def _traces(label: str, place: int, one: Series, is_interval: bool) -> Iterator[dict[str, Any]]:
    line, group = style(place), {"legendgroup": label, "type": "scatter", "mode": "lines"}
    axes = {name: np.broadcast_to(axis, one.values.shape) for name, axis in one.axes.items()}
    if is_interval and len(one.values) > 1:
        yield {
            **group,
            **_on({name: np.pad(axis, ((0, 0), (0, 1)), constant_values=np.nan) for name, axis in axes.items()}),
            "y": plain(np.pad(one.values, ((0, 0), (0, 1)), constant_values=np.nan)),  # a gap between seeds
            "customdata": np.repeat(one.seeds, one.values.shape[1] + 1).tolist(),
            "hovertemplate": "seed %{customdata}: %{y}<extra>" + _escaped(label) + "</extra>",
            "line": {"color": _faint(line["color"], 0.35), "width": 0.7},
            "showlegend": False,
            "name": f"{label}, seeds",
            "meta": {"is_seeds": True, **_meta(axes, gap=True)},
        }
    middle, low, high = _band(one.values, is_interval)
    is_whole = ~np.isnan(one.values).any(axis=1)
    counted = is_whole if is_interval and is_whole.any() else np.ones_like(is_whole)
    shared = {name: series.middle(axis[counted] if axis.ndim == 2 else axis) for name, axis in one.axes.items()}
    edge = {**group, **_on(shared), "hoverinfo": "skip", "showlegend": False, "line": {"width": 0}}
    if len(one.values) > 1 and np.isfinite(low).any():
        yield {**edge, "y": plain(low), "meta": _meta(shared)}
        colour = _faint(line["color"], 0.22)
        yield {**edge, "y": plain(high), "fill": "tonexty", "fillcolor": colour, "meta": _meta(shared)}
    yield {
        **group,
        **_on(shared),
        "y": plain(middle),
        "name": _escaped(label),
        "line": {**line, "width": 2.5},
        "customdata": [
            "" if math.isnan(a) else f" ({a:.5g} to {b:.5g})" for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ],
        "hovertemplate": ("IQM" if is_interval else "median") + " %{y}%{customdata}<extra>%{fullData.name}</extra>",
        "meta": _meta(shared),
    }


def _band(values: np.ndarray, is_interval: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle and ends of a band over seeds, `[W]` each."""
    is_whole = ~np.isnan(values).any(axis=1)
    if is_interval and is_whole.any():  # runs that were cut short would bend the curve
        whole = values[is_whole]
        return statistics.interquartile_mean(whole), *statistics.bootstrap_interval(whole, resamples=_RESAMPLES)
    ordered = np.sort(values, axis=0)  # NaN last
    counts = np.isfinite(values).sum(axis=0)

    def quantile(q: float) -> np.ndarray:
        at = np.maximum(counts - 1, 0) * q
        ends = [ordered[end(at).astype(int), np.arange(len(counts))] for end in (np.floor, np.ceil)]
        return np.where(counts > 0, ends[0] + (at % 1) * (ends[1] - ends[0]), np.nan)

    return quantile(0.5), quantile(0.25), quantile(0.75)


def _on(axes: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"x": plain(axes["env steps"], 8)}


def _meta(axes: dict[str, np.ndarray], gap: bool = False) -> dict[str, Any]:
    """The other x-axes, which the page's script exchanges."""
    others = {name: np.pad(x, ((0, 0), (0, 1)), constant_values=np.nan) if gap else x for name, x in axes.items()}
    return {"axes": {name: plain(x) for name, x in others.items() if name != "env steps"}}


def _baseline(value: float, shown: Sequence[Series]) -> dict[str, Any]:
    names = set.intersection(*(set(one.axes) for one in shown)) if shown else set()
    ends = {name: np.array([0.0, max(np.nanmax(one.axes[name], initial=0.0) for one in shown)]) for name in names}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": plain(ends.get("env steps", np.array([0.0, 1.0])), 8),
        "y": plain(np.full(2, value)),
        "name": f"random policy ({value:.4g})",
        "line": {"color": "#888888", "width": 1.5, "dash": "dot"},
        "hoverinfo": "name",
        "meta": _meta(ends),
    }


def _figure(data: list[dict[str, Any]], y: str, x: str, positive: bool = False, **layout: Any) -> Figure:
    """A figure; `positive` if its y-axis may be logarithmic."""
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "automargin": True}}
    return {"data": data, "layout": {**axes, **layout, "meta": {"can_be_log": positive}}}


def _escaped(text: str) -> str:
    """Text for plotly, which reads a few tags of HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def profiles(tasks: Sequence[tuple[str, int, Sequence[np.ndarray]]], quantity: str) -> Figure:
    """Performance profiles: the fraction of runs above every threshold."""
    everything = np.concatenate([task for _, _, one in tasks for task in one])
    span = float(np.ptp(everything)) or 1.0
    thresholds = np.linspace(everything.min() - 0.02 * span, everything.max() + 0.02 * span, 101)
    data: list[dict[str, Any]] = []
    for label, place, one in tasks:
        above, low, high = statistics.performance_profile(one, thresholds)
        line, shared = style(place), {"type": "scatter", "mode": "lines", "x": plain(thresholds), "legendgroup": label}
        edge = {**shared, "hoverinfo": "skip", "showlegend": False, "line": {"width": 0}}
        if np.isfinite(low).any():
            data.append({**edge, "y": plain(low)})
            data.append({**edge, "y": plain(high), "fill": "tonexty", "fillcolor": _faint(line["color"], 0.22)})
        hover = "%{y:.0%} of runs above %{x}<extra>%{fullData.name}</extra>"
        data.append({**shared, "y": plain(above), "name": _escaped(label), "line": line, "hovertemplate": hover})
    figure = _figure(data, "fraction of runs above", quantity)
    figure["layout"]["yaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    return figure


def actions(taken: np.ndarray, space: Leaf) -> Figure:
    """How often a policy takes each action: those taken are `[steps, ...]`; of continuous ones histograms."""
    data: list[dict[str, Any]] = []
    columns = taken.reshape(len(taken), -1)[:, :_MOST_ENTRIES].T
    for i, entries in enumerate(columns):
        if isinstance(space, Box):
            counts, edges = np.histogram(entries, _BINS)
            at, shape = (edges[:-1] + edges[1:]) / 2, {"type": "scatter", "mode": "lines", "line": style(i)}
        else:
            first, size = (space.start, space.n) if isinstance(space, Discrete) else (0, space.nvec[i])
            counts = np.bincount(entries - first, minlength=size)
            at, shape = np.arange(first, first + size), {"type": "bar", "marker": {"color": style(i)["color"]}}
        hover = "%{x}: %{y:.1%}<extra>%{fullData.name}</extra>"
        named = {"name": f"entry {i}", "showlegend": len(columns) > 1, "hovertemplate": hover}
        data.append({**shape, "x": plain(at), "y": plain(counts / len(entries)), **named})
    figure = _figure(data, "fraction of steps", "action")
    figure["layout"]["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    if not isinstance(space, Box):
        figure["layout"]["xaxis"]["dtick"] = 1 + max(len(one["x"]) for one in data) // _MOST_TICKS
    return figure


def improvement(pairs: Sequence[Pair]) -> tuple[Figure, str]:
    """Probabilities of improvement with their intervals, and what they are of."""
    shown = list(reversed(pairs))  # the first one at the top
    firsts = {pair.first.label for pair in pairs}
    what = f"probability that {pairs[0].first.label} improves on" if len(firsts) == 1 else "probability of improvement"
    names = [pair.second.label if len(firsts) == 1 else f"{pair.first.label} > {pair.second.label}" for pair in shown]
    names = [_escaped(name) for name in names]
    middle = np.array([pair.probability for pair in shown])
    ends = np.array([pair.ci95 for pair in shown])
    point = {
        "type": "scatter",
        "mode": "markers",
        "x": plain(middle),
        "y": names,
        "marker": {"color": COLOURS[0], "size": 10},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": plain(ends[:, 1] - middle),
            "arrayminus": plain(middle - ends[:, 0]),
        },
        "hovertemplate": "%{y}: %{x}<extra></extra>",
        "showlegend": False,
    }
    chance = {"type": "line", "x0": 0.5, "x1": 0.5, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot"}}
    figure = _figure([point], "", "probability of improvement", shapes=[chance], height=160 + 36 * len(names))
    figure["layout"]["xaxis"]["range"] = [-0.02, 1.02]
    return figure, what


def sensitivity(path: str, entries: Sequence[Entry]) -> Figure:
    """Returns by the values of the one field of a sweep."""
    ordered = sorted(entries, key=lambda entry: _order(entry.values[path]))
    known = [statistics.summarize(entry.final) for entry in ordered]
    middle, ends = np.array([one["iqm"] for one in known]), np.array([one["ci95"] for one in known])
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [tick(entry.values[path]) for entry in ordered],
        "y": plain(middle),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": plain(ends[:, 1] - middle),
            "arrayminus": plain(middle - ends[:, 0]),
        },
        "line": {"color": COLOURS[0]},
        "showlegend": False,
    }
    figure = _figure([trace], "IQM return", path)
    figure["layout"]["xaxis"]["type"] = "category"
    return figure


def heat_map(first: str, second: str, entries: Sequence[Entry]) -> Figure:
    """Returns by the values of two fields of a sweep: the mean IQM over all others."""
    columns = sorted({tick(e.values[first]): _order(e.values[first]) for e in entries}.items(), key=lambda x: x[1])
    rows = sorted({tick(e.values[second]): _order(e.values[second]) for e in entries}.items(), key=lambda x: x[1])
    xs, ys = [tick for tick, _ in columns], [tick for tick, _ in rows]
    cells: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        cells.setdefault((tick(entry.values[second]), tick(entry.values[first])), []).append(_iqm(entry))
    table = np.array([[np.mean(cells.get((y, x), [np.nan])) for x in xs] for y in ys])
    trace = {
        "type": "heatmap",
        "x": xs,
        "y": ys,
        "z": [plain(row) for row in table],
        "colorscale": _SCALE,
        "colorbar": {"title": {"text": "IQM"}},
        "texttemplate": "%{z:.4g}" if table.size <= 100 else None,
        "hovertemplate": f"{_escaped(first)} %{{x}}, {_escaped(second)} %{{y}}: %{{z}}<extra></extra>",
    }
    figure = _figure([trace], second, first)
    for axis in ("xaxis", "yaxis"):
        figure["layout"][axis]["type"] = "category"
    return figure


def scatter(first: str, second: str, entries: Sequence[Entry]) -> Figure:
    """Returns at the values of two fields that were drawn at random."""
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [value if _is_number(value := entry.values[first]) else tick(value) for entry in entries],
        "y": [value if _is_number(value := entry.values[second]) else tick(value) for entry in entries],
        "marker": {
            "color": plain(np.array([_iqm(entry) for entry in entries])),
            "colorscale": _SCALE,
            "showscale": True,
            "size": 9,
            "colorbar": {"title": {"text": "IQM"}},
        },
        "hovertemplate": f"{_escaped(first)} %{{x}}, {_escaped(second)} %{{y}}: %{{marker.color}}<extra></extra>",
    }
    figure = _figure([trace], second, first)
    for axis, path in (("xaxis", first), ("yaxis", second)):
        if _is_wide([entry.values[path] for entry in entries]):
            figure["layout"][axis]["type"] = "log"
    return figure


def parallel_coordinates(paths: Sequence[str], entries: Sequence[Entry]) -> Figure:
    """Every configuration of a sweep as a line through its values and its return."""
    returns = plain(np.array([_iqm(entry) for entry in entries]))
    dimensions = [_dimension(path, [entry.values[path] for entry in entries]) for path in paths]
    trace = {
        "type": "parcoords",
        "dimensions": [*dimensions, {"label": "IQM return", "values": returns}],
        "line": {"color": returns, "colorscale": _SCALE, "showscale": True},
    }
    return {"data": [trace], "layout": {"margin": {"l": 70, "r": 60, "t": 70, "b": 30}, "meta": {"can_be_log": False}}}


def _dimension(path: str, values: Sequence[Any]) -> dict[str, Any]:
    label = path.rpartition(".")[2]
    ticks = sorted({tick(value): _order(value) for value in values}.items(), key=lambda x: x[1])
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) < len(values):
        place = {tick: i for i, (tick, _) in enumerate(ticks)}
        at = [place[tick(value)] for value in values]
        return {"label": label, "values": at, "tickvals": list(place.values()), "ticktext": list(place)}
    scale: Callable[[float], float] = math.log10 if _is_wide(values) else float
    dimension: dict[str, Any] = {"label": label, "values": [scale(value) for value in values]}
    if len(ticks) <= 8 or _is_wide(values):
        some = [float(tick) for tick, _ in ticks]
        some = (
            some
            if len(some) <= 8
            else [10.0**i for i in range(math.ceil(math.log10(some[0])), 1 + math.floor(math.log10(some[-1])))]
        )
        dimension |= {"tickvals": [scale(tick) for tick in some], "ticktext": [f"{tick:g}" for tick in some]}
    return dimension


def _is_wide(values: Sequence[Any]) -> bool:
    """True for positive numbers that a logarithmic axis shows better."""
    numbers = [value for value in values if _is_number(value)]
    return len(numbers) == len(values) and min(numbers) > 0 and max(numbers) >= 20 * min(numbers)


def is_drawn(path: str, entries: Sequence[Entry]) -> bool:
    """True for numbers that were drawn at random: most configurations have their own."""
    values = [entry.values[path] for entry in entries]
    return all(map(_is_number, values)) and len(set(values)) > max(8, len(values) / 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _iqm(entry: Entry) -> float:
    score = statistics.score(entry.final)
    return score if math.isfinite(score) else math.nan


def tick(value: Any) -> str:
    """A swept value as a short text."""
    value = value.get("label", value) if isinstance(value, dict) else value
    return f"{value:g}" if isinstance(value, float) else str(value)[:40]


def _order(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if _is_number(value) else (1, 0.0, tick(value))
