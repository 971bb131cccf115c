"""`rljax compare` and `rljax report`: what runs have reached."""

import argparse
from collections.abc import Callable
from typing import Any

from rljax.cli.environments import recorded_env
from rljax.cli.parsing import Parser
from rljax.cli.watching import imported, start_jax
from rljax.errors import UsageError
from rljax.experiment import manifest, remote
from rljax.report import compare as comparing
from rljax.report import files, page, rollouts, runs
from rljax.report.runs import Entry

_RUNS = "folders of runs, each as a path or NAME=PATH; what has one name belongs together in several environments"


_WHAT = {
    "compare": "Compare the returns of runs: are there enough seeds to tell them apart?",
    "report": "Write a report of runs: one HTML page that opens without a network.",
}


def parser_of(name: str) -> Parser:
    """The options of `rljax compare` or `rljax report`."""
    parser = Parser(f"rljax {name}", _WHAT[name])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=_RUNS)
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="ENV=RETURN",
        help="the return that counts as 1 in an environment, for normalised scores; may be repeated",
    )
    parser.add_argument(
        "--env",
        metavar="ENV",
        help="the environment of runs in a custom one, path/to/custom.py:name, to measure a random policy in it",
    )
    parser.add_argument(
        "--trust", action="store_true", help="import the code of custom environments that the runs' folders name"
    )
    if name == "report":
        parser.add_argument(
            "--out", default="report.html", metavar="FILE", help="the file to write (default: report.html)"
        )
        parser.add_argument(
            "--animate",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="play and draw an episode of the best run in each environment (default: yes)",
        )
        parser.add_argument(
            "--doctor", action="store_true", help="also find what is likely broken by playing the final policies"
        )
    return parser


def compare(arguments: list[str]) -> int:
    """Compare runs in the terminal."""
    given = parser_of("compare").parse_all(arguments)
    references = _references(given.reference)
    with runs.fetched(given.runs, remote.small_files) as local:
        entries = runs.read(local)
        start_jax()
        comparing.show(comparing.of_entries(entries, comparing.randoms(custom_env(given.env, given.trust)), references))
    return 0


def report(arguments: list[str]) -> int:
    """Write a report of runs."""
    given = parser_of("report").parse_all(arguments)
    path, references = files.destination(given.out, "report.html"), _references(given.reference)
    named = rollouts.with_env(given.env)
    with runs.fetched(given.runs) as local:
        entries = runs.read(local)
        start_jax()
        random = comparing.randoms(custom_env(given.env, given.trust))

        def code(one: runs.Entry) -> dict[str, Any]:
            return imported(str(one.folder), named(one), given.trust)

        played = rollouts.of_entries(entries, code) if given.animate else {}
        page.write(entries, path, random, references, played, code if given.doctor else None)
    print(f"The report is in {path}")
    return 0


def custom_env(named: str | None, trust: bool) -> Callable[[Entry], Any]:
    """Imports custom environments: the one that is named again, or with `trust` those that the folders name."""

    def env(entry: Entry) -> Any:
        recorded = manifest.reference_of(entry.recorded)
        if named is not None:
            return recorded_env([named, *(recorded or [""])[1:]])
        return recorded_env(recorded) if trust and recorded is not None else None

    return env


def _references(texts: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        env, equals, value = text.rpartition("=")
        try:
            found[env] = float(value)
        except ValueError:
            equals = ""
        if not equals or not env:
            raise UsageError(f"--reference needs an environment and a return, such as CartPole-v1=500, got {text!r}.")
    return found
