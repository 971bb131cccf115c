"""A logger for Trackio, which keeps runs in a local database: `trackio show`."""

import contextlib
import io
import os
from typing import Any

from rljax.report import files
from rljax.report.loggers import Place


class Writer:
    """Makes one Trackio run for each series, in the project `TRACKIO_PROJECT` or `rljax`."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def start(self, config: dict[str, Any]) -> None:
        import trackio

        folder = self._place.folder
        group = self._place.title if folder is None else folder.name
        with _quiet():
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "rljax"),
                name="/".join(filter(None, (group, self._place.series))),
                group=group,
                config=files.plain(config),
                resume="never",
                embed=False,
            )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        """Keep the final returns, and end the run."""
        import trackio

        final = summary.get("final_return", {})
        self._run.log({f"final/{name}": final[name] for name in ("iqm", "mean", "min", "max") if name in final})
        with _quiet():
            self._run.finish()
            if trackio.context_vars.current_run.get() is self._run:
                trackio.finish()  # or Trackio ends it again, and prints that it does, when the process ends


def _quiet() -> contextlib.redirect_stdout:
    """Drop what Trackio prints: standard output holds the run's table."""
    return contextlib.redirect_stdout(io.StringIO())
