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
        from tensorboardX import FileWriter

        shutil.rmtree(self._folder, ignore_errors=True)  # of an earlier session, which is written again
        self._writer = FileWriter(str(self._folder))
        self._add_text("config", config)

    def log(self, metrics: dict[str, float], step: int) -> None:
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.summary import scalar

        # One event for all metrics: `SummaryWriter.add_scalar` writes one for each, which takes ten times as long.
        values = [value for name, number in metrics.items() for value in scalar(name, number).value]
        self._writer.add_summary(Summary(value=values), step)

    def finish(self, summary: dict[str, Any]) -> None:
        self._add_text("summary", summary)
        self._writer.close()

    def _add_text(self, tag: str, content: dict[str, Any]) -> None:
        from tensorboardX.summary import text

        self._writer.add_summary(text(tag, f"```\n{files.as_json(content)}```"), 0)
