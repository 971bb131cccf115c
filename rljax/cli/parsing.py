"""Options of the command line: fields of configs and options, and the values of sweeps."""

import argparse
import ast
import dataclasses
import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from rljax.config import choices, field_docs, kinds
from rljax.envs.wrappers import WRAPPERS
from rljax.errors import UsageError, suggest
from rljax.experiment import sweeps


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `UsageError`s and whose options are not abbreviated."""

    def __init__(self, prog: str, description: str = "", **settings: Any) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=120),
            **settings,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the message as one sentence."""
        message = message[0].upper() + message[1:]
        raise UsageError(message if message.endswith((".", "?")) else f"{message}.")

    def parse_each(self, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse every option by itself: what was understood, and a sentence for each mistake."""
        parsed, mistakes = argparse.Namespace(), []
        starts = [i for i, argument in enumerate(arguments) if argument.startswith("--")]
        leading = arguments[: starts[0]] if starts else arguments
        for first, last in itertools.pairwise([*starts, len(arguments)]):
            try:
                parsed, unknown = self.parse_known_args(arguments[first:last], parsed)
                if unknown:
                    refuse(unknown[0], self.prog, self._option_string_actions)
            except UsageError as error:
                mistakes.append(str(error))
        if leading and "--env" in self._option_string_actions and hasattr(parsed, "env"):
            mistakes.insert(0, f"No option takes {leading[0]!r}: values follow their option, and flags have none.")
        return parsed, mistakes

    def parse_all(self, arguments: list[str]) -> argparse.Namespace:
        """Parse arguments; refuse an unknown one with the nearest option."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            refuse(unknown[0], self.prog, self._option_string_actions)
        return parsed


def folder_first(parser: Parser, arguments: list[str], example: str) -> tuple[str, list[str]]:
    """The folder that a command begins with, and the options after it; exit after the help if that is asked for."""
    name, *rest = arguments or [""]
    if name in ("-h", "--help"):
        parser.print_help()
        parser.exit()
    if name.startswith("-") or not name:
        raise UsageError(f"Name the run's folder, before any option: {example}.")
    return name, rest


def refuse(argument: str, prog: str, options: Iterable[str]) -> NoReturn:
    """Raise a sentence about an argument that no option takes."""
    if not argument.startswith("-"):
        raise UsageError(f"No option takes {argument!r}: values follow their option, and flags have none.")
    name = argument.partition("=")[0]
    options = list(options)
    near = [option for option in options if "".join(word[:1] for word in option.split("-")) == name.lstrip("-")]
    near = near or difflib.get_close_matches(name.replace("_", "-"), options, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{prog} --help lists the options."
    raise UsageError(f"There is no option {name!r}: {hint}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def integer(text: str) -> int:
    """An integer, also one written as 1e6."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():  # as infinity is not
            raise ValueError(text) from None
        return int(number)


def text_after(option: str, arguments: list[str]) -> str | None:
    """The text of an option before anything is parsed; the last one if it is repeated, None without any."""
    pairs = itertools.pairwise([*arguments, ""])
    found = [
        after if flag == option else flag[len(option) + 1 :]
        for flag, after in pairs
        if f"{flag}=".startswith(f"{option}=")
    ]
    return found[-1] if found else None


_READERS: Mapping[str, Callable[[str], Any]] = {"int": integer, "float": float, "str": str, "PathLike[str]": str}


def _readers(field: dataclasses.Field) -> list[str]:
    """The types of a field that can be parsed from text; empty for objects, which can only be passed in Python."""
    found = kinds(field)
    known = [kind for kind in found if kind in _READERS or kind in ("bool", "tuple[int, ...]", "tuple[str, ...]")]
    return known


def add_fields(
    parser: argparse._ActionsContainer,
    cls: type,
    defaults: Mapping[str, Any],
    names: Iterable[str] | None = None,
    aliases: Mapping[str, list[str]] = {},
) -> None:
    """Add an option for each field of a config or options class that can be parsed from text.

    Args:
        parser: gets the options; those that are not given are absent from what it parses.
        cls: a class made by `rljax.config.config`.
        defaults: values to show in the help.
        names: of the fields; None for all.
        aliases: other names of options, by field.
    """
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        found = _readers(field)
        if not found or (names is not None and field.name not in names):
            continue
        default = defaults.get(field.name)
        text = ",".join(default) if default and "tuple[str, ...]" in found else default
        shown = f" (default: {text})" if field.name in defaults else ""
        settings: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": (docs.get(field.name, "") + shown).replace("%", "%%"),
        }
        if "bool" in found:
            settings["action"] = argparse.BooleanOptionalAction
        elif "tuple[int, ...]" in found:
            settings |= {"type": integer, "nargs": "*", "metavar": "INT"}
        elif "tuple[str, ...]" in found:
            settings |= {"type": str, "metavar": "NAME,..."}  # the class converts it
        else:
            reader = next(_READERS[kind] for kind in ("int", "float", "str", "PathLike[str]") if kind in found)
            if {"int", "str"} <= set(found) or "Schedule" in kinds(field):
                reader = str  # the config converts it
            if "None" in kinds(field):
                reader = _or_none(reader)
            settings |= {
                "type": reader,
                "metavar": next(
                    (name.upper() for name in ("Schedule", "Env") if name in kinds(field)), reader.__name__.upper()
                ),
            }
        if (words := choices(field)) is not None:  # the class refuses others
            shown_words = [*words, "none"] if "None" in kinds(field) else words
            settings["metavar"] = "{" + ",".join(shown_words) + "}"
        parser.add_argument(_flag(field.name), *aliases.get(field.name, []), **settings)


def _or_none(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else reader(text)

    read.__name__ = reader.__name__
    return read


def values(parsed: argparse.Namespace, names: Iterable[str] | None = None) -> dict[str, Any]:
    """The values that were given, lists as tuples."""
    given = vars(parsed)
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if names is None or name in names
    }


def without_params(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take `--env.NAME VALUE` and `--env.NAME=VALUE` out of the arguments: texts `NAME=VALUE`, and the rest."""
    texts, rest, remaining = [], [], list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--env."):
            rest.append(argument)
            continue
        text = argument.removeprefix("--env.")
        if "=" not in text and remaining and not remaining[0].startswith("--"):
            text += f"={remaining.pop(0)}"
        texts.append(text)
    return texts, rest


def param(text: str) -> tuple[str, Any]:
    """A param of the environment and its value, from a text of `without_params`."""
    name, _, given = text.partition("=")
    found = _literals(given) if name and given else []
    if len(found) != 1:
        raise UsageError(f"--env.{name} needs one value, such as --env.gravity 5.")
    return name, found[0]


def wrapper(text: str) -> tuple[str, list[Any]]:
    """A wrapper's name and its arguments, from the text of a `--wrap`."""
    name, _, given = text.partition("=")
    if name not in WRAPPERS:
        raise UsageError(f"There is no wrapper {name!r}: {suggest(name, WRAPPERS)}")
    return name, _literals(given) if given else []


def swept(text: str) -> tuple[str, Any]:
    """A field and its list of values, or its sampler, from the text of a `--sweep`."""
    path, _, given = text.partition("=")
    if not path or not given:
        raise UsageError(f"--sweep needs a field and its values, such as learning_rate=1e-4,1e-3, got {text!r}.")
    sampler, bracket, rest = given.partition("(")
    if bracket and rest.endswith(")") and sampler in ("uniform", "log_uniform", "choice"):
        arguments = _literals(rest[:-1])
        if sampler == "choice":
            return path, sweeps.choice(arguments)
        if len(arguments) != 2:
            raise UsageError(f"{sampler} needs two numbers, such as {path}={sampler}(1e-4,1e-2), got {given!r}.")
        return path, getattr(sweeps, sampler)(*arguments)
    return path, _literals(given)


def _literals(text: str) -> list[Any]:
    """Python literals separated by commas; those that are not become strings."""
    try:
        return list(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        parts = re.split(r",(?![^()]*(?:\([^()]*\)[^()]*)*\))", text)  # not inside brackets, such as a schedule's
    return (
        [part.strip() for part in parts] if len(parts) == 1 else [value for part in parts for value in _literals(part)]
    )
