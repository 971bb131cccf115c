"""The command line: `rljax train`, `resume`, `report`, `doctor`, `watch` and the other commands below."""

import os
import signal
import sys

from rljax.backend import controllers, versions
from rljax.cli import bench, completing, describing, doctoring, evaluating, exporting, reporting, training, watching
from rljax.cli.parsing import Parser
from rljax.errors import UsageError, located, user_line
from rljax.experiment import signals
from rljax.report import console

_COMMANDS = {
    "train": (training.train, "train many seeds and write the results: rljax train ALGO --env ENV [options]"),
    "resume": (training.resume, "resume a stopped run from its checkpoints: rljax resume FOLDER"),
    "compare": (reporting.compare, "compare runs: are there enough seeds to tell them apart? rljax compare RUN RUN"),
    "report": (reporting.report, "write a page with curves, comparisons and diagnostics: rljax report RUN [RUN ...]"),
    "doctor": (doctoring.doctor, "find what is likely broken in a run: rljax doctor RUN [RUN ...]"),
    "eval": (evaluating.evaluate, "evaluate the policies of a run again: rljax eval RUN --episodes 1000"),
    "export": (exporting.export, "export a policy to a file that runs without rljax: rljax export RUN --format onnx"),
    "watch": (watching.watch, "animate the policies of a run: rljax watch RUN --out policy.gif"),
    "playground": (watching.play, "compare random, heuristic and trained policies: rljax playground --out DIR"),
    "describe": (describing.describe, "print the layers, shapes and numbers of parameters of an algorithm's networks"),
    "envs": (describing.envs, "list the environments, or describe one: rljax envs [ENV]"),
    "algos": (describing.algos, "list the algorithms, and the environments they have tuned values for"),
    "completion": (completing.completion, "print a script that completes commands and options: bash or zsh"),
    "bench": (bench.bench, "measure speed and learning: rljax bench [NAME]"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command line, and return its exit code; see `_main`."""
    code = _main(sys.argv[1:] if arguments is None else arguments)
    if code in (1, 2):
        controllers.end_after_error(code)
    return code


def _main(arguments: list[str]) -> int:
    """Run a command line; the exit code is 0, 2 for a `UsageError`, 1 for another error, 141 for a closed pipe.

    For a signal it is 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
    """
    _prepare_streams()
    try:
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()
    except OSError as error:
        if user_line(error) is not None and not isinstance(error, BrokenPipeError):
            console.say(_with_notes(f"{located(error)}.", error))
            return 1
        # Of standard output: those of files are `UsageError`s.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return 128 + signal.SIGPIPE
        console.say(f"{error.filename or 'Standard output'} cannot be written ({error.strerror or error}).")
        return 1
    except UsageError as error:
        for mistake in _with_notes(str(error), error).splitlines():
            console.say(mistake)
        return 2
    except Exception as error:
        if user_line(error) is None:
            raise
        console.say(_with_notes(f"{located(error)}.", error))
        return 1
    except KeyboardInterrupt as interrupt:
        console.say(str(interrupt) or "Interrupted.")
        return 128 + getattr(interrupt, "signal", signal.SIGINT)
    finally:
        signals.ignore()


def _with_notes(sentence: str, error: Exception) -> str:
    notes = [note for note in getattr(error, "__notes__", []) if "\n" not in note]  # JAX's have many lines
    return " ".join([sentence, *notes])


def _prepare_streams() -> None:
    """Open streams that are closed, so that no file gets their numbers, and print any name in any encoding."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        stream = getattr(sys, name)
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="backslashreplace")


def _dispatch(arguments: list[str]) -> int:
    parser = Parser("rljax")
    parser.add_argument("--version", action="store_true", help="print the installed versions, for a bug report")
    listed = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, (_, text) in _COMMANDS.items():
        listed.add_parser(name, help=f"{text}; see rljax {name} --help", add_help=False)
    parsed = parser.parse_args(arguments[:1])
    if parsed.version:
        print(", ".join(f"{name} {version}" for name, version in versions.versions().items()))
        return 0
    if parsed.command is None:
        parser.print_help()
        return 2
    try:
        return _COMMANDS[parsed.command][0](arguments[1:])
    except SystemExit as end:
        if end.code:
            raise
        return 0  # argparse's, after the help
