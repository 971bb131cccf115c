"""Shared by the benchmark scripts: results on disk, types of options, and errors of one sentence."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rljax.errors import UsageError


def read(path: pathlib.Path) -> Any:
    """Read a file of results; None if it does not exist.

    Raises:
        UsageError: the file cannot be read or is not a JSON object.
    """
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): restore it from git, or delete it.") from None
    if not isinstance(results, dict) or not results:
        raise UsageError(f"{path} does not hold results: restore it from git, or delete it.")
    return results


def write(path: pathlib.Path, results: Any) -> None:
    """Write results as JSON; print them if the file cannot be written, so that they are not lost."""
    text = json.dumps(results, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        print(text)
        raise UsageError(f"{path} cannot be written ({error}): the results are printed above.") from None


def positive(text: str) -> int:
    """Parse an option as an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def folder(text: str) -> str:
    """Parse an option as a folder and create it."""
    if not text:
        raise argparse.ArgumentTypeError("a folder needs a name")
    try:
        pathlib.Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a folder: {error.strerror}") from None
    return text


def output(text: str) -> pathlib.Path:
    """Parse an option as an output file and create its folder now, not after an hour of work."""
    path = pathlib.Path(text)
    folder(str(path.parent))
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: choose a file in a writable folder")
    return path


def run(main: Callable[[list[str]], int | None], kept: str) -> NoReturn:
    """Run a script and exit with its code; `kept` says what remains after an interrupt."""
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print(f"stopped; {kept}", file=sys.stderr)
        sys.exit(130)
    except UsageError as error:
        print(f"rljax: {error}", file=sys.stderr)
        sys.exit(2)
