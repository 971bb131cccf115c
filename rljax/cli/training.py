"""`rljax train` and `rljax resume`."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from rljax import envs, presets
from rljax.backend import controllers, devices, program_cache
from rljax.cli import run_files, user_code
from rljax.cli.environments import changed_env, mistakes_of_env, recorded_env, settings_of
from rljax.cli.parsing import (
    Parser,
    add_fields,
    folder_first,
    integer,
    param,
    swept,
    text_after,
    values,
    without_params,
)
from rljax.config import check_value, kinds, replace
from rljax.errors import UsageError
from rljax.experiment import folders, manifest, remote
from rljax.experiment import resume as resuming
from rljax.experiment import run as running
from rljax.experiment.naming import say_if_untuned
from rljax.experiment.options import CHANGEABLE, Options, with_until
from rljax.report import console, loggers

_OPTIONS = [field.name for field in dataclasses.fields(Options)]
CUSTOM_ALGORITHM = "a custom algorithm: a file (path/to/custom.py), a module (package.custom) or either with :name"
CUSTOM_ENV = "a custom rljax.Env as path/to/custom.py:name or package.module:name"
ENV = f"a listed id, or {CUSTOM_ENV}"
_NETWORK = (
    *("activation", "encoder", "hidden_sizes", "layer_norm", "mixed_precision", "recurrent", "shared_torso"),
    *("dueling", "noisy", "head", "num_atoms"),
)
_ALIASES = {  # of other libraries
    "learning_rate": ["--lr"],
    "step_size": ["--lr"],  # of tables, which have no learning_rate
    "discount": ["--gamma"],
    "total_steps": ["--steps", "--timesteps", "--total-timesteps"],
    "num_envs": ["--n-envs"],
    "num_steps": ["--n-steps"],
    "num_epochs": ["--n-epochs"],
    "entropy_coefficient": ["--ent-coef"],
    "value_coefficient": ["--vf-coef"],
    "clip": ["--clip-range"],
    "seeds": ["--num-seeds"],
    "out": ["--output"],
}


def train(arguments: list[str]) -> int:
    """Train, evaluate, and write the results."""
    wants_help = any(flag in arguments for flag in ("-h", "--help"))
    given = [argument for argument in arguments if argument not in ("-h", "--help")]
    from_file = run_files.read(given)
    name, rest = from_file.algorithm, given
    if given and not given[0].startswith("-"):
        name, *rest = given
    if not name:
        if not wants_help:
            raise UsageError("Name the algorithm, before any option: rljax train ppo --env CartPole-v1.")
        train_parser().print_help()
        print(f"\nALGO is a listed name, or {CUSTOM_ALGORITHM}.\nrljax train ALGO --help also lists its config.")
        return 0
    algorithm = user_code.algorithm(name)
    if from_file.manifest is not None and not run_files.is_of(from_file, algorithm):
        raise UsageError(
            f"--config is of a run of {from_file.algorithm}, whose config {name} cannot take: leave {name} out."
        )
    texts, tokens = without_params(_with_until([*from_file.arguments, *rest]))
    if wants_help:
        env = text_after("--env", tokens)
        train_parser(name, algorithm, None if env is None else config_of(name, algorithm, env, [], None)).print_help()
        return 0
    parsed, mistakes = train_parser(name, algorithm).parse_each(tokens)
    fields = values(parsed, {field.name for field in dataclasses.fields(algorithm.Config)} - {"env"})
    options = values(parsed, _OPTIONS)
    eval_env = options.pop("eval_env", None)  # made later: it starts JAX
    env = getattr(parsed, "env", None)
    if env is None and from_file.manifest is None:
        mistakes.append(without_env(name, rest))
    recorded = {} if from_file.manifest is None else vars(from_file.manifest.options)
    sweeps, wraps = getattr(parsed, "sweep", []), getattr(parsed, "wrap", [])
    mistakes += _mistakes_of_values(algorithm, fields, recorded, options, sweeps)
    if mistakes:
        for one, params, wrappers in ((env, texts, wraps), (eval_env, [], [])):
            mistakes += [] if one is None else mistakes_of_env(one, params, wrappers)
        raise UsageError("\n".join(dict.fromkeys(mistakes)))
    chosen = Options(**{**recorded, **options})
    sweep = _sweep(sweeps)
    single_run = chosen.seeds == 1 and chosen.shard == "runs" and not sweep
    _configure_jax(chosen.cluster, chosen.distributed, single_run)
    program_cache.use_default()
    chosen = dataclasses.replace(chosen, eval_env=run_files.eval_env(from_file, eval_env))
    try:
        config, params = _whole_config(name, algorithm, from_file, env, texts, wraps, fields)
    except UsageError as error:
        others = [] if env is None else mistakes_of_env(env, texts, wraps)
        if set(others) <= {str(error)}:
            raise
        raise UsageError("\n".join(dict.fromkeys([*others, str(error)]))) from None
    if env is not None and not user_code.is_custom(name):
        say_if_untuned(name, user_code.env(env))
    manifest.remember_command(config, shlex.join(["rljax", "train", *arguments]))
    return _run(name, algorithm, config, sweep, chosen, env, [*params, *(f"+{one}" for one in wraps)])


def _with_until(arguments: list[str]) -> list[str]:
    """Replace `--seeds "until 5%"` with `--until 5%`."""
    found = [
        name for name in ("--seeds", *_ALIASES["seeds"]) if (text_after(name, arguments) or "").startswith("until")
    ]
    replaced = list(arguments)
    for name in found:
        at = next(i for i, one in enumerate(replaced) if f"{one}=".startswith(f"{name}="))
        text = str(text_after(name, replaced))
        replaced[at : at + 1 + (replaced[at] == name)] = ["--until", with_until({"seeds": text})["until"]]
    return replaced


def _run(
    name: str,
    algorithm: Any,
    config: Any,
    sweep: dict[str, Any] | None,
    chosen: Options,
    env: str | None,
    env_changes: list[str],
) -> int:
    is_custom = user_code.is_custom(name)
    if is_custom:
        manifest.remember(algorithm, user_code.absolute(name))
    if env is not None and ":" in env:
        manifest.remember(config.env, user_code.absolute(env), env_changes)
    is_new = chosen.out is None
    given = folders.new(f"{pathlib.Path(name).stem}-{config.env.name}") if is_new else chosen.out
    settings: dict[str, Any] = {field: getattr(chosen, field) for field in _OPTIONS}
    with remote.staged(given, is_new=True) as staged:
        out = running.path_of("out", staged)
        settings |= {"out": out, "name": chosen.name or (None if is_custom else name)}
        try:
            running.run(algorithm, config, sweep=sweep, **settings)
        finally:
            if is_new:
                with contextlib.suppress(OSError):  # it is not empty, unless the run was refused
                    os.removedirs(out)
        _print_written(out, given)
    return 0


def train_parser(name: str = "ALGO", algorithm: Any = None, config: Any = None) -> Parser:
    """The options of `rljax train NAME`, with those of the algorithm's config; its values are shown as defaults."""
    parser = Parser(f"rljax train {name}", "Train many seeds side by side, evaluate them, and write the results.")
    hidden = argparse.SUPPRESS
    run = parser.add_argument_group("run")
    run.add_argument(
        "--config",
        default=hidden,
        metavar="FILE",
        help="config.json of a run, or YAML with options; options after it change it",
    )
    add_fields(run, Options, vars(Options()), aliases=_ALIASES)
    run.add_argument(
        "--sweep",
        action="append",
        default=hidden,
        metavar="FIELD=VALUES",
        help="a field and its values, such as learning_rate=1e-4,1e-3, or a distribution to draw --samples "
        "from: uniform(low,high), log_uniform(low,high) or choice(a,b,...); may be repeated",
    )
    _add_outlets(run)
    env = parser.add_argument_group("environment")
    env.add_argument("--env", default=hidden, metavar="ENV", help=f"{ENV}; required")
    env.add_argument(
        "--env.PARAM",
        dest="_",
        default=hidden,
        metavar="VALUE",
        help="a param of the environment: --env.gravity 5; `rljax envs ENV` lists them",
    )
    env.add_argument(
        "--wrap",
        action="append",
        default=hidden,
        metavar="WRAPPER",
        help="a wrapper, innermost first: --wrap normalize_observations --wrap time_limit=200; one of "
        + ", ".join(envs.wrappers.WRAPPERS),
    )
    if algorithm is not None:
        add_config(parser, name, algorithm, config)
    return parser


def add_config(parser: Parser, name: str, algorithm: Any, config: Any) -> None:
    """Add the fields of the config, in groups."""
    fields = [field.name for field in dataclasses.fields(algorithm.Config)]
    defaults = {f.name: f.default for f in dataclasses.fields(algorithm.Config)} if config is None else vars(config)
    whose = f"of {name}: " + ("its defaults; with --env the tuned values" if config is None else "the tuned values")
    scheduled = {f.name for f in dataclasses.fields(algorithm.Config) if "Schedule" in kinds(f)}
    schedule = [field for field in fields if field in scheduled or field == "schedule_steps"]
    network = [field for field in fields if field in _NETWORK]
    rest = [field for field in fields if field not in (*schedule, *network)]
    for title, some in (("algorithm", rest), ("network", network), ("schedule", schedule)):
        group = parser.add_argument_group(title, f"{whose}, if there are any" if title == "algorithm" else None)
        add_fields(group, algorithm.Config, defaults, some, aliases=_ALIASES)


def _add_outlets(group: argparse._ActionsContainer) -> None:
    hidden = argparse.SUPPRESS
    group.add_argument(
        "--log",
        action="append",
        choices=list(loggers.BUILT_IN),
        default=hidden,
        help="log numbers there as well, while it trains; may be repeated",
    )
    group.add_argument("--quiet", dest="progress", action="store_false", default=hidden, help="as --no-progress")


def without_env(name: str, rest: list[str], command: str = "train") -> str:
    """What to say where no environment is named."""
    if rest and not rest[0].startswith("-"):
        return f"The environment needs its option: rljax {command} {name} --env {rest[0]}."
    return f"Name the environment: rljax {command} {name} --env CartPole-v1; `rljax envs` lists them."


def config_of(name: str, algorithm: Any, env: str, settings: Iterable[str], fields: Mapping[str, Any] | None) -> Any:
    """The config with these fields set, and the environment with these settings; no fields for the help, unchecked."""
    given = user_code.env(env)
    if settings:
        given = envs.make(given, **dict(map(param, settings)))
    if user_code.is_custom(name):
        return algorithm.Config(env=given, **(fields or {}))
    tuned = presets.defaults(name, given)
    if fields is None:
        return tuned
    return algorithm.Config(**{**vars(tuned), **fields})


def _whole_config(
    name: str,
    algorithm: Any,
    from_file: run_files.RunFile,
    env: str | None,
    texts: list[str],
    wraps: list[str],
    fields: Mapping[str, Any],
) -> tuple[Any, list[str]]:
    """The config of a line, and those texts of `--env.NAME` that are params of its environment."""
    if from_file.manifest is not None:
        made = None if env is None else envs.make(user_code.env(env))
        config, params = replace(manifest.config_of(from_file.manifest.recipe, algorithm, made), **fields), texts
    else:
        settings, params = settings_of(str(env), texts)
        config = config_of(name, algorithm, str(env), settings, fields)
    changed = changed_env(config.env, params, wraps)
    return config if changed is config.env else replace(config, env=changed), params


def _mistakes_of_values(
    algorithm: Any,
    fields: Mapping[str, Any],
    recorded: Mapping[str, Any],
    options: Mapping[str, Any],
    sweeps: Iterable[str],
) -> list[str]:
    """What is wrong with each value by itself, and with the options and the sweeps."""
    refused: dict[str, str] = {}
    for cls, given in ((Options, options), (algorithm.Config, fields)):
        refused |= {field: error for field, value in given.items() if (error := check_value(cls, field, value))}
    valid = {field: value for field, value in options.items() if field not in refused}
    of_options = _refusal(lambda: Options(**{**recorded, **valid}))
    return [*refused.values(), *of_options, *(error for text in sweeps for error in _refusal(_sweep, [text]))]


def _refusal(make: Callable[..., Any], *arguments: Any) -> list[str]:
    """The sentence with which something is refused, in a list that is empty if it is not."""
    try:
        make(*arguments)
    except UsageError as error:
        return [str(error)]
    return []


def _sweep(texts: list[str]) -> dict[str, Any] | None:
    sweep = [swept(text) for text in texts]
    repeated = [path for i, (path, _) in enumerate(sweep) if path in dict(sweep[:i])]
    if repeated:
        raise UsageError(f"--sweep {repeated[0]} is given twice: give all its values at once.")
    return dict(sweep) or None


def resume_parser() -> Parser:
    """The options of `rljax resume`."""
    parser = Parser(
        "rljax resume FOLDER", "Resume a stopped run; its results are those of a run that was never stopped."
    )
    hidden = argparse.SUPPRESS
    parser.add_argument("--total-steps", type=integer, default=hidden, metavar="INT", help="a new length, in env steps")
    parser.add_argument("--algorithm", default=hidden, metavar="ALGO", help=CUSTOM_ALGORITHM)
    parser.add_argument("--env", default=hidden, metavar="ENV", help=CUSTOM_ENV)
    evaluated = f"the environment of evaluations, if it is {CUSTOM_ENV}"
    parser.add_argument("--eval-env", default=hidden, metavar="ENV", help=evaluated)
    add_fields(parser, Options, {}, names=CHANGEABLE)
    _add_outlets(parser)
    return parser


def resume(arguments: list[str]) -> int:
    """Resume a run."""
    parser = resume_parser()
    name, rest = folder_first(parser, arguments, "rljax resume runs/x")
    options, mistakes = parser.parse_each(rest)
    if mistakes:
        raise UsageError("\n".join(mistakes))
    with remote.staged(name, wanted=remote.wanted_by(getattr(options, "cluster", None))) as folder:
        _resume(pathlib.Path(folder), name, options)
    return 0


def _resume(folder: pathlib.Path, name: str, options: argparse.Namespace) -> None:
    recorded = manifest.read(folder)
    _configure_jax(getattr(options, "cluster", None), getattr(options, "distributed", None), recorded.threads == 1)
    program_cache.use_default()
    settings = values(options, ("total_steps", "algorithm", *CHANGEABLE))
    given = {kind: reference for kind, reference in recorded.recipe["references"].items() if reference is not None}
    if recorded.eval_env is not None and recorded.eval_env["reference"] is not None:
        given["eval_env"] = recorded.eval_env["reference"]
    for kind, reference in values(options, ("algorithm", "env", "eval_env")).items():
        given[kind] = [reference, *given.get(kind, [None])[1:]]
    if "algorithm" in given:
        settings["algorithm"] = user_code.algorithm(given["algorithm"][0])
    if "env" in given:
        settings["env"] = recorded_env(given["env"])
    if "eval_env" in given:
        settings["eval_env"] = user_code.env(given["eval_env"][0])
    resuming.resume(folder, **settings)
    _print_written(folder, name)


def _configure_jax(cluster: str | None, distributed: str | None, single_run: bool) -> None:
    if cluster is not None and "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # the driver trains nothing: it leaves the GPU to the workers
    devices.configure_jax(single_run=single_run)
    if distributed is not None:
        controllers.join(distributed, console.say)


def _print_written(folder: pathlib.Path, given: Any) -> None:
    if controllers.is_first_of_all():
        written = sorted(path.name for path in folder.iterdir())
        print(f"{', '.join(written[:-1])} and {written[-1]} are in {given}")
