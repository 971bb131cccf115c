"""The animated rollouts of a report: in each environment, of the run with the highest returns."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.experiment import loading, manifest
from rljax.report import console, statistics
from rljax.report.runs import Entry

Code = Callable[[Entry], dict[str, Any]]  # gives `algorithm` and `env` of a run of custom code, as for `load`


def with_env(env: Any) -> Code:
    """Give this environment, if it is not None, to the runs in a custom one."""
    return lambda entry: {"env": env} if env is not None and manifest.is_custom(entry.recorded) else {}


def of_entries(entries: Sequence[Entry], code_of: Code) -> dict[str, bytes]:
    """GIFs of one episode of the best seed, by the label of their run. Says why there is none."""
    made = {}
    for env in dict.fromkeys(entry.env for entry in entries):
        best = max((entry for entry in entries if entry.env == env), key=lambda entry: statistics.score(entry.final))
        if not np.isfinite(best.final).any():
            continue
        try:
            configuration = None if best.recorded.sweep is None else best.configuration
            result = loading.result_of(best.folder, configuration, **code_of(best))
            made[best.label] = result.watch(seeds=result.best_seed).gif()
        except UsageError as error:
            console.say(f"The report has no rollout of {best.label}: {error}")
    return made
