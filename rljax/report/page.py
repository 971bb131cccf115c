"""`report.html`: one page about some runs that opens without a network."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rljax import envs
from rljax.report import bundle, compare, console, files, rollouts, runs
from rljax.report.compare import Random
from rljax.report.rollouts import Code, Rollout
from rljax.report.runs import Entry
from rljax.report.sections import Sections

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline';
 script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="text/plain" id="plotly">{library}</script>
<script type="text/plain" id="figures">{figures}</script>
<script>{script}</script>
</body>
</html>
"""


def write_report(
    *folders: str | os.PathLike[str],
    out: str | os.PathLike[str] = "report.html",
    env: Any = None,
    references: Mapping[str, float] | None = None,
    animate: bool = True,
    doctor: bool = False,
) -> pathlib.Path:
    """Write a report of runs, which are read from their folders: one HTML file that needs nothing else.

    It has learning curves with intervals and every seed, the random policy's return, comparisons, sweeps, diagnostics,
    a table, the differences between the configs, the commands that started the runs, and of the best run in
    each environment an animated episode and how often it takes each action.

    Args:
        *folders: as for `compare`; one is enough.
        out: the file to write; an earlier report there is replaced.
        env, references: as for `compare`.
        animate: play and draw the episodes, which takes a few seconds.
        doctor: also have what `doctor` finds by playing the final policies, which takes some seconds for each run.

    Returns:
        The file's path.

    Raises:
        UsageError: a folder holds no run, or the file cannot be written.
    """
    given = None if env is None else envs.make(env)
    path = files.destination(out, "report.html")
    with runs.fetched(folders) as local:
        entries = runs.read(local)
        code = rollouts.with_env(given)
        played = rollouts.of_entries(entries, code) if animate else {}
        return write(
            entries, path, compare.randoms(lambda _: given), references or {}, played, code if doctor else None
        )


def write(
    entries: Sequence[Entry],
    path: pathlib.Path,
    random: Random,
    references: Mapping[str, float],
    played: Mapping[str, Rollout] | None = None,
    diagnosed: Code | None = None,
) -> pathlib.Path:
    """Write the page about entries; see `write_report`.

    `played` has rollouts by the label of their run, and `diagnosed` gives the code of runs whose policies the doctor is
    to play.
    """
    files.write_text(path, page(entries, random, references, played or {}, diagnosed))
    return path


def page(
    entries: Sequence[Entry],
    random: Random,
    references: Mapping[str, float],
    played: Mapping[str, Rollout],
    diagnosed: Code | None = None,
) -> str:
    """The page's text."""
    made = Sections(entries, random, references, played, diagnosed)
    body = "\n".join(made.parts())
    title = ", ".join(dict.fromkeys(console.title({"algo": entry.algo, "env": entry.env}) for entry in entries))
    data = json.dumps(made.figures, allow_nan=False, separators=(",", ":"))
    return _PAGE.format(
        title=escape(title[:200]),
        style=bundle.asset("page.css"),
        script=bundle.asset("page.js"),
        body=f"<h1>{escape(title[:400])}</h1>\n{body}",
        library=bundle.library(),
        figures=bundle.packed(data.encode()),
    )
