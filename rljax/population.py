"""Many runs at once, on all devices: seeds x configurations, planned into batches, trained, evaluated, written."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict, Unpack, overload

import jax
import numpy as np

from rljax import checkpoints, core, driver, envs, rebuild, sweeps, training
from rljax.checks import number
from rljax.config import check_one_run, replace
from rljax.devices import cpu_threads, parse_bytes, use_cpu_cores
from rljax.errors import UsageError
from rljax.hosts import Hosts, PeerLost, join, peers
from rljax.plan import Population, batches, mesh, most_devices
from rljax.report import console, files
from rljax.results import Interrupted, NotWritten, Result, Sweep, by_seed, joined
from rljax.training import states_of

__all__ = [
    "Hosts",
    "Interrupted",
    "Loaded",
    "NotWritten",
    "PeerLost",
    "Result",
    "Sweep",
    "best",
    "join",
    "load",
    "resume",
    "run",
]


_TOGETHER_SECONDS = 600.0  # between two checkpoints of several processes, where nothing else is asked for


class Options(TypedDict, total=False):
    """What `run` takes beside the sweep, whether there is one or not."""

    seeds: int
    seed: int
    samples: int | None
    out: str | os.PathLike[str] | None
    evaluations: int
    eval_episodes: int
    progress: bool
    devices: int | None
    overwrite: bool
    name: str | None
    checkpoint_every: float | None
    memory_limit: str | int | None
    halving: int | None
    hosts: Hosts | None
    shard: str


@overload
def run(algorithm: Any, config: Any, *, sweep: None = None, **options: Unpack[Options]) -> Result: ...


@overload
def run(algorithm: Any, config: Any, *, sweep: Mapping[str, Any], **options: Unpack[Options]) -> Sweep: ...


@overload
def run(
    algorithm: Any, config: Any, *, sweep: Mapping[str, Any] | None, **options: Unpack[Options]
) -> Result | Sweep: ...


def run(
    algorithm: Any,
    config: Any,
    *,
    seeds: int = 1,
    seed: int = 0,
    sweep: Mapping[str, Any] | None = None,
    samples: int | None = None,
    out: str | os.PathLike[str] | None = None,
    evaluations: int = 20,
    eval_episodes: int = 100,
    progress: bool = True,
    devices: int | None = None,
    overwrite: bool = False,
    name: str | None = None,
    checkpoint_every: float | None = None,
    memory_limit: str | int | None = None,
    halving: int | None = None,
    hosts: Hosts | None = None,
    shard: str = "runs",
) -> Result | Sweep:
    """Train `seeds` runs of every config side by side, evaluate them along the way, and write what came out.

    Run i has the key `jax.random.split(jax.random.key(seed), seeds)[i]`, in every configuration of a sweep. For the
    same keys and batch shape the states and metrics have the bits of `jax.jit(jax.vmap(algorithm.train, (0,
    None)))(keys, config)`, whatever is shown, evaluated or written. Sharded over several devices, in batches, or on
    CPUs in blocks that fit the cache, which many runs are, they are the same to rounding.

    Runs go in batches, one after the other, where they do not fit into memory side by side, and on a CPU where their
    replays come to more than 64 MiB, as that is faster. An interrupt then leaves later runs not begun. The states of
    several batches are NumPy arrays.

    A run whose parameters stop being finite is frozen at its last finite state and named in the summary; it is
    evaluated and counted with that state. The others go on untouched.

    Args:
        algorithm: a module or namespace with `init`, `update` and `act`: `rljax.ppo`, or one's own.
        config: its config, with `env` and `num_updates`.
        seeds: number of runs of each configuration.
        seed: of the key that all the runs' keys are split from, and of the draws of a sweep's samplers.
        sweep: fields to vary, by path: `{"learning_rate": [1e-4, 1e-3], "env.params.gravity": [5.0, 9.8]}`. Lists
            make a grid; `rljax.uniform`, `log_uniform` and `choice` are drawn `samples` times. Configurations that
            differ in traced numbers alone share one compiled program. Gives a `Sweep` in place of a `Result`.
        samples: how often a sweep's samplers are drawn.
        out: folder for `config.json`, `summary.json`, `curves.csv` and `learning_curve.png`; None writes nothing.
        evaluations: how often the greedy policies are evaluated along the way, beside once before the first update;
            0 for the final evaluation alone.
        eval_episodes: episodes of each seed's final evaluation; evaluations along the way take at most 20 of them.
            Of an episode that has not ended after `core.MOST_STEPS` steps the return so far counts, which is said.
        progress: show the plan of a sweep, a bar and the table.
        devices: how many devices to shard over; None for all there are (on a CPU, one a core).
        overwrite: replace the files of an earlier run in `out`.
        name: what to call the algorithm in tables and files; by default the module's name.
        checkpoint_every: seconds between two checkpoints in `out`, from which `rljax.resume` goes on; the end of the
            run and an interrupt write one as well. 0 for one after every chunk, None for none. Seconds and not
            updates, since they are what a crash costs, and a run cut anywhere has the same bits.
        memory_limit: bytes of all devices together, or a size such as "8GiB", that may be used at most; None for what
            there is. A limit that one run on each device does not fit into is refused.
        halving: of a sweep's configurations, let one in so many go on after each rung: successive halving (Jamieson
            and Talwalkar 2016). The last rung has the whole length; each one before is as many times shorter. The
            survivors go on in a smaller batch, which compiles anew; each compiled program halves its configurations.
        hosts: what `rljax.join` gave, in each of several processes that call this alike: each trains its share of the
            runs on its own devices, all write checkpoints into `out`, which all must see, and each returns the whole.
        shard: what is divided over the devices: "runs", each of them on one device, or "envs", the environments of
            every run, for few large runs. `num_envs` must then divide by the number of devices. Gradients are averaged
            over them, so that the result is that of one device to rounding.

    Raises:
        UsageError: an argument cannot be, or the folder is in use or not writable.
        NotWritten: the run finished and its files could not be written; the exception holds the result.
        PeerLost: another of several processes died or stopped; what was done has been saved.
        Interrupted: Ctrl-C, once the running chunk has landed and what is done has been written.
        Exception: one of the algorithm's own or of the devices', as it was, once what earlier batches did has been
            written; a note on it says where.
    """
    use_cpu_cores()
    _check(algorithm, config, seeds=seeds, seed=seed, evaluations=evaluations, eval_episodes=eval_episodes)
    together = hosts or Hosts()
    if together.processes > 1:
        _check_together(out, halving)
        checkpoint_every = _TOGETHER_SECONDS if checkpoint_every is None else checkpoint_every
    _check_checkpoints(checkpoint_every, out)
    if halving is not None:
        number("halving", halving, whole=True, minimum=2)
        if sweep is None:
            raise UsageError("halving is for a sweep: give it a sweep.")
    points = sweeps.points(config, sweep, samples, seed)
    for env in {jax.tree.structure(point.config.env): point.config.env for point in points if sweep}.values():
        envs.require(env)
    population = Population(
        algorithm=algorithm,
        name=name or _name(algorithm),
        points=tuple(points),
        fields=() if sweep is None else tuple(sweep),
        seeds=seeds,
        seed=seed,
        evaluations=evaluations,
        eval_episodes=eval_episodes,
        mesh=mesh(-(-len(points) * seeds // together.processes), devices, shard, [point.config for point in points]),
        folder=None if out is None else _path("out", out),
        progress=progress and together.process == 0,
        is_first=together.process == 0,
        checkpoint_every=checkpoint_every,
        memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
        halving=halving,
    )
    if population.folder is not None and together.process == 0:
        files.prepare_folder(population.folder, overwrite)
    with files.held(population.folder if together.process == 0 else None):
        if population.folder is not None and together.process == 0:
            files.begin(population.folder, _about(population, config, samples))
        with peers(together, population.folder) as others:
            return training.train(population, [], others)


def resume(
    folder: str | os.PathLike[str],
    *,
    algorithm: Any = None,
    config: Any = None,
    env: Any = None,
    sweep: Mapping[str, Any] | None = None,
    total_steps: int | None = None,
    progress: bool = True,
    devices: int | None = None,
    checkpoint_every: float | None = None,
    memory_limit: int | str | None = None,
    hosts: Hosts | None = None,
) -> Result | Sweep:
    """Go on with a run that was stopped or killed, from its newest checkpoints, to the bits it would have had.

    The bits are the same on the same software, kind and number of devices and XLA's threads; elsewhere the results are
    the same to rounding.

    Args:
        folder: what `run` was given as `out`, with checkpoints in it.
        algorithm: as `run` was given it, where it is one's own; the folder holds no code.
        config: as `run` was given it, where it holds objects of one's own; it is checked against what was recorded.
        env: the environment, where it alone is one's own.
        sweep: as `run` was given it, where values of it are objects of one's own, such as networks; it is checked
            against what was recorded.
        total_steps: a new length of the run, in place of the old one. The schedules stay as they are: a learning rate
            that was annealed over the old length is zero from there on, which is said.
        progress: show a bar and print the table.
        devices: how many devices to shard over; None for as many as before.
        checkpoint_every: seconds between two checkpoints; None for as before.
        memory_limit: as for `run`; None for as before.
        hosts: as for `run`; there may be more or fewer processes than before.

    Raises:
        UsageError: the folder holds no run to go on with, or not this one.
        NotWritten, Interrupted, PeerLost: as `run` does.
    """
    use_cpu_cores()
    folder, together = _path("folder", folder), hosts or Hosts()
    is_first = together.process == 0
    with files.held(folder if is_first else None):  # before anything is read, as another process may write
        population, saved = _restored(folder, algorithm, config, env, sweep, devices, together.processes)
        if together.processes > 1:
            _check_together(folder, population.halving)
        every = population.checkpoint_every if checkpoint_every is None else checkpoint_every
        _check_checkpoints(every, folder)
        population = dataclasses.replace(
            population, progress=progress and is_first, is_first=is_first, checkpoint_every=every
        )
        if memory_limit is not None:
            population = dataclasses.replace(population, memory_limit=parse_bytes(memory_limit))
        if total_steps is not None and population.halving is not None:
            raise UsageError("A run with successive halving cannot be made longer: its rungs depend on its length.")
        if total_steps is not None:
            total_steps = number("total_steps", total_steps, whole=True)
            points = tuple(point._replace(config=_extended(point, total_steps)) for point in population.points)
            population = dataclasses.replace(population, points=points)
            for one in saved:
                done, whole = one.record.updates, points[one.record.runs[0, 0]].config.num_updates
                if whole < done:
                    raise UsageError(
                        f"total_steps={total_steps} is {whole:,} updates, and {done:,} are done: give at least as many."
                    )
            if is_first:
                about = files.read_json(folder / "config.json")
                files.write_json(folder / "config.json", {**about, "total_steps": total_steps})
                _say_what_is_annealed([point.config for point in points], total_steps)
        with peers(together, folder) as others:
            return training.train(population, saved, others)


class Loaded(NamedTuple):
    """What a folder's checkpoints hold of one configuration."""

    config: Any
    states: Any
    """Stacked over seeds, `[S, ...]`, as `Result.states` are."""
    algorithm: Any
    returns: np.ndarray
    """`[S]` final returns, of a sweep's rung where that was the last one reached; NaN where none was."""


def load(
    folder: str | os.PathLike[str],
    *,
    configuration: int | None = None,
    algorithm: Any = None,
    config: Any = None,
    env: Any = None,
    sweep: Mapping[str, Any] | None = None,
) -> Loaded:
    """The config and the states that a run's newest checkpoints hold.

    Args:
        folder: what `run` was given as `out`, with checkpoints in it.
        configuration: which one of a sweep; by default the best by `summary.json`, the first where there is none.
        algorithm, config, env, sweep: as for `resume`.
    """
    folder = _path("folder", folder)
    population, saved = _restored(folder, algorithm, config, env, sweep, None)
    if configuration is None:
        path = folder / "summary.json"
        best = files.read_json(path).get("best") if population.fields and path.exists() else None
        configuration = best["configuration"] if best else 0
    if not 0 <= configuration < len(population.points):
        raise UsageError(f"There is no configuration {configuration}: there are {len(population.points)}.")
    point = population.points[configuration]
    parts = []
    for batch in batches(population, sweeps.groups(list(population.points)), saved):
        rows = np.flatnonzero(batch.runs[:, 0] == configuration)
        one = batch.saved
        if one is not None and len(rows):
            states = driver.stacked(*states_of(population, one, len(batch.runs)), one.record)
            returns = np.full(len(rows), np.nan) if one.final is None else one.final[rows].mean(axis=1)
            own = jax.tree.map(lambda x, rows=rows: x[rows[0] : rows[-1] + 1], states)
            parts.append((own, returns, batch.runs[rows, 1]))
    if not parts:
        raise UsageError(f"{folder} has no checkpoint of configuration {configuration} yet.")
    seeds = np.concatenate([seeds for _, _, seeds in parts])
    states = by_seed(joined([states for states, _, _ in parts]), seeds)
    returns = by_seed(np.concatenate([returns for _, returns, _ in parts]), seeds)
    return Loaded(point.config, states, population.algorithm, returns)


def best(folder: str | os.PathLike[str], **of: Any) -> core.Policy | core.RecurrentPolicy:
    """The policy to use: that of the seed with the highest final return, of a sweep's best configuration.

    Args:
        folder: what `run` was given as `out`, with checkpoints in it.
        **of: as for `load`.

    Returns:
        `(key, obs [N, ...]) -> action [N, ...]`, or one with a memory where the algorithm's `act` gives that.
    """
    loaded = load(folder, **of)
    seed = int(np.argmax(np.nan_to_num(loaded.returns, nan=-np.inf)))
    return loaded.algorithm.act(jax.tree.map(lambda x: x[seed], loaded.states), loaded.config)


def _about(population: Population, config: Any, samples: int | None) -> dict[str, Any]:
    """What `config.json` holds."""
    about = {
        "algo": population.name,
        "seeds": population.seeds,
        "seed": population.seed,
        "evaluations": population.evaluations,
        "eval_episodes": population.eval_episodes,
        "config": files.describe(config),
    }
    if population.fields:
        about["samples"] = samples
        about["sweep"] = [files.describe(point.values) for point in population.points]
    if population.checkpoint_every is not None:
        about["format"] = checkpoints.FORMAT
        about["checkpoint_every"] = population.checkpoint_every
        about["devices"] = population.mesh.size
        about["threads"] = cpu_threads()
        about["memory_limit"] = population.memory_limit
        about["halving"] = population.halving
        about["shard"] = population.mesh.axis_names[0]
        about["recipe"] = rebuild.recipe(population.algorithm, config, population.points)
    return about


def _name(algorithm: Any) -> str:
    return getattr(algorithm, "__name__", type(algorithm).__name__).rpartition(".")[2]


def _path(what: str, given: Any) -> pathlib.Path:
    try:
        return pathlib.Path(given)
    except TypeError:
        raise UsageError(f"{what} must be the path of a folder, got {given!r}.") from None


def _check_together(out: Any, halving: int | None) -> None:
    if out is None:
        raise UsageError("Several processes train into one folder that all of them see: give out as well.")
    if halving is not None:
        raise UsageError("Successive halving compares runs that are side by side: use one process.")


def _check_checkpoints(every: float | None, out: Any) -> None:
    if every is None:
        return
    number("checkpoint_every (seconds)", every, minimum=0)
    if out is None:
        raise UsageError("checkpoint_every needs a folder to write to: give out as well.")


def _restored(
    folder: pathlib.Path,
    algorithm: Any,
    config: Any,
    env: Any,
    sweep: Mapping[str, Any] | None,
    devices: int | None,
    processes: int = 1,
) -> tuple[Population, list[checkpoints.Saved]]:
    """The population that a folder describes, and its batches as they stand."""
    about = files.read_json(folder / "config.json")
    try:
        if "recipe" not in about:
            raise UsageError(
                f"{folder} holds no states, since it was written without checkpoints: "
                "train with --checkpoint-every 60, or checkpoint_every=60."
            )
        if about["format"] != checkpoints.FORMAT:
            raise UsageError(
                f"{folder} has format {about['format']}, and this rljax reads format {checkpoints.FORMAT}."
            )
        if algorithm is None:
            algorithm = rebuild.algorithm_of(about["recipe"])
        if config is None:
            config = rebuild.config_of(about["recipe"], algorithm, None if env is None else envs.make(env))
        rebuild.check_unchanged(about["config"], config)
        points = rebuild.points(config, about, sweep)
        if "total_steps" in about:
            points = [point._replace(config=_extended(point, about["total_steps"])) for point in points]
        counts = {name: about[name] for name in ("seeds", "seed", "evaluations", "eval_episodes")}
        _check(algorithm, config, **counts)
        runs = -(-len(points) * counts["seeds"] // processes)
        shard, configs = about["shard"], [point.config for point in points]
        there = len(jax.local_devices())
        there = min(there, runs) if shard == "runs" else most_devices(configs, min(there, about["devices"]))
        if devices is None and about["devices"] > there:
            console.say(f"{about['devices']} devices were used and there are {there}: results agree to rounding.")
        threads = about.get("threads", cpu_threads())
        if jax.default_backend() == "cpu" and threads != cpu_threads():
            console.say(f"XLA's threads were {threads} and are {cpu_threads()}: results agree to rounding.")
        population = Population(
            algorithm=algorithm,
            name=about["algo"],
            points=tuple(points),
            fields=tuple(about["sweep"][0]) if "sweep" in about else (),
            mesh=mesh(runs, devices or min(about["devices"], there), shard, configs),
            folder=folder,
            progress=False,
            checkpoint_every=about["checkpoint_every"],
            memory_limit=about["memory_limit"],
            halving=about["halving"],
            **counts,
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{folder / 'config.json'} is not as rljax wrote it ({error!r}): restore it.") from None
    saved = checkpoints.load(folder)
    for one in saved:
        population.check_own(one)
    return population, saved


def _extended(point: sweeps.Point, total_steps: int) -> Any:
    """A configuration with another length, its schedules' horizons being what they were."""
    config = point.config
    if not hasattr(config, "schedule_steps"):
        raise UsageError(
            f"{type(config).__module__.rpartition('.')[2]} has no schedule_steps, so that its schedules end with "
            "total_steps: a longer run of it is another run from the start."
        )
    horizon = config.schedule_steps or config.total_steps
    return replace(config, total_steps=total_steps, schedule_steps=horizon)


def _say_what_is_annealed(configs: list[Any], total_steps: int) -> None:
    """A longer run learns nothing once its learning rate is zero, which is easily overlooked."""
    ends = {c.schedule_steps for c in configs if getattr(c, "anneal_learning_rate", False)}
    if ends and min(ends) < total_steps:
        console.say(
            f"The learning rate is annealed to zero at {min(ends):,} env steps, where its schedule ends, so nothing is "
            "learned after them: a run that may become longer needs anneal_learning_rate=False, or schedule_steps "
            "as large as the length it may reach, from the start."
        )


def _check(algorithm: Any, config: Any, **counts: int) -> None:
    for name in ("init", "update", "act"):
        if not callable(getattr(algorithm, name, None)):
            raise UsageError(f"{getattr(algorithm, '__name__', algorithm)!r} is no algorithm: it has no {name}().")
    expected = getattr(algorithm, "Config", None)
    for field in dataclasses.fields(expected) if dataclasses.is_dataclass(expected) else ():
        if not hasattr(config, field.name):
            raise UsageError(f"{_name(algorithm)} takes a config of its own: the one given has no {field.name}.")
    for name in ("env", "num_updates"):
        if not hasattr(config, name):
            raise UsageError(f"The config has no {name}: run() needs env and num_updates.")
    if not isinstance(config.env, envs.Env):
        raise UsageError(f"The config's env must be an rljax.Env, got {type(config.env).__name__}: use rljax.make.")
    number("The config's num_updates", config.num_updates, whole=True, minimum=1)
    for name, least in (("seeds", 1), ("evaluations", 0), ("eval_episodes", 1), ("seed", 0)):
        number(name, counts[name], whole=True, minimum=least)
    if counts["seed"] >= 2**32:
        raise UsageError(f"seed must be less than 2**32, got {counts['seed']}.")
    check_one_run(config)
    envs.require(config.env)
