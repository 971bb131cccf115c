"""The command line: `rljax train`, `rljax resume`, `rljax envs`, `rljax algos`, `rljax bench`."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import signal
import sys
import time
from typing import Any

import tyro

from rljax import algos
from rljax.backend import devices, versions
from rljax.cli import bench, parsing, user_code
from rljax.cli.parsing import USAGE
from rljax.errors import UsageError
from rljax.experiment import processes, resume, run
from rljax.report import console


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
        print(USAGE)
        return 0 if arguments else 2
    if arguments == ["--version"]:
        print(", ".join(f"{name} {version}" for name, version in versions.versions().items()))
        return 0
    command, *rest = arguments
    commands = {"train": _train, "resume": _resume, "envs": _envs, "algos": _algos, "bench": bench.bench}
    if command not in commands:
        raise UsageError(f"There is no command {command!r}: known are {', '.join(commands)}.")
    if command in ("envs", "algos") and rest:
        if rest[0] in ("-h", "--help"):
            print(USAGE)
            return 0
        raise UsageError(f"rljax {command} takes no arguments, got {rest[0]!r}.")
    return commands[command](rest)


def _envs(_: list[str]) -> int:
    from rljax import envs

    print("\n".join(envs.registered()))
    return 0


def _algos(_: list[str]) -> int:
    from rljax import presets

    for name, what in algos.algorithms().items():
        print(f"{name:17} {what}")
        print(f"{'':17} tuned for {', '.join(presets.tuned_for(name)) or 'none'}")
    return 0


def _train(arguments: list[str]) -> int:
    from rljax import presets

    is_lone = parsing.given(arguments, "seeds") in (None, "1") and parsing.given(arguments, "shard") in (None, "runs")
    _start_jax(
        is_lone and not any(parsing.has(arguments, option) for option in ("sweep", "distributed", "coordinator"))
    )
    if not arguments or arguments[0].startswith("-"):
        if any(flag in arguments for flag in ("-h", "--help")):
            print(USAGE)
            return 0
        raise UsageError(
            "Say which algorithm, before any option: rljax train ppo --env CartPole-v1; `rljax algos` lists them."
        )
    name, *rest = arguments
    algorithm = user_code.algorithm(name)
    wants_help = any(flag in rest for flag in ("-h", "--help"))
    env = parsing.given(rest, "env") or ("CartPole-v1" if wants_help else None)
    if env is None:
        raise UsageError(f"Say which environment: rljax train {name} --env CartPole-v1; `rljax envs` lists them.")
    made = user_code.env(env)
    config = algorithm.Config(env=made) if user_code.is_own(name) else presets.defaults(name, made)
    config, options = parsing.parse(f"train {name}", config, RunOptions(), rest)
    settings = _settings(options)
    if options.out is None and settings["hosts"] is not None:
        raise UsageError("Several processes train into one folder that all of them see: name it with --out.")
    sweep = [parsing.swept(text) for text in options.sweep]
    twice = [path for i, (path, _) in enumerate(sweep) if path in dict(sweep[:i])]
    if twice:
        raise UsageError(f"--sweep {twice[0]} is given twice: give all its values at once.")
    out = options.out or _new_folder(f"{pathlib.Path(name).stem}-{config.env.name}")
    settings |= {"out": out, "sweep": dict(sweep) or None}
    try:
        run.run(algorithm, config, name=None if user_code.is_own(name) else name, **settings)
    finally:
        if options.out is None:
            with contextlib.suppress(OSError):  # it is not empty, unless the run was refused
                os.removedirs(out)
    _say_written(out)
    return 0


def _resume(arguments: list[str]) -> int:
    from rljax.report import files

    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise UsageError("Say which run, before any option: rljax resume runs/x.")
    wants_help = arguments[0] in ("-h", "--help")
    folder, rest = ("FOLDER", arguments) if wants_help else (arguments[0], arguments[1:])
    about = {} if wants_help else files.read_json(pathlib.Path(folder) / "config.json")
    _start_jax(isinstance(about, dict) and about.get("threads") == 1)  # what is no object, `resume` complains about
    _, options = parsing.parse(f"resume {folder}", None, ResumeOptions(), rest)
    settings = _settings(options)
    if settings["algorithm"] is not None:
        settings["algorithm"] = user_code.algorithm(settings["algorithm"])
    if settings["env"] is not None:
        settings["env"] = user_code.env(settings["env"])
    resume.resume(folder, **settings)
    _say_written(pathlib.Path(folder))
    return 0


def _settings(options: RunOptions | ResumeOptions) -> dict[str, Any]:
    """The options as arguments of `rljax.run` or `resume`; where there are other processes, once they have met."""
    settings = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    found = settings.pop("distributed")
    given = [settings.pop(name) for name in ("coordinator", "num_processes", "process_id")]
    is_one_of_several = found or any(each is not None for each in given)
    return {**settings, "hosts": processes.join(*given) if is_one_of_several else None}


def _say_written(folder: pathlib.Path) -> None:
    written = sorted(path.name for path in folder.iterdir())
    print(f"{', '.join(written[:-1])} and {written[-1]} are in {folder}")


def _start_jax(is_lone: bool) -> None:
    """Settle what has to be settled before JAX starts, for one run or for many."""
    devices.configure_jax(single_run=is_lone)
    _cache_compilations()


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
