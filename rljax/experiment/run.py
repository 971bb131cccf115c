"""Many runs at once, on all devices: seeds x configurations, planned into batches, trained, evaluated, written."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack, overload

import jax

from rljax import envs
from rljax.backend.devices import configure_jax, parse_bytes
from rljax.config import check_one_run
from rljax.errors import UsageError, number
from rljax.experiment import folders, manifest, sweeps, trainer
from rljax.experiment.placement import mesh
from rljax.experiment.processes import Hosts, peers
from rljax.experiment.results import Result, Sweep
from rljax.experiment.spec import Experiment
from rljax.report import console

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
    start_jax()
    check(algorithm, config, seeds=seeds, seed=seed, evaluations=evaluations, eval_episodes=eval_episodes)
    together = hosts or Hosts()
    if together.processes > 1:
        check_together(out, halving)
        checkpoint_every = _TOGETHER_SECONDS if checkpoint_every is None else checkpoint_every
    check_checkpoints(checkpoint_every, out)
    if halving is not None:
        number("halving", halving, whole=True, minimum=2)
        if sweep is None:
            raise UsageError("halving is for a sweep: give it a sweep.")
    points = sweeps.points(config, sweep, samples, seed)
    for env in {jax.tree.structure(point.config.env): point.config.env for point in points if sweep}.values():
        envs.require(env)
    experiment = Experiment(
        algorithm=algorithm,
        name=name or _name(algorithm),
        points=tuple(points),
        fields=() if sweep is None else tuple(sweep),
        seeds=seeds,
        seed=seed,
        evaluations=evaluations,
        eval_episodes=eval_episodes,
        mesh=mesh(-(-len(points) * seeds // together.processes), devices, shard, [point.config for point in points]),
        folder=None if out is None else path_of("out", out),
        progress=progress and together.process == 0,
        is_first=together.process == 0,
        checkpoint_every=checkpoint_every,
        memory_limit=None if memory_limit is None else parse_bytes(memory_limit),
        halving=halving,
    )
    if experiment.folder is not None and together.process == 0:
        folders.prepare(experiment.folder, overwrite)
    with folders.held(experiment.folder if together.process == 0 else None):
        if experiment.folder is not None and together.process == 0:
            folders.begin(experiment.folder, manifest.about(experiment, config, samples))
        with peers(together, experiment.folder) as others:
            return trainer.train(experiment, [], others)


@functools.cache  # to report it only once
def start_jax() -> None:
    """Set JAX up for a CPU, and report if it has already started with fewer devices than cores."""
    if message := configure_jax():
        console.say(message)


def _name(algorithm: Any) -> str:
    return getattr(algorithm, "__name__", type(algorithm).__name__).rpartition(".")[2]


def path_of(what: str, given: Any) -> pathlib.Path:
    """The folder that an argument names; a `UsageError` for what is no path."""
    try:
        return pathlib.Path(given)
    except TypeError:
        raise UsageError(f"{what} must be the path of a folder, got {given!r}.") from None


def check_together(out: Any, halving: int | None) -> None:
    """Refuse what several processes cannot do."""
    if out is None:
        raise UsageError("Several processes train into one folder that all of them see: give out as well.")
    if halving is not None:
        raise UsageError("Successive halving compares runs that are side by side: use one process.")


def check_checkpoints(every: float | None, out: Any) -> None:
    """Refuse checkpoints at such times, or without a folder."""
    if every is None:
        return
    number("checkpoint_every (seconds)", every, minimum=0)
    if out is None:
        raise UsageError("checkpoint_every needs a folder to write to: give out as well.")


def check(algorithm: Any, config: Any, **counts: int) -> None:
    """Refuse what is no algorithm, no config of it or for one run, or counts that cannot be."""
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
