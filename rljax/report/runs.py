"""Read what runs have left in their folders, for reports and comparisons. No code of theirs is imported."""

import contextlib
import csv
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rljax.errors import UsageError, shown
from rljax.experiment import manifest, remote
from rljax.experiment.manifest import Manifest
from rljax.report import console, files

_FOR_LEARNERS = re.compile(  # wrappers that change neither the task nor its raw returns
    r"\+(?:clip_reward|flatten_observation|frame_stack|grayscale|normalize_observations|normalize_rewards|resize)"
    r"\((?:[^()]|\([^()]*\))*\)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One configuration of a run: S seeds, evaluated E times during training."""

    folder: pathlib.Path
    label: str
    """What to call it: unique among the entries that are read together and in the same environment."""
    method: str
    """What is the same in several environments: the given name, or the algorithm's, with swept values."""
    configuration: int
    values: dict[str, Any]
    """Of swept fields, by path."""
    config: dict[str, Any]
    """As `config.json` has it, with the swept values."""
    recorded: Manifest
    summary: dict[str, Any]
    """The contents of `summary.json`; empty for a run that has not ended."""
    seeds: np.ndarray
    """Numbers of the seeds, `[S]`."""
    final: np.ndarray
    """Mean return of each seed's final evaluation, `[S]`, or of its latest one; NaN without any."""
    is_final: bool
    """False if the run has not ended, so that `final` is of the latest evaluation."""
    eval_updates: np.ndarray
    """`[E]`."""
    eval_steps: np.ndarray
    """Environment steps of one seed, `[E]`."""
    eval_returns: np.ndarray
    """`[S, E]`."""
    columns: Callable[[], dict[str, np.ndarray]]
    """Reads the columns of the metrics of all configurations, once."""

    @property
    def algo(self) -> str:
        """The algorithm's name."""
        return self.recorded.algo

    @property
    def env(self) -> str:
        """The environment that it is evaluated in, with what is changed in it except for the learner's sake."""
        evaluated = self.config["env"] if self.recorded.eval_env is None else self.recorded.eval_env["config"]
        label = evaluated["label"] if isinstance(evaluated, dict) else str(evaluated)  # a swept id
        params = {path: value for path, value in self.values.items() if path.startswith("env.params.")}
        swept = f" ({console.label(params)})" if params and self.recorded.eval_env is None else ""
        return _FOR_LEARNERS.sub("", label) + swept

    @property
    def judged_by(self) -> str:
        """What its returns are of: the greedy or the stochastic policy, or training."""
        return str(self.summary.get("eval_policy", self.recorded.options.eval_policy))

    @property
    def command(self) -> str | None:
        """The command that made the run; None for one that was started in Python."""
        return self.recorded.command

    @property
    def seconds_per_step(self) -> float:
        """Seconds per environment step of one seed, at the run's mean speed; NaN if unknown."""
        speed = self.summary.get("env_steps_per_second") or np.nan
        return self.recorded.options.seeds * _configurations(self.recorded) / speed

    @functools.cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """Every update's metrics `[S, U]`, also `update`; empty without any."""
        columns = self.columns()
        if not columns:
            return {}
        seeds = self.recorded.options.seeds
        mine = columns["run"] // seeds == self.configuration
        rows = np.searchsorted(self.seeds, columns["run"][mine] % seeds)
        updates, places = np.unique(columns["update"][mine], return_inverse=True)
        known = (rows < len(self.seeds)) & np.isin(columns["run"][mine] % seeds, self.seeds)

        def pivoted(column: np.ndarray) -> np.ndarray:
            table = np.full((len(self.seeds), len(updates)), np.nan)
            table[rows[known], places[known]] = column[mine][known]
            return table

        skipped = ("run", "configuration", "seed")
        return {name: pivoted(column) for name, column in columns.items() if name not in skipped}


@contextlib.contextmanager
def fetched(
    given: Sequence[str | os.PathLike[str]], wanted: remote.Wanted = remote.everything
) -> Iterator[list[str | os.PathLike[str]]]:
    """The same runs, with copies of those that are at URLs: of their wanted files."""
    with contextlib.ExitStack() as stack:
        yield [_fetched(one, stack, wanted) for one in given]


def _fetched(
    given: str | os.PathLike[str], stack: contextlib.ExitStack, wanted: remote.Wanted
) -> str | os.PathLike[str]:
    if not isinstance(given, str) or "://" not in given:
        return given
    name, equals, place = given.partition("=")
    if "://" in name:  # a URL with = in it
        name, equals, place = "", "", given
    return f"{name}{equals}{stack.enter_context(remote.staged(place, writes=False, wanted=wanted))}"


def read(given: Sequence[str | os.PathLike[str]]) -> list[Entry]:
    """Read runs from their folders, each as a path or `NAME=PATH`; every configuration of a sweep is an entry.

    Raises:
        UsageError: there is none, one is given twice, or a folder holds no run or a damaged one.
    """
    if not given:
        raise UsageError("Name the folder of at least one run, such as runs/x.")
    named = [_named(one) for one in given]
    folders = [folder for _, folder in named]
    for i, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:i]]:
            raise UsageError(f"{folder} is given twice: name every run once.")
    entries = [entry for name, folder in named for entry in _entries(folder, name, _short(folder, folders))]
    seen = set()
    for entry in entries:
        if (entry.label, entry.env) in seen:
            raise UsageError(
                f"Two runs in {entry.env} are named {entry.label}: give them different names, NAME=FOLDER."
            )
        seen.add((entry.label, entry.env))
    return entries


def _named(given: str | os.PathLike[str]) -> tuple[str, pathlib.Path]:
    """The name and the folder of `NAME=FOLDER`, or of a folder."""
    if not isinstance(given, str | os.PathLike) or not os.fspath(given) or "\0" in str(given):
        raise UsageError(f"A run is named by its folder, such as runs/x, got {shown(given)}.")
    name, equals, rest = str(given).partition("=")
    if not equals or os.path.isdir(given):
        return "", pathlib.Path(given)
    if not name or not rest:
        raise UsageError(f"A run has a name and a folder, such as big=runs/x, got {shown(given)}.")
    return name, pathlib.Path(rest)


def _short(folder: pathlib.Path, folders: Sequence[pathlib.Path]) -> str:
    """The folder's name, or its path if another one has the same name."""
    names = [pathlib.PurePath(remote.named(other.resolve())).name for other in folders]
    name = names[folders.index(folder)]
    return name if names.count(name) == 1 else remote.named(folder)


def _configurations(recorded: Manifest) -> int:
    return 1 if recorded.sweep is None else len(recorded.sweep)


def _entries(folder: pathlib.Path, name: str, short: str) -> list[Entry]:
    if not os.path.isdir(folder):  # False for a name that is too long, where pathlib raises
        raise UsageError(f"There is no folder {folder}: name the folder of a run, such as runs/x.")
    recorded = manifest.read(folder)
    summary = files.read_json(folder / "summary.json") if (folder / "summary.json").exists() else {}
    try:
        parts = {part["configuration"]: part for part in summary.get("configurations", [])}
        parts = parts or ({0: summary} if "final_return" in summary else {})
        curves = _curves(folder / "curves.csv", recorded)
        columns = functools.cache(functools.partial(_metrics, folder))
        found = [
            entry
            for configuration, values in enumerate(recorded.sweep or [{}])
            if (entry := _entry(folder, name, short, recorded, summary, parts, curves, columns, configuration, values))
        ]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"{folder} has a summary.json or curves.csv that rljax did not write ({shown(error)}): restore them."
        ) from error
    if not found:
        raise UsageError(f"{folder} has no evaluations yet: wait for the first one, or resume the run.")
    return found


_Curves = dict[int, tuple[np.ndarray, ...]]  # seeds [S], updates [E], env steps [E], returns [S, E]


def _entry(
    folder: pathlib.Path,
    name: str,
    short: str,
    recorded: Manifest,
    summary: dict[str, Any],
    parts: Mapping[int, dict[str, Any]],
    curves: _Curves,
    columns: Callable[[], dict[str, np.ndarray]],
    configuration: int,
    values: dict[str, Any],
) -> Entry | None:
    """One configuration; None if none of its runs has begun."""
    if configuration not in parts and configuration not in curves:
        return None
    part = parts.get(configuration)
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0))
    seeds, updates, steps, returns = curves.get(configuration, empty)
    if part is None:
        latest = [row[np.isfinite(row)][-1:] for row in returns]
        final = np.array([row[0] if len(row) else np.nan for row in latest])
    else:
        final = np.array([np.nan if x is None else x for x in part["final_return"]["per_seed"]], np.float64)
        if len(seeds) != len(final):
            seeds, returns = np.arange(len(final)), np.full((len(final), 0), np.nan)
            updates, steps = updates[:0], steps[:0]
    of_values = console.label(values)
    others = console.label({path: value for path, value in values.items() if path.partition(".")[0] != "env"})
    first = name or short
    return Entry(
        folder=folder,
        label=f"{first}: {of_values}" if values else first,
        method=f"{name or recorded.algo}: {others}" if others else name or recorded.algo,
        configuration=configuration,
        values=values,
        config=_with(recorded.config, values),
        recorded=recorded,
        summary={**summary, **(part or {})},
        seeds=seeds,
        final=final,
        is_final=part is not None,
        eval_updates=updates,
        eval_steps=steps,
        eval_returns=returns,
        columns=columns,
    )


def _with(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A described config with other values at these paths."""
    changed = dict(config)
    for path, value in values.items():
        first, _, rest = path.partition(".")
        inner = changed.get(first)
        if rest and isinstance(inner, dict):
            changed[first] = _with(inner, {rest: value})
        else:  # a part that is not described by names, such as a tuple
            changed[path] = value
    return changed


def _curves(path: pathlib.Path, recorded: Manifest) -> _Curves:
    """The evaluations of each configuration, from `curves.csv`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    swept = list((recorded.sweep or [{}])[0])
    first = 1 + len(swept) if swept else 0  # fields may have the names of later columns
    place = {name: first + head[first:].index(name) for name in ("seed", "update", "env_steps", "return")}
    by_configuration: dict[int, list[list[str]]] = {}
    for row in rows:
        by_configuration.setdefault(int(row[0]) if swept else 0, []).append(row)

    def table(rows: list[list[str]]) -> tuple[np.ndarray, ...]:
        seed, update, steps = (np.array([int(row[place[name]]) for row in rows]) for name in list(place)[:3])
        seeds, at_seed = np.unique(seed, return_inverse=True)
        updates, at_update = np.unique(update, return_inverse=True)
        returns, env_steps = np.full((len(seeds), len(updates)), np.nan), np.zeros(len(updates), np.int64)
        returns[at_seed, at_update] = [float(row[place["return"]] or "nan") for row in rows]
        np.maximum.at(env_steps, at_update, steps)
        return seeds, updates, env_steps, returns

    return {configuration: table(rows) for configuration, rows in by_configuration.items()}


def _metrics(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns of `metrics.csv`, or of the Parquet files."""
    path, parts = folder / "metrics.csv", sorted((folder / "metrics").glob("*.parquet"))
    try:
        if parts:
            return _parquet(parts)
        if not path.exists():
            return {}
        head, *lines = path.read_text(encoding="utf-8").split("\n")
        names = head.split(",")
        rows = np.loadtxt(lines[:-1], delimiter=",", ndmin=2)  # the last line is empty, or is being written
    except (OSError, ValueError) as error:
        raise UsageError(f"The metrics of {folder} cannot be read ({shown(error)}): restore them.") from None
    if rows.size and rows.shape[1] != len(names):
        raise UsageError(f"{path} has rows of {rows.shape[1]} numbers and {len(names)} names: restore it.")
    return {name: rows[:, i] for i, name in enumerate(names)} if rows.size else {}


def _parquet(parts: Sequence[pathlib.Path]) -> dict[str, np.ndarray]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f"{parts[0].parent} has Parquet files: pip install pyarrow reads them.") from None
    whole = pyarrow.concat_tables(map(parquet.read_table, parts), promote_options="default")
    return {name: whole[name].to_numpy().astype(np.float64) for name in whole.column_names}
