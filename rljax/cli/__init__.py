"""The command line: `rljax train`, `resume`, `describe`, `envs`, `algos` and `bench`."""

import argparse
import contextlib
import dataclasses
import itertools
import os
import pathlib
import signal
import sys
import time
from typing import Any

from rljax import algos, envs, networks
from rljax.backend import devices, versions
from rljax.cli import bench, user_code
from rljax.cli.parsing import Parser, add_fields, env_param, integer, option_names, swept, values
from rljax.config import value_at, with_values
from rljax.errors import UsageError, located, user_line
from rljax.experiment import manifest, processes, resume, run
from rljax.experiment.options import CHANGEABLE, SHARDED, Options
from rljax.report import console

_OPTIONS = [field.name for field in dataclasses.fields(Options)]
_CUSTOM_ALGORITHM = "a custom algorithm: a file (path/to/custom.py), a module (package.custom) or either with :name"
_CUSTOM_ENV = "a custom rljax.Env as path/to/custom.py:name or package.module:name"
_CHOICES = {"activation": networks.ACTIVATIONS}
_ALGORITHM = f"a listed name, or {_CUSTOM_ALGORITHM}"
_ENV = f"a listed id, or {_CUSTOM_ENV}"


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code is 0, 2 for a `UsageError`, 1 for another error, 141 for a closed pipe.

    For a signal it is 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
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
        console.say(_with_notes(str(error), error))
        return 2
    except Exception as error:
        if user_line(error) is None:
            raise
        console.say(_with_notes(f"{located(error)}.", error))
        return 1
    except KeyboardInterrupt as interrupt:
        console.say(str(interrupt) or "Interrupted.")
        return 128 + getattr(interrupt, "signal", signal.SIGINT)


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
    commands = {"train": _train, "resume": _resume, "describe": _describe, "envs": _envs, "algos": _algos}
    commands["bench"] = bench.bench
    parser = Parser("rljax")
    parser.add_argument("--version", action="store_true", help="print the installed versions, for a bug report")
    listed = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, text in {
        "train": "train many seeds and write the results: rljax train ALGO --env ENV; rljax train ALGO --help",
        "resume": "resume a stopped run from its checkpoints: rljax resume FOLDER",
        "describe": "print the layers, shapes and numbers of parameters of networks: rljax describe ALGO --env ENV",
        "envs": "list the environments",
        "algos": "list the algorithms, and the environments they have tuned values for",
        "bench": "measure speed and learning: rljax bench [NAME]; rljax bench --help",
    }.items():
        listed.add_parser(name, help=text, add_help=False)
    parsed = parser.parse_args(arguments[:1])
    if parsed.version:
        print(", ".join(f"{name} {version}" for name, version in versions.versions().items()))
        return 0
    if parsed.command is None:
        parser.print_help()
        return 2
    return commands[parsed.command](arguments[1:])


def _envs(arguments: list[str]) -> int:
    Parser("rljax envs", "List the environments.").parse_all(arguments)
    print("\n".join(envs.registered()))
    return 0


def _algos(arguments: list[str]) -> int:
    from rljax import presets

    Parser("rljax algos", "List the algorithms, and the environments they have tuned values for.").parse_all(arguments)
    for name, what in algos.algorithms().items():
        print(f"{name:17} {what}")
        print(f"{'':17} tuned for {', '.join(presets.tuned_for(name)) or 'none'}")
    return 0


def _describe(arguments: list[str]) -> int:
    from rljax.report import architecture

    name, *rest = arguments or [""]
    what = "Print the layers, shapes and numbers of parameters of the networks that a config trains."
    parser = Parser("rljax describe ALGO", f"{what} All fields of the config are options, as for rljax train.")
    parser.add_argument("--env", default=argparse.SUPPRESS, metavar="ENV", help=f"{_ENV}; required")
    if name in ("-h", "--help"):
        parser.print_help()
        return 0
    if name.startswith("-") or not name:
        raise UsageError("Name the algorithm, before any option: rljax describe ppo --env CartPole-v1.")
    algorithm = user_code.algorithm(name)
    add_fields(parser, algorithm.Config, {}, {} if user_code.is_custom(name) else _CHOICES)
    fields = values(parser.parse_all(rest))
    if "env" not in fields:
        raise UsageError(f"Name the environment: rljax describe {name} --env CartPole-v1; `rljax envs` lists them.")
    config = _config(name, algorithm, envs.make(user_code.env(fields.pop("env"))), fields)
    print(architecture.describe(algorithm, config))
    return 0


def _train(arguments: list[str]) -> int:
    name, *rest = arguments or [""]
    wants_help = any(flag in arguments for flag in ("-h", "--help"))
    if name.startswith("-") or not name:
        if not wants_help:
            raise UsageError("Name the algorithm, before any option: rljax train ppo --env CartPole-v1.")
        _run_parser("rljax train ALGO").print_help()
        print(f"\nALGO is {_ALGORITHM}.\nrljax train ALGO --help also lists the fields of its config.")
        return 0
    parser = _run_parser(f"rljax train {name}")
    algorithm, is_custom = user_code.algorithm(name), user_code.is_custom(name)
    options, for_config = parser.parse_known_args([argument for argument in rest if argument not in ("-h", "--help")])
    env = getattr(options, "env", None)
    if wants_help:
        _add_config(parser, name, algorithm, env)
        parser.print_help()
        return 0
    config_parser = Parser(parser.prog, add_help=False)
    add_fields(config_parser, algorithm.Config, {}, {} if is_custom else _CHOICES)
    if env is None and rest and not rest[0].startswith("-"):
        raise UsageError(f"The environment needs its option: rljax train {name} --env {rest[0]}.")
    fields = values(config_parser.parse_all(for_config, ["--env", "--env-param", "--sweep", *option_names(Options)]))
    if env is None:
        raise UsageError(f"Name the environment: rljax train {name} --env CartPole-v1; `rljax envs` lists them.")
    sweep = _sweep(getattr(options, "sweep", []))
    chosen, hosts = Options(**values(options, _OPTIONS)), _hosts_given(options)
    _start_jax(single_run=chosen.seeds == 1 and chosen.shard == "runs" and not sweep and not hosts)
    env_params = getattr(options, "env_param", [])
    config = _config(name, algorithm, _env_with(user_code.env(env), env_params), fields)
    if is_custom:
        manifest.remember(algorithm, user_code.absolute(name))
    if ":" in env:
        manifest.remember(config.env, user_code.absolute(env), env_params)
    if chosen.out is None and hosts:
        raise UsageError("Several processes train into one folder that all of them see: name it with --out.")
    out = pathlib.Path(chosen.out or _new_folder(f"{pathlib.Path(name).stem}-{config.env.name}"))
    settings: dict[str, Any] = {field: getattr(chosen, field) for field in _OPTIONS}
    settings |= {"out": out, "name": chosen.name or (None if is_custom else name)}
    try:
        run.run(algorithm, config, sweep=sweep, hosts=processes.join(**hosts) if hosts else None, **settings)
    finally:
        if chosen.out is None:
            with contextlib.suppress(OSError):  # it is not empty, unless the run was refused
                os.removedirs(out)
    _print_written(out)
    return 0


def _run_parser(prog: str) -> Parser:
    parser = Parser(prog, "Train many seeds side by side, evaluate them, and write the results.")
    parser.add_argument("--env", default=argparse.SUPPRESS, metavar="ENV", help=f"{_ENV}; required")
    parser.add_argument(
        "--env-param",
        action="append",
        default=argparse.SUPPRESS,
        metavar="PARAM=VALUE",
        help="a param of the environment, such as gravity=5; may be repeated",
    )
    add_fields(parser, Options, vars(Options()), {"shard": SHARDED})
    parser.add_argument(
        "--sweep",
        action="append",
        default=argparse.SUPPRESS,
        metavar="FIELD=VALUES",
        help="a field and its values, such as learning_rate=1e-4,1e-3, or a distribution to draw --samples from: "
        "uniform(low,high), log_uniform(low,high) or choice(a,b,...); may be repeated",
    )
    _add_hosts(parser)
    return parser


def _add_config(parser: Parser, name: str, algorithm: Any, env: str | None) -> None:
    """Add the fields of the config to the help, with the values tuned for the environment if there is one."""
    if env is None:
        defaults = {f.name: f.default for f in dataclasses.fields(algorithm.Config)}
        described = "the algorithm's defaults; with --env those tuned for it, if there are any"
    else:
        defaults = vars(_config(name, algorithm, user_code.env(env), None))
        described = f"values tuned for {env}, if there are any"
    group = parser.add_argument_group(f"config of {name}", described)
    add_fields(group, algorithm.Config, defaults, {} if user_code.is_custom(name) else _CHOICES)


def _config(name: str, algorithm: Any, env: Any, fields: dict[str, Any] | None) -> Any:
    """The config with these fields set; None leaves it unchecked, for the help."""
    from rljax import presets

    if user_code.is_custom(name):
        return algorithm.Config(env=env, **(fields or {}))
    tuned = presets.defaults(name, env)
    return tuned if fields is None else algorithm.Config(**{**vars(tuned), **fields})


def _env_with(env: Any, texts: list[str]) -> Any:
    """The environment with params changed."""
    params = dict(map(env_param, texts))
    if isinstance(env, str) or not params:
        return envs.make(env, **params)
    for name in params:
        value_at(env, f"params.{name}")
    return with_values(env, {f"params.{name}": value for name, value in params.items()})


def _sweep(texts: list[str]) -> dict[str, Any] | None:
    sweep = [swept(text) for text in texts]
    repeated = [path for i, (path, _) in enumerate(sweep) if path in dict(sweep[:i])]
    if repeated:
        raise UsageError(f"--sweep {repeated[0]} is given twice: give all its values at once.")
    return dict(sweep) or None


def _resume(arguments: list[str]) -> int:
    name, *rest = arguments or [""]
    parser = Parser(
        "rljax resume FOLDER", "Resume a stopped run; its results are those of a run that was never stopped."
    )
    hidden = argparse.SUPPRESS
    parser.add_argument("--total-steps", type=integer, default=hidden, metavar="INT", help="a new length, in env steps")
    parser.add_argument("--algorithm", default=hidden, metavar="ALGO", help=_CUSTOM_ALGORITHM)
    parser.add_argument("--env", default=hidden, metavar="ENV", help=_CUSTOM_ENV)
    add_fields(parser, Options, {}, names=CHANGEABLE)
    _add_hosts(parser)
    if name in ("-h", "--help"):
        parser.print_help()
        return 0
    if name.startswith("-") or not name:
        raise UsageError("Name the run's folder, before any option: rljax resume runs/x.")
    options = parser.parse_all(rest)
    recorded = manifest.read(pathlib.Path(name))
    _start_jax(single_run=recorded.threads == 1)
    settings, hosts = values(options, ("total_steps", "algorithm", "env", *CHANGEABLE)), _hosts_given(options)
    given = {kind: reference for kind, reference in recorded.recipe["references"].items() if reference is not None}
    for kind in settings.keys() & {"algorithm", "env"}:
        given[kind] = [settings[kind], *given.get(kind, [None])[1:]]
    if "algorithm" in given:
        settings["algorithm"] = user_code.algorithm(given["algorithm"][0])
    if "env" in given:
        reference, *env_params = given["env"]
        settings["env"] = _env_with(user_code.env(reference), env_params)
    resume.resume(name, hosts=processes.join(**hosts) if hosts else None, **settings)
    _print_written(pathlib.Path(name))
    return 0


def _add_hosts(parser: Parser) -> None:
    group = parser.add_argument_group("several processes")
    hidden = argparse.SUPPRESS
    group.add_argument("--distributed", action="store_true", help="one of several started by Slurm or Open MPI")
    address = "without Slurm or MPI: address of process 0 and a free port there, such as 10.0.0.1:1234"
    group.add_argument("--coordinator", default=hidden, metavar="ADDRESS", help=address)
    group.add_argument("--num-processes", type=int, default=hidden, metavar="INT", help="how many there are")
    group.add_argument("--process-id", type=int, default=hidden, metavar="INT", help="which one this is, from 0")


def _hosts_given(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `rljax.join`; empty for a single process."""
    given = values(options, ("coordinator", "num_processes", "process_id"))
    return given or ({"coordinator": None} if options.distributed else {})


def _print_written(folder: pathlib.Path) -> None:
    written = sorted(path.name for path in folder.iterdir())
    print(f"{', '.join(written[:-1])} and {written[-1]} are in {folder}")


def _start_jax(single_run: bool) -> None:
    """Apply the settings that JAX reads when it starts."""
    devices.configure_jax(single_run)
    _cache_compilations()


def _new_folder(name: str) -> pathlib.Path:
    """Make a new folder in runs/, so that two runs started in the same second do not share one."""
    for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        folder = pathlib.Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be created ({error.strerror}): choose another folder with --out."
            ) from None
        return folder
    raise AssertionError("the suffixes never end")


def _cache_compilations() -> None:
    """Keep compiled programs on disk, unless the user has chosen a folder or none."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "rljax"))
