"""Options of the command line: fields of configs and options, and the values of sweeps."""

import ast
import contextlib
import dataclasses
import difflib
import io
import itertools
from typing import Annotated, Any

import tyro

from rljax.errors import UsageError
from rljax.experiment import sweeps

USAGE = """usage: rljax COMMAND

  rljax train ALGO --env ENV [options]   train many seeds and write what came out; -h after it lists the options
  rljax resume FOLDER [options]          go on with a run that was stopped, from its checkpoints
  rljax envs                             list the environments
  rljax algos                            list the algorithms and what they have tuned values for
  rljax bench [NAME] [options]           measure: throughput, scaling, tables, compiling, peers, bars (all of these);
                                         learning; thousands; check; -h after a name lists its options
  rljax --version                        say what is installed, for a report of an error

ALGO is a listed name, or a module of your own: a file (path/to/own.py) or an importable name (package.own).
ENV is a listed id, or an rljax.Env of your own as path/to/own.py:name or package.module:name."""


def parse(command: str, config: Any, options: Any, arguments: list[str]) -> tuple[Any, Any]:
    """Fields of the config, if any, and of the options, by tyro; what it complains about becomes one sentence."""
    from rljax.envs import Env

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type is not Env:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="ENV",
            instance_from_str=lambda _: config.env,  # made already: the preset depends on it
            is_instance=lambda value: isinstance(value, Env),
            str_from_instance=lambda env: [env.name],
        )

    parts = {"config": config, "run": options} if config is not None else {"run": options}
    both = dataclasses.make_dataclass(
        "Options", [(name, Annotated[type(part), tyro.conf.arg(name="")]) for name, part in parts.items()]
    )
    complaint = io.StringIO()
    try:
        with registry, contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                both,
                args=arguments,
                default=both(**parts),
                return_unknown_args=True,
                prog=f"rljax {command}",
                description="Defaults are the tuned values for the environment, where there are any."
                if config is not None
                else "What was written is gone on with, to the results it would have had.",
            )
    except SystemExit as stop:
        if stop.code:
            raise UsageError(_sentence(complaint.getvalue())) from None
        raise
    if unknown:
        option = unknown[0]
        if not option.startswith("-"):
            raise UsageError(f"There is nothing that takes {option!r}; switches take no value: --name or --no-name.")
        known = [f.name for part in parts.values() for f in dataclasses.fields(part)]
        near = difflib.get_close_matches(option.lstrip("-").partition("=")[0].replace("-", "_"), known, n=2, cutoff=0.4)
        hint = " or ".join("--" + match.replace("_", "-") for match in near)
        hint = f"did you mean {hint}?" if hint else f"rljax {command} --help lists the options."
        raise UsageError(f"There is no option {option!r}: {hint}")
    return getattr(parsed, "config", None), parsed.run


def swept(text: str) -> tuple[str, Any]:
    """A field and its list of values, or its sampler."""
    path, _, values = text.partition("=")
    if not path or not values:
        raise UsageError(f"--sweep takes a field and its values, as learning_rate=1e-4,1e-3, got {text!r}.")
    sampler, bracket, rest = values.partition("(")
    if bracket and rest.endswith(")") and sampler in ("uniform", "log_uniform", "choice"):
        given = _values(rest[:-1])
        if sampler == "choice":
            return path, sweeps.choice(given)
        if len(given) != 2:
            raise UsageError(f"{sampler} takes two numbers, as {path}={sampler}(1e-4,1e-2), got {values!r}.")
        return path, getattr(sweeps, sampler)(*given)
    return path, _values(values)


def _values(text: str) -> list[Any]:
    """Python literals with commas between them; words where they are none."""
    try:
        return list(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        words = text.split(",")
    return [word.strip() for word in words] if len(words) == 1 else [value for word in words for value in _values(word)]


def _sentence(box: str) -> str:
    """The first paragraph inside the frame that tyro draws, in box characters or plain ones, under a title."""

    def is_rule(line: str) -> bool:
        return not line.strip("─-╭╮╰╯")

    lines = [line.strip("│| ") for line in box.splitlines()[1:]]
    paragraph = itertools.takewhile(lambda line: not is_rule(line), itertools.dropwhile(is_rule, lines))
    text = " ".join(paragraph)
    return text if text.endswith((".", "?")) else text + "."


def has(arguments: list[str], option: str) -> bool:
    """Whether an option is there, with a value or without."""
    return any(argument.partition("=")[0] == f"--{option}" for argument in arguments)


def given(arguments: list[str], option: str) -> str | None:
    """The value of an option, wherever it stands, before the other options are known."""
    value = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        if argument == f"--{option}":
            value = following
        elif argument.startswith(f"--{option}="):
            value = argument.partition("=")[2]
    return value
