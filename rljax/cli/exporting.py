"""`rljax export`: a run's policy as a file that runs without rljax."""

import argparse

from rljax.cli.parsing import Parser, folder_first, integer
from rljax.cli.watching import add_code, imported, start_jax
from rljax.errors import UsageError
from rljax.experiment import loading, naming, remote
from rljax.export import policy as exporting
from rljax.report import console, files


def export_parser() -> Parser:
    """The options of `rljax export`."""
    parser = Parser("rljax export RUN", "Export the greedy policy of a run to a file that runs without rljax.")
    hidden = argparse.SUPPRESS
    parser.add_argument("--format", required=True, choices=exporting.FORMATS, help="of the file")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    add_choice(parser)
    parser.add_argument(
        "--seed", type=integer, default=hidden, metavar="INT", help="its number (default: the best seed)"
    )
    add_code(parser)
    return parser


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose policies of a run."""
    hidden = argparse.SUPPRESS
    parser.add_argument(
        "--checkpoint",
        default=hidden,
        metavar="NAME",
        help="last, best or a number of updates, of a run with --keep best or --keep all (default: last)",
    )
    parser.add_argument(
        "--configuration", type=integer, default=hidden, metavar="INT", help="of a sweep (default: the best)"
    )


def checkpoint_of(text: str) -> str | int:
    """The value of `--checkpoint`."""
    try:
        return text if text in ("last", "best") else integer(text)
    except ValueError:
        raise UsageError(f"--checkpoint is last, best or a number of updates, got {text!r}.") from None


def export(arguments: list[str]) -> int:
    """Export a policy of a run."""
    parser = export_parser()
    name, rest = folder_first(parser, arguments, "rljax export runs/x --format onnx --out x.onnx")
    given = vars(parser.parse_all(rest))
    out, format = files.destination(given.pop("out"), "policy"), given.pop("format")
    named: dict[str, str] = {part: given.pop(part) for part in ("algorithm", "env") if part in given}
    trust = given.pop("trust")
    if "checkpoint" in given:
        given["checkpoint"] = checkpoint_of(given["checkpoint"])
    with remote.staged(name, writes=False) as folder:
        code = imported(folder, named, trust)
        start_jax()
        result = loading.result_of(folder, given.pop("configuration", None), **code)
        given.setdefault("seed", result.best_seed)
        written = exporting.export_policy(result, out, format, **given)
    label = f"{naming.name_of(result.algorithm)} in {result.config.env.label}"
    swept = console.configuration(result.summary)
    print(f"{' and '.join(map(str, written))}: the policy of seed {given['seed']} of {label}{swept and f', {swept}'}")
    return 0
