"""Compare runs: are there enough seeds to tell them apart, and if not, how many would it take?"""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax import envs
from rljax.errors import UsageError, number, shown
from rljax.experiment import manifest, remote
from rljax.report import console, runs, scores, statistics
from rljax.report.known_returns import RANDOM
from rljax.report.runs import Entry
from rljax.report.scores import Scores
from rljax.report.statistics import MIN_SEEDS, POWER, Difference

LEVEL = 0.05  # of all comparisons in an environment together
_MOST_ENTRIES = 20  # that are compared in an environment: the best ones
_MOST_PAIRS = 10  # that are listed; of more, those with the best run
_MOST_SEEDS = 1_000_000  # that are worth a number

EXPLANATION = (
    "p: of a permutation test, corrected for the number of pairs (Holm 1979). Could show: the smallest difference that "
    f"so many seeds show with a power of {POWER:.0%}. More seeds: of each run, to show the observed difference so."
)

Random = Callable[[Entry], float | None]  # the random policy's return in an entry's environment, if it is known


class Pair(NamedTuple):
    """Two runs in one environment."""

    first: Entry
    second: Entry
    is_paired: bool
    """True if both have the same seeds, so that these are compared in pairs."""
    found: Difference
    p: float
    """Of the test, corrected for the number of pairs in the environment (Holm 1979)."""
    probability: float
    """That the first improves on the second."""
    ci95: tuple[float, float]

    @property
    def can_tell(self) -> bool:
        """True if there are enough seeds to tell which one is higher."""
        return self.p < LEVEL

    @property
    def more_seeds(self) -> float:
        """Further seeds of each run that would show the observed difference; infinite if it is 0."""
        if self.can_tell:
            return 0
        return max(self.found.seeds - min(len(finite(self.first)), len(finite(self.second))), 1)


class Place(NamedTuple):
    """An environment, and the runs in it from the highest IQM down."""

    env: str
    entries: list[Entry]
    pairs: list[Pair]
    """The first of each has the higher IQM."""


class Comparison(NamedTuple):
    """Runs that were compared; printed as tables."""

    places: list[Place]
    scores: Scores | None
    """Normalised scores, if there are several environments and a method that was run in all of them."""
    notes: list[str]

    def __repr__(self) -> str:
        return "\n".join(_texts(self))


def compare(
    *folders: str | os.PathLike[str], env: Any = None, references: Mapping[str, float] | None = None
) -> Comparison:
    """Compare the final returns of runs, which are read from their folders.

    Runs with the same seeds are compared in pairs. Runs in several environments are also compared by normalised
    scores, 0 for a random policy and 1 for a reference, aggregated as in Agarwal et al. 2021.

    Args:
        *folders: of runs, each as a path or `NAME=PATH`; runs of one name, or of one algorithm, belong together in
            several environments. The configurations of a sweep are compared like runs.
        env: the environment of runs in a custom one, to measure a random policy in it.
        references: returns that count as 1, by environment.

    Raises:
        UsageError: a folder holds no run, there is only one, or an environment has no reference.
    """
    given = None if env is None else envs.make(env)
    with runs.fetched(folders, remote.small_files) as local:
        return of_entries(runs.read(local), randoms(lambda _: given), references or {})


def randoms(custom: Callable[[Entry], Any]) -> Random:
    """The random policy's return in an entry's environment: the known one, or measured once in each.

    Args:
        custom: gives the environment of an entry in a custom one, or None if its code is missing.
    """
    measured: dict[str, float | None] = {}

    def of(entry: Entry) -> float | None:
        is_custom = manifest.is_custom(entry.recorded)
        if entry.env in RANDOM and not is_custom:
            return RANDOM[entry.env]
        if entry.env not in measured:
            env = custom(entry) if is_custom else None
            try:
                made = manifest.env_of(entry.recorded, entry.configuration, env)
            except UsageError:
                if env is not None:
                    raise
                measured[entry.env] = None  # a custom one
            else:
                measured[entry.env] = scores.random_return(made)
        return measured[entry.env]

    return of


def finite(entry: Entry) -> np.ndarray:
    """The finite final returns of an entry."""
    return entry.final[np.isfinite(entry.final)]


def of_entries(entries: Sequence[Entry], random: Random, references: Mapping[str, float]) -> Comparison:
    """Compare entries; see `compare`."""
    if not isinstance(references, Mapping):
        raise UsageError(f"references must be a dict such as {{'CartPole-v1': 500}}, got {shown(references)}.")
    references = {env: number(f"The reference of {env}", value) for env, value in references.items()}
    if len(entries) < 2:
        raise UsageError("Name at least two runs to compare, such as runs/x runs/y.")
    notes = list(unfinished(entries))
    known = [entry for entry in entries if len(finite(entry))]
    notes += [f"{entry.label} has no finite return and is left out." for entry in entries if not len(finite(entry))]
    policies = {(entry.env, entry.judged_by) for entry in known}
    if len(policies) > len({env for env, _ in policies}):
        notes.append("Some runs evaluate greedy and some stochastic policies, whose returns differ.")
    places = [
        _place(env, [entry for entry in known if entry.env == env], notes)
        for env in dict.fromkeys(entry.env for entry in known)
    ]
    found = None
    if len(places) > 1:
        measured = {}
        for place in places:
            if scores.human(place.env) is None and (value := random(place.entries[0])) is not None:
                measured[place.env] = value
        found = scores.normalised(known, measured, references)
        if found.left_out:
            notes.append(f"Not in all environments, and so without a normalised score: {', '.join(found.left_out)}.")
        if any(len(task) < len(finite(entry)) for entry, task in _tasks_of(known, found)):
            notes.append("Of a method with different numbers of seeds, only the smallest number counts in its score.")
    elif references:
        raise UsageError("References are for runs in several environments: leave them out.")
    return Comparison(places, found if found is None or found.methods else None, notes)


def _tasks_of(entries: Sequence[Entry], found: Scores) -> Iterator[tuple[Entry, np.ndarray]]:
    for entry in entries:
        if entry.method in found.methods:
            yield entry, found.tasks[found.methods.index(entry.method)][found.envs.index(entry.env)]


def unfinished(entries: Sequence[Entry]) -> Iterator[str]:
    """A sentence about every run whose returns are not those of its end."""
    for entry in entries:
        if not entry.is_final:
            yield f"{entry.label} has not ended: its returns are those of its latest evaluation."
        elif entry.summary.get("interrupted"):
            yield f"{entry.label} was stopped before its end: its returns are those that it had reached."


def _place(env: str, entries: list[Entry], notes: list[str]) -> Place:
    ranked = sorted(entries, key=lambda entry: statistics.score(entry.final), reverse=True)
    if len(ranked) > _MOST_ENTRIES:
        notes.append(f"Of {len(ranked)} in {env}, the {_MOST_ENTRIES} with the highest IQM are compared.")
        ranked = ranked[:_MOST_ENTRIES]
    couples = list(itertools.combinations(ranked, 2))
    sides = [_sides(*couple) for couple in couples]
    found = [statistics.difference(*side) for side in sides]
    corrected = statistics.holm([one.p for one in found])
    pairs = [
        Pair(
            *couple,
            is_paired=is_paired,
            found=one,
            p=p,
            probability=statistics.probability_of_improvement(left, right),
            ci95=statistics.improvement_interval(left, right, is_paired=is_paired),
        )
        for couple, (left, right, is_paired), one, p in zip(couples, sides, found, corrected, strict=True)
    ]
    return Place(env, ranked, pairs)


def _sides(first: Entry, second: Entry) -> tuple[np.ndarray, np.ndarray, bool]:
    """The finite returns of two entries, in pairs if both have the same seeds."""
    same_key = first.recorded.options.seed == second.recorded.options.seed
    if same_key and np.array_equal(first.seeds, second.seeds) and len(first.seeds) > 1:
        both = np.isfinite(first.final) & np.isfinite(second.final)
        if both.sum() > 1:
            return first.final[both], second.final[both], True
    return finite(first), finite(second), False


def show(comparison: Comparison) -> None:
    """Print a comparison to standard output."""
    from rich.text import Text

    def draw(terminal: Any) -> None:
        for part in _parts(comparison):
            terminal.print(Text(part) if isinstance(part, str) else part)

    console.print_with(draw)


def _texts(comparison: Comparison) -> Iterator[str]:
    from rich.console import Console

    terminal = Console(width=120, force_jupyter=False)
    for part in _parts(comparison):
        with terminal.capture() as output:
            terminal.print(part)
        yield output.get().rstrip("\n")


def _parts(comparison: Comparison) -> Iterator[Any]:
    """Tables and sentences, in order."""
    for place in comparison.places:
        yield _returns(place)
        if place.pairs:
            listed = listed_pairs(place)
            yield _pairs(place, listed)
            yield from (sentence(pair) for pair in listed if len(listed) <= 3)
    if comparison.scores is not None:
        yield _normalised(comparison.scores)
    yield from comparison.notes


def listed_pairs(place: Place) -> list[Pair]:
    """The pairs to list: all of them, or if they are many those with the best run."""
    if len(place.pairs) <= _MOST_PAIRS:
        return place.pairs
    return [pair for pair in place.pairs if pair.first is place.entries[0]]


def _made(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table


def _returns(place: Place) -> Any:
    quantity = console.quantity({"eval_policy": place.entries[0].judged_by})
    table = _made(
        f"{quantity.capitalize()} in {place.env}", "run", "seeds", "IQM", "95% interval", "median", "worst seed"
    )
    summaries = [statistics.summarize(entry.final) for entry in place.entries]
    places = console.decimals(*(one[end] for one in summaries for end in ("min", "max")))
    for entry, one in zip(place.entries, summaries, strict=True):
        table.add_row(entry.label, str(len(finite(entry))), *console.summary_cells(one, places).values())
    return table


def explained(listed: Sequence[tuple[Place, Sequence[Pair]]]) -> str:
    """What the columns of pairs mean, and which pairs are listed."""
    some = any(len(pairs) < len(place.pairs) for place, pairs in listed)
    return EXPLANATION + " Each run is compared with the one with the highest IQM." * some


def _pairs(place: Place, listed: Sequence[Pair]) -> Any:
    table = _made(
        "Differences of the IQM, and probabilities of improvement P(A > B), with 95% intervals",
        *("A", "B", "A - B", "P(A > B)", "p", "enough seeds?", "could show", "more seeds"),
    )
    table.caption = explained([(place, listed)])
    for pair in listed:
        table.add_row(pair.first.label, pair.second.label, *cells(pair).values())
    return table


def cells(pair: Pair) -> dict[str, str]:
    """The numbers of a pair as text, by column."""
    one, shown = pair.found, console.decimals(*pair.first.final, *pair.second.final)
    enough = "yes" if pair.can_tell else "no"
    return {
        "A - B": f"{one.difference:.{shown}f}{_interval(one.ci95, shown)}",
        "P(A > B)": f"{pair.probability:.2f}{_interval(pair.ci95, 2)}",
        "p": _p(pair.p),
        "enough seeds?": f"{enough}{', in pairs' if pair.is_paired else ''}",
        "could show": "-" if math.isnan(one.smallest) else f"{one.smallest:.{shown}f}",
        "more seeds": _more(pair),
    }


def _more(pair: Pair) -> str:
    if pair.can_tell:
        return "0"
    if math.isnan(pair.found.seeds):
        return f"needs {MIN_SEEDS} seeds"
    return f"{pair.more_seeds:,.0f}" if pair.more_seeds <= _MOST_SEEDS else "over a million"


def _interval(ends: tuple[float, float], places: int) -> str:
    return "" if math.isnan(ends[0]) else f" ({ends[0]:.{places}f} to {ends[1]:.{places}f})"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def sentence(pair: Pair) -> str:
    """Whether there are enough seeds to tell two runs apart, and if not how many it would take."""
    one, shown = pair.found, console.decimals(*pair.first.final, *pair.second.final)
    names = f"{pair.first.label} and {pair.second.label}"
    counts = sorted({len(finite(pair.first)), len(finite(pair.second))}, reverse=True)
    seeds = f"{' and '.join(map(str, counts))} seeds are"
    if pair.can_tell:
        better = "better than" if one.difference > 0 else "different from"
        return f"{seeds} enough to tell: {pair.first.label} is {better} {pair.second.label} (p {_p(pair.p)})."
    if math.isnan(one.seeds):
        return f"{seeds} too few to compare {names}: train at least {MIN_SEEDS} of each."
    start = f"{seeds} not enough to tell {names} apart: they could show a difference of {one.smallest:.{shown}f}"
    if one.seeds > _MOST_SEEDS:
        return f"{start}, and no feasible number could show the observed one."
    return f"{start}, and the observed {one.difference:.{shown}f} would take about {pair.more_seeds:,.0f} more of each."


def normalised_rows(found: Scores) -> tuple[list[str], list[list[str]], str]:
    """The table of normalised scores: its heads, its rows, and what the scores mean."""
    rows = []
    for i, (tasks, (middle, ends)) in enumerate(zip(found.tasks, scores.aggregate(found), strict=True)):
        others = [scores.improvement(tasks, other) for j, other in enumerate(found.tasks) if j != i]
        interval = f"needs {MIN_SEEDS} seeds" if math.isnan(ends[0]) else f"{ends[0]:.3f} to {ends[1]:.3f}"
        better = f"{np.mean(others):.2f}" if others else "-"
        rows.append([found.methods[i], f"{len(tasks)} x {len(tasks[0])}", f"{middle:.3f}", interval, better])
    scales = zip(found.envs, found.scales, strict=True)
    caption = "; ".join(f"{env}: 0 is {zero:.4g}, 1 is {one:.4g}" for env, (zero, one) in scales)
    return ["method", "runs", "IQM", "95% interval", "P(> others)"], rows, f"{caption}."


def _normalised(found: Scores) -> Any:
    heads, rows, caption = normalised_rows(found)
    table = _made(f"Normalised scores over {len(found.envs)} environments", *heads)
    table.caption = caption
    for row in rows:
        table.add_row(*row)
    return table
