"""`rljax envs`, `rljax algos`, `rljax completion`: what there is to train, and on what."""

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from rljax import algos as registry
from rljax import envs as environments
from rljax import presets
from rljax.cli import user_code
from rljax.cli.parsing import Parser
from rljax.envs import Env, host, spaces
from rljax.envs.base import TIME_LIMITS
from rljax.errors import UsageError


def envs(arguments: list[str]) -> int:
    """List the environments, or describe one."""
    parser = Parser("rljax envs", "List the environments, or describe one.")
    parser.add_argument(
        "env", nargs="?", metavar="ENV", help="an id, or a custom environment as path/to/custom.py:name"
    )
    env = parser.parse_all(arguments).env
    print("\n".join(environments.registered() if env is None else _described(environments.make(user_code.env(env)))))
    return 0


def _described(env: Env) -> Iterator[str]:
    yield env.label
    masks = "" if env.legal_actions is None else ", of which each state declares the legal ones"
    yield f"  observations  {spaces.text(env.observation_space)}"
    yield f"  actions       {spaces.text(env.action_space)}{masks}"
    params = dict(_params(env.params))
    maker = host.maker_of(env)
    limit = next((params[name] for name in TIME_LIMITS if name in params), None if maker is None else maker.time_limit)
    yield f"  time limit    {limit if limit is not None else 'none known: --wrap time_limit=1000 sets one'}"
    if params:
        yield "  params        " + ", ".join(f"{name}={value}" for name, value in params.items())
        name = next(iter(params))
        yield f"                change one with --env.{name} VALUE, sweep it with --sweep env.params.{name}=A,B"
    names = registry.algorithms()
    fitting = [name for name in names if _fits(registry.algorithm(name), env)]
    yield f"  algorithms    {', '.join(fitting) or 'none of the listed ones'}"
    tuned = [name for name in fitting if presets.is_tuned(name, env)]
    yield f"  tuned         {', '.join(tuned) or 'none: learning rates and lengths must be found'}"


def _fits(algorithm: Any, env: Env) -> bool:
    """True if the algorithm's config accepts the environment."""
    try:
        algorithm.Config(env=env)
    except UsageError:
        return False
    return True


def _params(params: Any) -> Iterator[tuple[str, str]]:
    """The params that are numbers, by name."""
    for field in dataclasses.fields(params) if dataclasses.is_dataclass(params) else ():
        value = getattr(params, field.name)
        if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number):
            yield field.name, f"{np.asarray(value).item():.6g}"


def algos(arguments: list[str]) -> int:
    """List the algorithms, and the environments they have tuned values for."""
    Parser("rljax algos", "List the algorithms, and the environments they have tuned values for.").parse_all(arguments)
    for name, what in registry.algorithms().items():
        print(f"{name:17} {what}")
        print(f"{'':17} tuned for {', '.join(presets.tuned_for(name)) or 'none'}")
    return 0


def completion(arguments: list[str]) -> int:
    """Print a script for bash or zsh."""
    import shtab

    from rljax.cli.evaluating import eval_parser
    from rljax.cli.exporting import export_parser
    from rljax.cli.reporting import parser_of
    from rljax.cli.training import resume_parser, train_parser
    from rljax.cli.watching import playground_parser, watch_parser

    parser = Parser("rljax completion", "Print a completion script.")
    parser.add_argument("shell", choices=["bash", "zsh"], help='for instance: eval "$(rljax completion bash)"')
    shell = parser.parse_all(arguments).shell
    whole = argparse.ArgumentParser("rljax")
    commands = whole.add_subparsers()
    by_algorithm = commands.add_parser("train", help="train").add_subparsers()
    ids = environments.registered()
    for name in registry.algorithms():
        options = train_parser(name, registry.algorithm(name))
        for action in options._actions:  # argparse has no other way to list or change them
            words = str(action.metavar or "")
            if action.dest in ("env", "eval_env"):
                action.choices = ids
            elif words.startswith("{"):
                action.choices = words.strip("{}").split(",")
        by_algorithm.add_parser(name, parents=[options], conflict_handler="resolve", add_help=False, help=name)
    of_folders = {"resume": resume_parser(), "watch": watch_parser()}
    of_folders |= {"eval": eval_parser(), "export": export_parser()}
    for name, options in of_folders.items():
        folder = commands.add_parser(name, parents=[options], conflict_handler="resolve", add_help=False, help=name)
        folder.add_argument("folder").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    commands.add_parser(
        "playground", parents=[playground_parser()], conflict_handler="resolve", add_help=False, help="playground"
    )
    folder.add_argument("folder").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    for name in ("compare", "report"):
        options = parser_of(name)
        runs = next(action for action in options._actions if action.dest == "runs")
        runs.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        commands.add_parser(name, parents=[options], conflict_handler="resolve", add_help=False, help=name)
    commands.add_parser("envs", help="environments").add_argument("env", nargs="?", choices=ids)
    commands.add_parser("algos", help="algorithms")
    commands.add_parser("completion", help="completion").add_argument("shell", choices=["bash", "zsh"])
    commands.add_parser("bench", help="benchmarks")
    print(shtab.complete(whole, shell))
    return 0
