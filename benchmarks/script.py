"""What the benchmarks' scripts share: results on disk, options that can be refused, and an end in one sentence."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rljax.errors import UsageError


def read(path: pathlib.Path) -> Any:
    """What a file of results holds, None where there is none.

    Raises:
        UsageError: it cannot be read, or is not an object of JSON.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): take it from git again, or delete it.") from None
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{path} does not hold results: take it from git again, or delete it.")
    return found


def write(path: pathlib.Path, results: Any) -> None:
    """Write results as JSON; where that cannot be, they are printed, so that they are not lost."""
    text = json.dumps(results, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        print(text)
        raise UsageError(f"{path} cannot be written ({error}): the results are printed above.") from None


def positive(text: str) -> int:
    """An option's whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def folder(text: str) -> str:
    """An option's folder, made now."""
    if not text:
        raise argparse.ArgumentTypeError("a folder needs a name")
    try:
        pathlib.Path(text).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a folder: {error.strerror}") from None
    return text


def output(text: str) -> pathlib.Path:
    """An option's file to be written, whose folder is made now and not after an hour of work."""
    path = pathlib.Path(text)
    folder(str(path.parent))
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: name a file in a folder of yours")
    return path


def run(main: Callable[[list[str]], int | None], kept: str) -> NoReturn:
    """A script from its arguments to its exit code; `kept` says what an interrupt leaves behind."""
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print(f"stopped; {kept}", file=sys.stderr)
        sys.exit(130)
    except UsageError as error:
        print(f"rljax: {error}", file=sys.stderr)
        sys.exit(2)
