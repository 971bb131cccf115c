"""A logger for Weights & Biases; `WANDB_MODE=offline` writes into the run's folder without a network."""

import zlib
from typing import Any

from rljax.report import files
from rljax.report.loggers import Place


class Writer:
    """Makes one W&B run for each series, in the project `WANDB_PROJECT` or `rljax`, grouped by the experiment."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def start(self, config: dict[str, Any]) -> None:
        import wandb

        place = self._place
        where = None if place.folder is None else str(place.folder.absolute())
        group = place.title if place.folder is None else place.folder.name
        # A resumed run continues under the same id, and its numbers are sent again from the start.
        identity = None if where is None else f"{zlib.crc32(f'{where}/{place.series}'.encode()):08x}"
        self._run = wandb.init(
            project=None if wandb.setup().settings.project else "rljax",
            dir=where,
            id=identity,
            resume=None if identity is None else "allow",
            name=place.series or group,
            group=group,
            config=files.plain(config),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        self._run.summary.update(files.plain(summary))
        self._run.finish()
