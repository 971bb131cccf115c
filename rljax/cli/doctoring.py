"""`rljax doctor`: what is likely broken in runs."""

import argparse
from typing import Any

from rljax.cli.parsing import Parser
from rljax.cli.reporting import custom_env
from rljax.cli.watching import add_code, imported, start_jax
from rljax.report import compare, runs
from rljax.report import doctor as doctoring


def doctor_parser() -> Parser:
    """The options of `rljax doctor`."""
    parser = Parser("rljax doctor", "Find what is likely broken in runs: each finding with its numbers and a remedy.")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folders of runs, each as a path or NAME=PATH")
    parser.add_argument(
        "--play",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also play the final policies, and compare their parameters with the initial ones (default: yes)",
    )
    add_code(parser)
    return parser


def doctor(arguments: list[str]) -> int:
    """Print what is likely broken in runs."""
    given = doctor_parser().parse_all(arguments)
    named: dict[str, str] = {part: getattr(given, part) for part in ("algorithm", "env") if hasattr(given, part)}

    def code(entry: Any) -> dict[str, Any]:
        return imported(str(entry.folder), named, given.trust)

    random = compare.randoms(custom_env(named.get("env"), given.trust))
    with runs.fetched(given.runs) as local:
        entries = runs.read(local)
        start_jax()
        doctoring.show(doctoring.of_entries(entries, random, code if given.play else None))
    return 0
