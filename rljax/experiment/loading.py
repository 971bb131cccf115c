"""Load what a run has left in its folder: its states, metrics and policies."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import UsageError, number
from rljax.experiment import remote
from rljax.experiment.batching import latest
from rljax.experiment.combining import about, from_checkpoint, of_configuration
from rljax.experiment.results import Result
from rljax.experiment.resume import restored
from rljax.experiment.run import path_of
from rljax.report import console, files
from rljax.report.animation import Animation
from rljax.types import Policy, RecurrentPolicy


class Evaluations(NamedTuple):
    """Evaluations of S seeds during training."""

    env_steps: np.ndarray
    """Environment steps of one seed at each evaluation, `[E]`."""
    returns: np.ndarray
    """Mean returns, `[S, E]`."""
    measures: dict[str, np.ndarray]
    """Other means, `[S, E]` each: `length`, and what the environment's info declares."""


class Loaded(NamedTuple):
    """One configuration, as far as its folder has it."""

    config: Any
    states: Any
    """Stacked over seeds, `[S, ...]`: the final ones, or those of the newest checkpoint."""
    algorithm: Any
    metrics: dict[str, np.ndarray]
    """Every update's metrics, `[S, U]` for scalars."""
    evaluations: Evaluations
    summary: dict[str, Any]
    """The configuration's part of `summary.json`; final returns are NaN where a run did not end."""

    def __repr__(self) -> str:
        return f"Loaded({console.line(self.summary)})"


def load(
    folder: str | os.PathLike[str],
    *,
    configuration: int | None = None,
    algorithm: Any = None,
    config: Any = None,
    env: Any = None,
    sweep: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a run from its folder.

    Args:
        folder: the `out` given to `run`.
        configuration: which one of a sweep; by default the best in `summary.json`, or with one seed the one with the
            highest return; otherwise the first.
        algorithm, config, env, sweep: as for `resume`.

    Raises:
        UsageError: the folder holds no run, or no states yet.
    """
    result = result_of(folder, configuration, algorithm=algorithm, config=config, env=env, sweep=sweep)
    evaluations = Evaluations(result.eval_steps, result.eval_returns, result.eval_measures)
    return Loaded(result.config, result.states, result.algorithm, result.metrics, evaluations, result.summary)


def best(folder: str | os.PathLike[str], **options: Any) -> Policy | RecurrentPolicy:
    """Load the final policy of the seed with the highest final return; of a sweep, of its best configuration.

    Args:
        folder: the `out` given to `run`.
        **options: as for `load`.

    Returns:
        `(key, obs [N, ...]) -> action [N, ...]`, or a `RecurrentPolicy` if the algorithm's `act` returns one.
    """
    return result_of(folder, **options).best


def policy(
    folder: str | os.PathLike[str], seed: int, checkpoint: str | int = "last", **options: Any
) -> Policy | RecurrentPolicy:
    """Load the policy of one seed.

    Args:
        folder: the `out` given to `run`.
        seed, checkpoint: as for `Result.policy`.
        **options: as for `load`.
    """
    return result_of(folder, **options).policy(seed, checkpoint)


def watch(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    configuration: int | None = None,
    algorithm: Any = None,
    config: Any = None,
    env: Any = None,
    sweep: Mapping[str, Any] | None = None,
    **options: Any,
) -> Animation:
    """Animate the policies of a run's folder side by side, as a GIF or MP4.

    Args:
        folder: the `out` given to `run`.
        out: the file to write, if any.
        configuration, algorithm, config, env, sweep: as for `load`.
        **options: as for `Result.watch`.
    """
    result = result_of(folder, configuration, algorithm=algorithm, config=config, env=env, sweep=sweep)
    return result.watch(out, **options)


def result_of(folder: str | os.PathLike[str], configuration: int | None = None, **code: Any) -> Result:
    """The `Result` of one configuration of a run's folder, from the newest checkpoints; arguments as for `load`."""
    with remote.staged(folder, writes=False) as local:
        return _of_folder(path_of("folder", local), configuration, code)


def _of_folder(folder: pathlib.Path, configuration: int | None, parts: dict[str, Any]) -> Result:
    experiment, saved = restored(folder, trains=False, **parts)
    if configuration is None:
        configuration = _best_configuration(folder) if experiment.fields else 0
    configuration = number("configuration", configuration, integer=True)
    if not 0 <= configuration < len(experiment.points):
        raise UsageError(f"There is no configuration {configuration}: there are {len(experiment.points)}.")
    chosen = [
        batch for batch in latest(experiment, experiment.groups(), saved) if len(batch.runs.rows_of(configuration))
    ]
    trained = [from_checkpoint(experiment, batch)[0] for batch in chosen]
    result = of_configuration(experiment, trained, configuration)
    if result is None:
        which = f" of configuration {configuration}" if experiment.fields else ""
        raise UsageError(f"{folder} has no states{which} yet: `rljax resume {folder}` trains it.")
    return dataclasses.replace(result, summary={**about(experiment, trained), **result.summary})


def _best_configuration(folder: pathlib.Path) -> Any:
    """The best configuration of a finished sweep; with one seed the one with the highest return; otherwise 0."""
    path = folder / "summary.json"
    summary = files.read_json(path) if path.exists() else {}
    found = {}
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # another kind of run, or edited
        if "best" in summary:
            return summary["best"].get("configuration")
        if summary["seeds"] == 1 and "env" not in summary["fields"]:
            returns = {c["configuration"]: c["final_return"]["iqm"] for c in summary["configurations"]}
            parts = {c["configuration"]: c["updates"] / c["num_updates"] for c in summary["configurations"]}
            longest = max(parts.values())
            found = {i: float(iqm) for i, iqm in returns.items() if iqm is not None and parts[i] == longest}
    return max(found, key=lambda i: found[i], default=0)
