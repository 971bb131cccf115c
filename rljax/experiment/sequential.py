"""Train an experiment; with `until`, more and more seeds of it, until the interval of its IQM is narrow enough."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.experiment import checkpoints, folders, manifest, trainer
from rljax.experiment.checkpoints import Saved
from rljax.experiment.cluster import Connection
from rljax.experiment.outlets import Callback
from rljax.experiment.results import Result, Sweep
from rljax.experiment.spec import Experiment
from rljax.report import console, files, sequential


def train(
    experiment: Experiment,
    saved: list[Saved],
    callbacks: Sequence[Callback] = (),
    connection: Connection | None = None,
) -> Result | Sweep:
    """Train all batches as `trainer.train` does, and then those of further seeds that `until` asks for.

    The seeds trained so far are read from the folder, so that a stopped run resumes to the same seeds and results.
    """
    result = trainer.train(experiment, saved, callbacks, connection)
    until, folder = experiment.options.until, experiment.folder
    if until is None or folder is None or not isinstance(result, Result):
        return result
    for look, (seeds, following) in enumerate(itertools.pairwise([*sequential.looks(), None]), start=1):
        assert seeds is not None
        if seeds < experiment.options.seeds:  # looked at before the run was resumed
            continue
        about = _look(result, until, look)
        _report(result, folder, about)
        if about["is_reached"] or result.summary["interrupted"]:
            break
        if following is None:
            console.say(f"Stopped at {seeds:,} seeds: the interval is not as narrow as until={until!r} asks for.")
            break
        if experiment.options.progress:
            low, high = about["interval"]
            console.say(f"{seeds} seeds: the IQM is in {low:.5g} to {high:.5g}; training up to {following} seeds.")
        experiment = dataclasses.replace(experiment, options=dataclasses.replace(experiment.options, seeds=following))
        manifest.update(folder, seeds=following)
        again = trainer.train(experiment, checkpoints.load(folder), callbacks, connection)
        assert isinstance(again, Result)
        result = again
    return result


def _look(result: Result, until: str, look: int) -> dict[str, Any]:
    """What the seeds so far give, for `summary.json`."""
    final = np.array(result.summary["final_return"]["per_seed"], float)
    values = final[np.isfinite(final)]
    ends = sequential.interval(values, look) if len(values) else (-np.inf, np.inf)
    is_reached = bool(len(values)) and sequential.is_reached(values, ends, until)
    return {"until": until, "look": look, "interval": [float(end) for end in ends], "is_reached": is_reached}


def _report(result: Result, folder: Any, about: dict[str, Any]) -> None:
    result.summary["sequential"] = about
    folders.require_same(folder)
    files.write_json(folder / "summary.json", result.summary)
