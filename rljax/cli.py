"""The command line: `rljax train`, `rljax resume`, `rljax envs`, `rljax algos`, `rljax bench`."""

import ast
import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import io
import itertools
import os
import pathlib
import signal
import sys
import time
import traceback
from typing import Annotated, Any

import tyro

from rljax.errors import UsageError
from rljax.report import console

_USAGE = """usage: rljax COMMAND

  rljax train ALGO --env ENV [options]   train many seeds and write what came out; -h after it lists the options
  rljax resume FOLDER [options]          go on with a run that was stopped, from its checkpoints
  rljax envs                             list the environments
  rljax algos                            list the algorithms and what they have tuned values for
  rljax bench [NAME] [options]           measure: throughput, scaling, tables, compiling, peers, bars (all of these);
                                         learning; thousands; check; -h after a name lists its options
  rljax --version                        say what is installed, for a report of an error

ALGO is a listed name, or a module of your own: a file (path/to/own.py) or an importable name (package.own).
ENV is a listed id, or an rljax.Env of your own as path/to/own.py:name or package.module:name."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What `rljax.run` takes beside the algorithm and its config."""

    seeds: int = 1
    """Runs side by side, each with a seed of its own."""
    seed: int = 0
    """Seed of the key that all the runs' keys are split from."""
    out: pathlib.Path | None = None
    """Folder for config.json, summary.json, curves.csv and learning_curve.png; by default a new one in runs/."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A field and its values, as learning_rate=1e-4,1e-3 or learning_rate=log_uniform(1e-4,1e-2); may be repeated."""
    samples: int | None = None
    """Draws of a sweep's uniform(low,high), log_uniform(low,high) and choice(a,b,...)."""
    halving: int | None = None
    """Of a sweep's configurations, let one in so many go on after each rung (successive halving)."""
    evaluations: int = 20
    """Evaluations of every seed's greedy policy along the way."""
    eval_episodes: int = 100
    """Episodes of each seed's final evaluation."""
    progress: bool = True
    """Show a progress bar and the table."""
    devices: int | None = None
    """Devices to shard over; None for all there are (on a CPU, one a core)."""
    shard: str = "runs"
    """What to divide over the devices: runs, or envs for the environments of every run."""
    overwrite: bool = False
    """Replace the files of an earlier run in the folder."""
    checkpoint_every: float | None = None
    """Seconds between two checkpoints, from which `rljax resume` goes on; 0 for every chunk, None for none."""
    memory_limit: str | None = None
    """Memory of all devices together to use at most, as 8GiB; None for what there is."""
    distributed: bool = False
    """Be one of several processes that train one population, as Slurm or Open MPI started them."""
    coordinator: str | None = None
    """The same where nobody tells: address of process 0 and a free port there, as 10.0.0.1:1234."""
    num_processes: int | None = None
    """With --coordinator: how many processes there are."""
    process_id: int | None = None
    """With --coordinator: which one this is, from 0 on."""


@dataclasses.dataclass(frozen=True)
class ResumeOptions:
    """What `rljax.resume` takes beside the folder."""

    total_steps: int | None = None
    """A new length of the run, in environment steps; schedules stay as they are."""
    algorithm: str | None = None
    """The algorithm, where it is one of your own: path/to/own.py or package.own; or a listed name."""
    env: str | None = None
    """The environment, where it is one of your own: path/to/own.py:name or package.module:name."""
    progress: bool = True
    """Show a progress bar and the table."""
    devices: int | None = None
    """Devices to shard over; None for as many as before."""
    checkpoint_every: float | None = None
    """Seconds between two checkpoints; None for as before."""
    memory_limit: str | None = None
    """Memory of all devices together that may be used at most, such as 8GiB; None for as before."""
    distributed: bool = False
    """Be one of several processes that go on, as Slurm or Open MPI started them."""
    coordinator: str | None = None
    """The same where nobody tells: address of process 0 and a free port there, as 10.0.0.1:1234."""
    num_processes: int | None = None
    """With --coordinator: how many processes there are."""
    process_id: int | None = None
    """With --coordinator: which one this is, from 0 on."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code is 0, 2 for a mistake in it, 130 for an interrupt, 141 for a closed pipe."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads it, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 128 + signal.SIGPIPE
    except UsageError as error:
        notes = [note for note in getattr(error, "__notes__", []) if "\n" not in note]  # JAX's have many lines
        console.say(" ".join([str(error), *notes]))
        return 2
    except KeyboardInterrupt as interrupt:
        console.say(str(interrupt) or "interrupted.")
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments == ["--version"]:
        from rljax import plan

        print(", ".join(f"{name} {version}" for name, version in plan.versions().items()))
        return 0
    command, *rest = arguments
    commands = {"train": _train, "resume": _resume, "envs": _envs, "algos": _algos, "bench": _bench}
    if command not in commands:
        raise UsageError(f"There is no command {command!r}: known are {', '.join(commands)}.")
    if command in ("envs", "algos") and rest:
        if rest[0] in ("-h", "--help"):
            print(_USAGE)
            return 0
        raise UsageError(f"rljax {command} takes no arguments, got {rest[0]!r}.")
    return commands[command](rest)


def _envs(_: list[str]) -> int:
    from rljax import envs

    print("\n".join(envs.registered()))
    return 0


def _algos(_: list[str]) -> int:
    from rljax import presets

    for name, what in presets.algorithms().items():
        print(f"{name:17} {what}")
        print(f"{'':17} tuned for {', '.join(presets.tuned_for(name)) or 'none'}")
    return 0


# What `rljax bench` runs of benchmarks/: a script and its first options.
_BENCHMARKS = {
    "throughput": ["throughput.py"],
    "scaling": ["scaling.py"],
    "tables": ["tables.py"],
    "compiling": ["compiling.py"],
    "peers": ["peers.py"],
    "bars": ["bars.py"],
    "learning": ["learning.py"],
    "thousands": ["thousands.py"],
    "check": ["throughput.py", "--check"],
}
# Hours, what is for a GPU, and what the others do at greater length: only where they are named.
_LONG_OR_SHORT = ("learning", "thousands", "check")


_SCRIPT_SECONDS = 30.0  # for a script to end by itself where it was interrupted as rljax was


def _bench(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    folder = pathlib.Path(__file__).parents[1] / "benchmarks"
    if not folder.is_dir():
        raise UsageError("The benchmarks are in rljax's repository: install it from its clone, with pip install -e .")
    names, rest = (
        (arguments[:1], arguments[1:]) if arguments else ([n for n in _BENCHMARKS if n not in _LONG_OR_SHORT], [])
    )
    for name in names:
        if name not in _BENCHMARKS:
            raise UsageError(f"There is no benchmark {name!r}: known are {', '.join(_BENCHMARKS)}.")
        script, *options = _BENCHMARKS[name]
        # A process each: nothing that one has compiled or holds in memory weighs on the next.
        if code := _exit_code([sys.executable, str(folder / script), *options, *rest]):
            return code
    return 0


def _exit_code(command: list[str]) -> int:
    """Run a script to its end and return its exit code; what ends rljax interrupts the script too."""
    import subprocess

    process = subprocess.Popen(command)

    def interrupt(*_: Any) -> None:
        process.send_signal(signal.SIGINT)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        return process.wait()
    except KeyboardInterrupt:  # a terminal's reaches the script too
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is being ended already
        for harder in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try:
                return process.wait(_SCRIPT_SECONDS) or 130
            except subprocess.TimeoutExpired:
                process.send_signal(harder)
        return process.wait() or 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(arguments: list[str]) -> int:
    from rljax import population, presets

    is_lone = _given(arguments, "seeds") in (None, "1") and _given(arguments, "shard") in (None, "runs")
    _start_jax(is_lone and not any(_has(arguments, option) for option in ("sweep", "distributed", "coordinator")))
    if not arguments or arguments[0].startswith("-"):
        if any(flag in arguments for flag in ("-h", "--help")):
            print(_USAGE)
            return 0
        raise UsageError(
            "Say which algorithm, before any option: rljax train ppo --env CartPole-v1; `rljax algos` lists them."
        )
    name, *rest = arguments
    algorithm = _algorithm(name)
    wants_help = any(flag in rest for flag in ("-h", "--help"))
    env = _given(rest, "env") or ("CartPole-v1" if wants_help else None)
    if env is None:
        raise UsageError(f"Say which environment: rljax train {name} --env CartPole-v1; `rljax envs` lists them.")
    made = _env(env)
    config = algorithm.Config(env=made) if _is_own(name) else presets.defaults(name, made)
    config, options = _parse(f"train {name}", config, RunOptions(), rest)
    settings = _settings(options)
    if options.out is None and settings["hosts"] is not None:
        raise UsageError("Several processes train into one folder that all of them see: name it with --out.")
    sweep = [_swept(text) for text in options.sweep]
    twice = [path for i, (path, _) in enumerate(sweep) if path in dict(sweep[:i])]
    if twice:
        raise UsageError(f"--sweep {twice[0]} is given twice: give all its values at once.")
    out = options.out or _new_folder(f"{pathlib.Path(name).stem}-{config.env.name}")
    settings |= {"out": out, "sweep": dict(sweep) or None}
    try:
        population.run(algorithm, config, name=None if _is_own(name) else name, **settings)
    finally:
        if options.out is None:
            with contextlib.suppress(OSError):  # it is not empty, unless the run was refused
                os.removedirs(out)
    _say_written(out)
    return 0


def _resume(arguments: list[str]) -> int:
    from rljax import resuming
    from rljax.report import files

    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise UsageError("Say which run, before any option: rljax resume runs/x.")
    wants_help = arguments[0] in ("-h", "--help")
    folder, rest = ("FOLDER", arguments) if wants_help else (arguments[0], arguments[1:])
    about = {} if wants_help else files.read_json(pathlib.Path(folder) / "config.json")
    _start_jax(isinstance(about, dict) and about.get("threads") == 1)  # what is no object, `resume` complains about
    _, options = _parse(f"resume {folder}", None, ResumeOptions(), rest)
    settings = _settings(options)
    if settings["algorithm"] is not None:
        settings["algorithm"] = _algorithm(settings["algorithm"])
    if settings["env"] is not None:
        settings["env"] = _env(settings["env"])
    resuming.resume(folder, **settings)
    _say_written(pathlib.Path(folder))
    return 0


def _settings(options: RunOptions | ResumeOptions) -> dict[str, Any]:
    """The options as arguments of `rljax.run` or `resume`; where there are other processes, once they have met."""
    from rljax import hosts

    settings = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    found = settings.pop("distributed")
    given = [settings.pop(name) for name in ("coordinator", "num_processes", "process_id")]
    is_one_of_several = found or any(each is not None for each in given)
    return {**settings, "hosts": hosts.join(*given) if is_one_of_several else None}


def _say_written(folder: pathlib.Path) -> None:
    written = sorted(path.name for path in folder.iterdir())
    print(f"{', '.join(written[:-1])} and {written[-1]} are in {folder}")


def _parse(command: str, config: Any, options: Any, arguments: list[str]) -> tuple[Any, Any]:
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


def _swept(text: str) -> tuple[str, Any]:
    """A field and its list of values, or its sampler."""
    from rljax import sweeps

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


def _start_jax(is_lone: bool) -> None:
    """Settle what has to be settled before JAX starts, for one run or for many."""
    from rljax import devices

    (devices.use_one_cpu_thread if is_lone else devices.use_cpu_cores)()
    _cache_compilations()


def _has(arguments: list[str], option: str) -> bool:
    """Whether an option is there, with a value or without."""
    return any(argument.partition("=")[0] == f"--{option}" for argument in arguments)


def _given(arguments: list[str], option: str) -> str | None:
    """The value of an option, wherever it stands, before the other options are known."""
    value = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        if argument == f"--{option}":
            value = following
        elif argument.startswith(f"--{option}="):
            value = argument.partition("=")[2]
    return value


def _algorithm(name: str) -> Any:
    from rljax import presets

    return _own(name) if _is_own(name) else presets.algorithm(name)


def _env(reference: str) -> Any:
    place, colon, attribute = reference.partition(":")
    if (colon or place.endswith(".py")) and not attribute:
        raise UsageError(f"Say which environment of {place}: --env {place}:name.")
    return _own(reference) if colon else reference


def _is_own(name: str) -> bool:
    return "." in name or os.sep in name


def _own(reference: str) -> Any:
    """A user's own module `file.py` or `package.module`, or with `:name` an attribute of it."""
    place, _, attribute = reference.partition(":")
    if not place.endswith(".py") and (not place or place.startswith(".") or os.sep in place):
        raise UsageError(f"{reference!r} names neither a file (own.py) nor a module (package.own).")
    sys.path.insert(0, os.getcwd())
    try:
        if place.endswith(".py"):
            if not pathlib.Path(place).is_file():
                raise UsageError(f"There is no file {place}.")
            spec = importlib.util.spec_from_file_location(pathlib.Path(place).stem, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except UsageError:
        raise
    except Exception as error:  # whatever is wrong with a user's file
        what = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, ImportError | SyntaxError):  # these say where
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if pathlib.Path(frame.filename).name == pathlib.Path(place).name]
            frame = (own or frames)[-1]
            what = f"{type(error).__name__}: {what} ({pathlib.Path(frame.filename).name}, line {frame.lineno})"
        raise UsageError(f"{place} could not be imported: {what}.") from None
    finally:
        sys.path.pop(0)
    if not attribute:
        for needed in ("Config", "init", "update", "act"):
            if not hasattr(module, needed):
                raise UsageError(f"{place} is no algorithm: it has no {needed}.")
        return module
    if not hasattr(module, attribute):
        raise UsageError(f"{place} has no {attribute!r}.")
    return getattr(module, attribute)


def _new_folder(name: str) -> pathlib.Path:
    """A folder in runs/ that nobody has: made here, so that two runs of the same second cannot share it."""
    for suffix in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        folder = pathlib.Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{folder} cannot be made ({error.strerror}): name another with --out.") from None
        return folder
    raise AssertionError("the suffixes never end")


def _cache_compilations() -> None:
    """Keep compiled programs on disk, unless the user has chosen where or that JAX should not."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "rljax"))


if __name__ == "__main__":
    sys.exit(main())
