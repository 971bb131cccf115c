"""`rljax envs`, `rljax algos`, `rljax describe`: what there is to train, and on what."""

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from rljax import algos as registry
from rljax import envs as environments
from rljax import presets
from rljax.cli import user_code
from rljax.cli.parsing import Parser, values
from rljax.cli.training import ENV, add_config, config_of, without_env
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


def describe_parser(name: str = "ALGO", algorithm: Any = None) -> Parser:
    """The options of `rljax describe NAME`, with those of the algorithm's config."""
    what = "Print the layers, shapes and numbers of parameters of the networks that a config trains."
    parser = Parser(f"rljax describe {name}", f"{what} Fields of the config are options.")
    parser.add_argument("--env", default=argparse.SUPPRESS, metavar="ENV", help=f"{ENV}; required")
    if algorithm is not None:
        add_config(parser, name, algorithm, None)
    return parser


def describe(arguments: list[str]) -> int:
    """Print the layers, shapes and numbers of parameters of the networks that a config trains."""
    from rljax.report import architecture

    name, *rest = arguments or [""]
    if name in ("-h", "--help"):
        describe_parser().print_help()
        return 0
    if name.startswith("-") or not name:
        raise UsageError("Name the algorithm, before any option: rljax describe ppo --env CartPole-v1.")
    algorithm = user_code.algorithm(name)
    parser = describe_parser(name, algorithm)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        return 0
    parsed, mistakes = parser.parse_each(rest)
    if not hasattr(parsed, "env"):
        mistakes.append(without_env(name, rest, "describe"))
    if mistakes:
        raise UsageError("\n".join(mistakes))
    fields = values(parsed, {field.name for field in dataclasses.fields(algorithm.Config)} - {"env"})
    print(architecture.describe(algorithm, config_of(name, algorithm, parsed.env, [], fields)))
    return 0
