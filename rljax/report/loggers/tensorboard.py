"""A logger for TensorBoard: `tensorboard --logdir FOLDER/tensorboard`."""

import shutil
from typing import Any

from rljax.report import files
from rljax.report.loggers import Place


class Writer:
    """Writes event files into `tensorboard/`, in a subfolder for each series."""

    def __init__(self, place: Place) -> None:
        self._folder = place.path("tensorboard")

    def start(self, config: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        shutil.rmtree(self._folder, ignore_errors=True)  # of an earlier session, which is written again
        self._writer = SummaryWriter(str(self._folder))
        self._writer.add_text("config", f"```\n{files.as_json(config)}```", 0)

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, summary: dict[str, Any]) -> None:
        self._writer.add_text("summary", f"```\n{files.as_json(summary)}```", 0)
        self._writer.close()
