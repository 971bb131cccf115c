"""The rollouts of a report: in each environment, of the run with the highest returns."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.envs import Leaf
from rljax.errors import UsageError
from rljax.experiment import loading, manifest, watching
from rljax.report import console, episodes, statistics
from rljax.report.runs import Entry

EPISODES = 16  # that are played; the first one is drawn

Code = Callable[[Entry], dict[str, Any]]  # gives `algorithm` and `env` of a run of custom code, as for `load`


def with_env(env: Any) -> Code:
    """Give this environment, if it is not None, to the runs in a custom one."""
    return lambda entry: {"env": env} if env is not None and manifest.is_custom(entry.recorded) else {}


class Rollout(NamedTuple):
    """What the final greedy policy of a run's best seed does."""

    gif: bytes
    """One episode."""
    actions: np.ndarray
    """`[steps, ...]`, of all episodes played."""
    space: Leaf
    """The actions' space."""


def of_entries(entries: Sequence[Entry], code_of: Code) -> dict[str, Rollout]:
    """Rollouts of the best seed, by the label of their run. Says why there is none."""
    made = {}
    for env in dict.fromkeys(entry.env for entry in entries):
        best = max((entry for entry in entries if entry.env == env), key=lambda entry: statistics.score(entry.final))
        if not np.isfinite(best.final).any():
            continue
        try:
            configuration = None if best.recorded.sweep is None else best.configuration
            result = loading.result_of(best.folder, configuration, **code_of(best))
            (played,) = watching.played(result, result.best_seed, "last", EPISODES)
            actions = np.concatenate([episode.actions for episode in played.episodes])
            first = episodes.animate([played._replace(episodes=played.episodes[:1])])
            made[best.label] = Rollout(first.gif(), actions, played.env.action_space)
        except UsageError as error:
            console.say(f"The report has no rollout of {best.label}: {error}")
    return made
