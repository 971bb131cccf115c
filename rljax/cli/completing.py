"""`rljax completion`: a script with which bash or zsh completes commands, options and their values."""

import argparse
from typing import Any

from rljax import algos as registry
from rljax import envs as environments
from rljax import optimizers
from rljax.cli.describing import describe_parser
from rljax.cli.doctoring import doctor_parser
from rljax.cli.evaluating import eval_parser
from rljax.cli.exporting import export_parser
from rljax.cli.parsing import Parser
from rljax.cli.reporting import parser_of
from rljax.cli.training import resume_parser, train_parser
from rljax.cli.watching import playground_parser, watch_parser
from rljax.envs.wrappers import WRAPPERS


def completion(arguments: list[str]) -> int:
    """Print a script for bash or zsh."""
    import shtab

    parser = Parser("rljax completion", "Print a completion script.")
    parser.add_argument("shell", choices=["bash", "zsh"], help='for instance: eval "$(rljax completion bash)"')
    shell = parser.parse_all(arguments).shell
    whole = argparse.ArgumentParser("rljax")
    commands = whole.add_subparsers()
    ids = environments.registered()
    for command, options_of in (("train", train_parser), ("describe", describe_parser)):
        by_algorithm = commands.add_parser(command, help=command).add_subparsers()
        for name in registry.algorithms():
            _add(by_algorithm, name, _with_choices(options_of(name, registry.algorithm(name)), ids))
    of_folders = {"resume": resume_parser(), "watch": watch_parser(), "eval": eval_parser(), "export": export_parser()}
    for name, options in of_folders.items():
        _add(commands, name, options).add_argument("folder").complete = shtab.DIRECTORY
    for name, options in {
        **{name: parser_of(name) for name in ("compare", "report")},
        "doctor": doctor_parser(),
    }.items():
        runs = next(action for action in options._actions if action.dest == "runs")
        runs.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        _add(commands, name, options)
    _add(commands, "playground", playground_parser())
    commands.add_parser("envs", help="environments").add_argument("env", nargs="?", choices=ids)
    commands.add_parser("algos", help="algorithms")
    commands.add_parser("completion", help="completion").add_argument("shell", choices=["bash", "zsh"])
    commands.add_parser("bench", help="benchmarks")
    script = shtab.complete(whole, shell)
    # shtab's script for zsh registers itself only under `eval`; in a file that is sourced it has to as well.
    print(script.replace("[[ $zsh_eval_context[-1] == eval ]]", "[[ $zsh_eval_context[-1] != loadautofunc ]]"))
    return 0


def _add(commands: Any, name: str, options: Parser) -> Any:
    return commands.add_parser(name, parents=[options], conflict_handler="resolve", add_help=False, help=name)


def _with_choices(options: Parser, ids: list[str]) -> Parser:
    """Say which values options have, where the parser itself accepts others too."""
    named = {"env": ids, "eval_env": ids, "wrap": list(WRAPPERS), "optimizer": list(optimizers.NAMES)}
    for action in options._actions:  # argparse has no other way to list or change them
        words = str(action.metavar or "")
        if action.dest in named:
            action.choices = named[action.dest]
        elif words.startswith("{"):
            action.choices = words.strip("{}").split(",")
    return options
