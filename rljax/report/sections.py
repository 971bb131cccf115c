"""The sections of a report: their tables, and the figures that they show."""

import base64
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rljax.errors import UsageError
from rljax.experiment import remote
from rljax.report import (
    compare,
    configs,
    console,
    diagnostics,
    doctor,
    figures,
    rollouts,
    scores,
    series,
    statistics,
)
from rljax.report.compare import Comparison, Random
from rljax.report.figures import Figure
from rljax.report.rollouts import Code, Rollout
from rljax.report.runs import Entry

_MOST_CURVES = 10  # in one figure: of more, the ones with the highest IQM
_MOST_WARNINGS = 8
_MOST_COLUMNS = 12  # of the table of configs
_MOST_FIELDS = 4  # of a sweep, of which all pairs have a figure

_DASHES = {"solid": (34,), "dash": (9, 3), "dot": (3, 3), "dashdot": (9, 3, 3, 3)}  # pixels of a legend's line

_CONTROLS = """<div class="controls">
<label>x-axis <select id="axis">{options}</select></label>
<label><input type="checkbox" id="log-x"> log x</label>
<label><input type="checkbox" id="log-y"> log y</label>
<label><input type="checkbox" id="seeds" checked> single seeds</label>
</div>"""


class Sections:
    """Makes the parts of a page, and collects the figures that they show."""

    def __init__(
        self,
        entries: Sequence[Entry],
        random: Random,
        references: Mapping[str, float],
        played: Mapping[str, Rollout],
        diagnosed: Code | None,
    ) -> None:
        self.figures: dict[str, Figure] = {}
        self._entries, self._random, self._played, self._diagnosed = entries, random, played, diagnosed
        self._comparison = _compared(entries, random, references)
        self._envs = list(dict.fromkeys(entry.env for entry in entries))
        self._places = self._ordered()

    def _ordered(self) -> dict[int, int]:
        """The place of each entry by its identity, for its colour: a method has the same one in all environments."""
        drawn = [entry for env in self._envs for entry in self._in(env)]
        others = [entry for entry in self._entries if entry not in drawn]
        ordered = [*drawn, *others]  # what is drawn differs in colour
        by_env = {(entry.method, entry.env) for entry in ordered}
        if len(by_env) < len(ordered):  # a method has several runs in one environment
            return {id(entry): i for i, entry in enumerate(ordered)}
        methods = list(dict.fromkeys(entry.method for entry in ordered))
        return {id(entry): methods.index(entry.method) for entry in ordered}

    def parts(self) -> Iterator[str]:
        """The sections, in order."""
        yield from self._table()
        yield from self._findings()
        yield from self._curves()
        yield from self._compared()
        yield from self._sweeps()
        yield from self._rollouts()
        yield from self._diagnostics()
        yield from self._configs()
        yield from self._commands()

    def _figure(self, figure: Figure, title: str = "") -> str:
        name = f"figure-{len(self.figures)}"
        self.figures[name] = figure
        height = (
            f" style='min-height: 0; height: {figure['layout']['height']}px'" if "height" in figure["layout"] else ""
        )
        head = f"<h3>{escape(title)}</h3>" if title else ""
        return f"<div>{head}<div class='figure' id='{name}'{height}></div></div>"

    def _label(self, entry: Entry) -> str:
        return f"<span class='chip' style='background: {self._style(entry)['color']}'></span>{escape(entry.label)}"

    def _in_words(self, entry: Entry) -> tuple[str, int, Entry]:
        """An entry with its label and place where several environments share a figure: another dash for each."""
        place = self._places[id(entry)]
        if len(self._envs) == 1:
            return entry.label, place, entry
        return f"{entry.label} in {entry.env}", place + len(figures.COLOURS) * self._envs.index(entry.env), entry

    def _style(self, entry: Entry) -> dict[str, Any]:
        return figures.style(self._places[id(entry)])

    def _in(self, env: str) -> list[Entry]:
        """The entries in an environment that its figures show."""
        entries = [entry for entry in self._entries if entry.env == env]
        ranked = sorted(entries, key=lambda entry: statistics.score(entry.final), reverse=True)[:_MOST_CURVES]
        return [entry for entry in entries if entry in ranked]

    def _table(self) -> Iterator[str]:
        rows = []
        for env, entry in ((env, entry) for env in self._envs for entry in self._entries if entry.env == env):
            one = statistics.summarize(entry.final)
            cells = console.summary_cells(one, console.decimals(one["min"], one["max"]))
            steps = entry.summary.get("env_steps") or (int(entry.eval_steps[-1]) if len(entry.eval_steps) else 0)
            speed = entry.summary.get("env_steps_per_second")
            rows.append(
                [
                    self._label(entry),
                    *map(escape, [entry.algo, env, f"{len(compare.finite(entry))} of {entry.recorded.options.seeds}"]),
                    *map(escape, cells.values()),
                    f"{steps:,}",
                    f"{speed:,.0f}" if speed else "-",
                ]
            )
        heads = ["run", "algorithm", "environment", "seeds", "IQM return", "95% interval", "median", "worst seed"]
        yield _table([*heads, "env steps", "env steps/s"], rows)
        policies = " and ".join(dict.fromkeys(entry.judged_by for entry in self._entries))
        yield _note(
            f"Returns of the {policies} policies in the final evaluation, over seeds. IQM: the mean of the middle "
            "half of the seeds, with its 95% bootstrap interval (Agarwal et al. 2021)."
        )
        for note in self._comparison.notes:
            yield _note(note)
        known = [entry.summary for entry in self._entries if "final_return" in entry.summary]
        warnings = [text for summary in known for text in console.warnings_of(summary)]
        for text in warnings[:_MOST_WARNINGS]:
            yield _note(text)
        if len(warnings) > _MOST_WARNINGS:
            yield _note(f"There are {len(warnings) - _MOST_WARNINGS} more such sentences in the runs' summary.json.")

    def _findings(self) -> Iterator[str]:
        diagnosis = doctor.of_entries(self._entries, self._random, self._diagnosed)
        rows = doctor.rows(diagnosis)
        if rows:
            yield "<h2>What is likely broken</h2>"
            yield f"<ul>{''.join(f'<li>{row}</li>' for row in rows)}</ul>"
            others = "" if self._diagnosed else " `rljax doctor` and `rljax report --doctor` also play final policies."
            yield _note(f"docs/doctor.md in rljax's repository explains each.{others}")

    def _curves(self) -> Iterator[str]:
        yield "<h2>Learning curves</h2>"
        names = [name for name in ("env steps", "episodes", "seconds") if self._has_axis(name)]
        yield _CONTROLS.format(options="".join(f"<option>{name}</option>" for name in names))
        for env in self._envs:
            entries = self._in(env)
            baseline = self._random(entries[0])
            evaluated = [(e.label, self._places[id(e)], series.evaluated(e)) for e in entries if len(e.eval_steps)]
            trained = [
                (e.label, self._places[id(e)], one) for e in entries if (one := series.training_return(e)) is not None
            ]
            quantity = f"{entries[0].judged_by} return"
            panels = []
            if evaluated:
                panels.append(self._figure(figures.curves(evaluated, quantity, baseline), f"{quantity} in {env}"))
            if trained:
                title = f"training return in {env}, with exploration"
                panels.append(self._figure(figures.curves(trained, "training return", baseline), title))
            yield f"<div class='panels'>{''.join(panels)}</div>"
            total = sum(entry.env == env for entry in self._entries)
            if total > len(entries):
                yield _note(f"Of {total} configurations in {env}, the {len(entries)} with the highest IQM are shown.")
            if baseline is None:
                yield _note(
                    f"There is no random policy's return in {env}: its code is a custom one, which is imported only "
                    "if you name it again (--env custom.py:env) or pass --trust."
                )
        yield _note(
            "Thick: the interquartile mean over seeds that were not cut short, with its 95% bootstrap interval. Thin: "
            "every seed. The training return is the mean of the episodes that ended in a window of updates. Seconds "
            "are those of all seeds together, at the run's mean speed. Click on a run in the legend to hide it; drag "
            "to zoom, double-click to return."
        )

    def _has_axis(self, name: str) -> bool:
        return all(name in series.evaluated(entry).axes for entry in self._entries)

    def _compared(self) -> Iterator[str]:
        yield "<h2>Performance profiles and comparisons</h2>"
        panels = []
        for env in self._envs:
            tasks = [
                (e.label, self._places[id(e)], [compare.finite(e)]) for e in self._in(env) if compare.finite(e).size
            ]
            if tasks:
                panels.append(self._figure(figures.profiles(tasks, "return"), f"performance profile in {env}"))
        listed = [(place, compare.listed_pairs(place)) for place in self._comparison.places]
        for place, pairs in listed:
            if pairs and not math.isnan(pairs[0].ci95[0]):
                figure, of = figures.improvement(pairs)
                panels.append(self._figure(figure, f"{of} in {place.env}"))
        yield f"<div class='panels'>{''.join(panels)}</div>"
        for place, pairs in listed:
            rows = [
                [self._label(p.first), self._label(p.second), *map(escape, compare.cells(p).values())] for p in pairs
            ]
            if rows:
                yield f"<h3>{escape(place.env)}</h3>"
                yield _table(["A", "B", *compare.cells(pairs[0])], rows)
        if any(pairs for _, pairs in listed):
            yield _note(compare.explained(listed))
        if self._comparison.scores is not None:
            yield from self._normalised(self._comparison.scores)

    def _normalised(self, found: scores.Scores) -> Iterator[str]:
        yield f"<h3>Normalised scores over {len(found.envs)} environments</h3>"
        heads, rows, caption = compare.normalised_rows(found)
        yield _table(heads, [[escape(cell) for cell in row] for row in rows])
        yield _note(caption)
        tasks = [(method, i, one) for i, (method, one) in enumerate(zip(found.methods, found.tasks, strict=True))]
        yield self._figure(figures.profiles(tasks, "normalised score"), "performance profile of normalised scores")

    def _sweeps(self) -> Iterator[str]:
        for folder, group in itertools.groupby(self._entries, key=lambda entry: entry.folder):
            entries = list(group)
            paths = [path for path in entries[0].values if len({figures.tick(e.values[path]) for e in entries}) > 1]
            if not paths:
                continue
            yield f"<h2>Sweep {escape(folder.resolve().name)}</h2>"
            if len(paths) == 1:
                yield self._figure(figures.sensitivity(paths[0], entries), f"return by {paths[0]}")
                continue
            pairs = list(itertools.combinations(paths[:_MOST_FIELDS], 2))
            panels = [
                self._figure(
                    (figures.scatter if any(figures.is_drawn(p, entries) for p in pair) else figures.heat_map)(
                        *pair, entries
                    ),
                    f"IQM return by {pair[0]} and {pair[1]}",
                )
                for pair in pairs
            ]
            yield f"<div class='panels'>{''.join(panels)}</div>"
            if len(paths) > _MOST_FIELDS:
                yield _note(f"Pairs of the first {_MOST_FIELDS} of {len(paths)} fields.")
            title = "parallel coordinates: drag along an axis to select configurations"
            yield self._figure(figures.parallel_coordinates(paths, entries), title)

    def _rollouts(self) -> Iterator[str]:
        if self._played:
            yield "<h2>Rollouts</h2>"
        for label, one in self._played.items():
            data = base64.b64encode(one.gif).decode()
            image = f"<img alt='episode of {escape(label)}' src='data:image/gif;base64,{data}'>"
            figure = self._figure(figures.actions(one.actions, one.space), f"actions of {label}")
            yield f"<div class='panels'><div><h3>{escape(label)}</h3>{image}</div>{figure}</div>"
        if self._played:
            yield _note(
                f"An episode of the best seed's final greedy policy, and its actions in {rollouts.EPISODES} episodes."
            )

    def _diagnostics(self) -> Iterator[str]:
        shown_entries = [entry for env in self._envs for entry in self._in(env)][:_MOST_CURVES]
        in_words = [self._in_words(entry) for entry in shown_entries]
        groups = diagnostics.of(in_words)
        if not groups:
            return
        yield "<h2>Diagnostics</h2>"
        if len(in_words) > 1:
            yield f"<div class='controls legend'>{''.join(_legend(label, place) for label, place, _ in in_words)}</div>"
        panels = [self._figure(figure, title) for title, figure in groups.items()]
        yield f"<div class='panels small'>{''.join(panels)}</div>"
        yield _note("The median over seeds and the middle half of the seeds, in windows of updates.")

    def _configs(self) -> Iterator[str]:
        entries = self._entries[:_MOST_COLUMNS]
        differing, same = configs.fields(entries)
        if len(entries) > 1:
            yield "<h2>Differences between the configs</h2>"
            heads = ["field", *map(self._label, entries)]
            rows = [[escape(cell) for cell in row] for row in differing]
            yield _table(heads, rows) if rows else _note("There are none.")
            if len(self._entries) > _MOST_COLUMNS:
                yield _note(f"The first {_MOST_COLUMNS} of {len(self._entries)}.")
        title = "What is the same in all configs" if len(entries) > 1 else "Config"
        rows = [[escape(cell) for cell in row] for row in same]
        yield f"<details><summary>{title}</summary>{_table(['field', 'value'], rows)}</details>"

    def _commands(self) -> Iterator[str]:
        yield "<h2>How the runs were made</h2>"
        for entry in {entry.folder: entry for entry in self._entries}.values():
            yield f"<h3>{escape(remote.named(entry.folder))}</h3><pre>{escape(configs.command(entry))}</pre>"
            about = [f"{name} {version}" for name, version in (entry.summary.get("versions") or {}).items()]
            about = [entry.summary["device"], *about] if entry.summary.get("device") else about
            yield _note(", ".join(about))


def _compared(entries: Sequence[Entry], random: Random, references: Mapping[str, float]) -> Comparison:
    """The comparison; without normalised scores, and a note, if an environment has no scale."""
    if len(entries) < 2:
        return Comparison([], None, list(compare.unfinished(entries)))
    try:
        return compare.of_entries(entries, random, references)
    except UsageError as error:
        if references:
            raise
        places = [
            compare.of_entries(same, random, {})
            for env in dict.fromkeys(entry.env for entry in entries)
            if len(same := [entry for entry in entries if entry.env == env]) > 1
        ]
        notes = [note for one in places for note in one.notes]
        why = f"There are no normalised scores. {error}"
        return Comparison([place for one in places for place in one.places], None, [*notes, why])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML."""
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in heads)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    return f"<div class='scroll'><table>{''.join(lines)}</table></div>"


def _legend(label: str, place: int) -> str:
    """A run's line and name, with a box that shows and hides its lines in the figures of metrics."""
    line = figures.style(place)
    parts = " ".join(str(length) for length in _DASHES[line["dash"]])
    drawn = f"<line x2='34' y1='4' y2='4' stroke='{line['color']}' stroke-width='3' stroke-dasharray='{parts}'/>"
    box = f"<input type='checkbox' checked value='{escape(label)}'>"
    return f"<label>{box} <svg width='34' height='8'>{drawn}</svg> {escape(label)}</label>"


def _note(text: str) -> str:
    return f"<p class='note'>{escape(text)}</p>"
