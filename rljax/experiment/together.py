"""One run in several processes: process 0 prints and writes, and all agree on what they train."""

import contextlib
from collections.abc import Iterator

from rljax.backend import controllers
from rljax.experiment.checkpoints import Saved
from rljax.experiment.description import describe
from rljax.experiment.spec import Experiment
from rljax.experiment.worker import identity
from rljax.report import console, files

_OWN = ("distributed", "out", "overwrite", "name", "log")  # options that may differ between processes


@contextlib.contextmanager
def together(distributed: str | None) -> Iterator[None]:
    """Run what follows with the other processes, if `distributed` says so; only process 0 says anything."""
    with controllers.together(distributed, console.say), contextlib.ExitStack() as stack:
        if not controllers.is_first():
            stack.enter_context(console.listening(lambda sentence: None))
        yield


def require_same_program(experiment: Experiment, saved: list[Saved]) -> None:
    """Refuse to train if the processes differ in anything that decides results, or in how they report.

    Raises:
        UsageError: in what they differ.
    """
    if controllers.count() == 1:
        return
    options = {name: value for name, value in vars(experiment.options).items() if name not in _OWN}
    facts = {
        **identity(),
        "algorithm": experiment.name,
        **options,
        **describe(experiment.points[0].config),
        "sweep": [point.values for point in experiment.points],
        "devices": experiment.devices,
        "checkpoints": [one.about.get("checksum") for one in saved],
    }
    controllers.require_same(files.plain(describe(facts)))
