"""Train many runs, seeds and configurations, on all devices."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, overload

import jax
from jax.sharding import Mesh

from rljax import envs
from rljax.backend import controllers
from rljax.backend.devices import configure_jax
from rljax.backend.program_cache import use_default
from rljax.errors import UsageError, number, shown
from rljax.experiment import checkpoints, cluster, evaluating, folders, manifest, remote, search, sequential, sweeps
from rljax.experiment.naming import resolved
from rljax.experiment.options import CLUSTER_SECONDS, MOST_RUNS, Options, documented, with_changes, with_until
from rljax.experiment.outlets import Callback
from rljax.experiment.placement import mesh
from rljax.experiment.results import Interrupted, Result, Sweep
from rljax.experiment.spec import Experiment
from rljax.experiment.together import require_same_program, together
from rljax.report import console, loggers


@overload
def run(algorithm: Any, config: Any, *, sweep: None = None, **options: Any) -> Result: ...


@overload
def run(algorithm: Any, config: Any, *, sweep: Mapping[str, Any], **options: Any) -> Sweep: ...


@overload
def run(algorithm: Any, config: Any, *, sweep: Mapping[str, Any] | None, **options: Any) -> Result | Sweep: ...


@documented()
def run(
    algorithm: Any,
    config: Any,
    *,
    sweep: Mapping[str, Any] | None = None,
    callback: Callback | Sequence[Callback] = (),
    **options: Any,
) -> Result | Sweep:
    """Train many runs side by side, evaluate them along the way, and write their results.

    Run i has the key `jax.random.split(jax.random.key(seed), seeds)[i]`, in every configuration of a sweep, which does
    not depend on the number of seeds. For the same keys and batch shape the states and metrics have the bits of
    `jax.jit(jax.vmap(algorithm.train, (0, None)))(keys, config)`, whatever is shown, evaluated or written. Sharded over
    several devices, in batches, or in blocks that fit a CPU's cache, they agree to rounding.

    With `seeds="until 5%"`, or `until`, seeds are trained in batches until an interval of the IQM of the final returns
    is narrow enough; `summary["sequential"]` has it. It holds for all batches together (`rljax.report.sequential`).

    Runs are trained in batches, one after the other, if they do not fit into memory side by side, and on a CPU if
    their replay buffers exceed 64 MiB, since that is faster. After an interrupt later batches have not begun. The
    states of several batches are NumPy arrays.

    A run whose parameters stop being finite is frozen at its last finite state and named in the summary; it is
    evaluated and counted with that state. The other runs do not change.

    Args:
        algorithm: a module or namespace with `init`, `update` and `act`: `rljax.ppo`, or a custom one; or the name of
            an algorithm or variant, such as "rainbow".
        config: its config, with `env` and `num_updates`; or an environment or its id, for which the algorithm has the
            values that are tuned for it, if there are any: `rljax.run("ppo", "CartPole-v1", seeds=8)`. Fields of the
            config are overridden by arguments: `learning_rate=1e-3`.
        sweep: fields to vary, by path: `{"learning_rate": [1e-4, 1e-3], "env.params.gravity": [5.0, 9.8]}`. Lists
            make a grid; `rljax.uniform`, `log_uniform` and `choice` are drawn `samples` times. Configurations that
            differ only in traced numbers share one compiled program. The result is then a `Sweep`. With `search` the
            configurations are chosen from these distributions, and a list is a choice.
        callback: called with a `Progress` after every chunk of updates and every evaluation, or a list of such
            functions. `progress.stop()` ends the experiment; an error in a callback does too, and is raised.
        {options}

    Raises:
        UsageError: an argument is invalid, or the folder is in use, holds results, or is not writable.
        NotWritten: training finished, but files could not be written; the exception holds the result.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, once the running chunk has finished and the results so far are written.
        Exception: from the algorithm or the devices, unchanged, once the results of earlier batches have been
            written; a note on it says where.
    """
    start_jax()
    callbacks = callbacks_of(callback)
    with together(options.get("distributed")), contextlib.ExitStack() as stack:
        connection = None
        with controllers.refusing_together():
            if "out" in options:
                options["out"] = stack.enter_context(remote.staged(options["out"], is_new=True))
            experiment, config = _planned(algorithm, config, sweep, options)
            is_temporary = experiment.options.until is not None and experiment.folder is None
            if is_temporary:  # further seeds continue from files
                name = stack.enter_context(tempfile.TemporaryDirectory(prefix="rljax-"))
                experiment = dataclasses.replace(experiment, folder=pathlib.Path(name))
            folder = experiment.folder if controllers.is_first() else None
            if folder is not None:
                folders.prepare(folder, experiment.options.overwrite)
                stack.enter_context(folders.locked(folder))
                checkpoints.check_path(folder)
                remote.begin(folder)
        require_same_program(experiment, [])
        if experiment.options.cluster is not None:
            connection = stack.enter_context(cluster.connected(experiment.options))
            experiment = dataclasses.replace(experiment, layout=connection.layout(experiment))
        if folder is not None:
            folders.clear(folder)
            manifest.write(folder, experiment, config)
            remote.upload(folder)
        try:
            return sequential.train(experiment, [], callbacks, connection)
        except Interrupted as stop:
            if not is_temporary:
                raise
            sentence = f"{str(stop).partition(';')[0]}; pass out to be able to resume."
            raise Interrupted(sentence, stop.result, stop.signal) from None


def _planned(
    algorithm: Any, config: Any, sweep: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> tuple[Experiment, Any]:
    """The experiment that `run` is asked for, and the config of all its configurations."""
    algorithm, config, options = resolved(algorithm, config, options)
    chosen = with_changes(Options(), with_until(options))
    check(algorithm, config)
    if chosen.cluster is not None:
        if chosen.out is None:
            raise UsageError("A cluster trains into a folder that all its machines see: pass out as well.")
        if chosen.checkpoint_every is None:
            chosen = with_changes(chosen, {"checkpoint_every": CLUSTER_SECONDS})
    if chosen.checkpoint_every is not None and chosen.out is None:
        raise UsageError("checkpoint_every needs a folder to write to: pass out as well.")
    if chosen.halving is not None and sweep is None:
        raise UsageError("halving is for a sweep: pass sweep as well.")
    if chosen.until is not None and sweep is not None:
        raise UsageError("until is for runs of one configuration: leave sweep out, or give a number of seeds.")
    loggers.chosen(chosen.log, chosen.out)  # before an earlier run's files are removed
    if chosen.search is None:
        space, points = None, sweeps.points(config, sweep, chosen.samples, chosen.seed)
    else:
        space = search.space(config, sweep, chosen)
        points = space.points([], chosen.samples or 1)
    for env in {jax.tree.structure(point.config.env): point.config.env for point in points if sweep}.values():
        envs.require(env)
    if len(points) * chosen.seeds > MOST_RUNS:
        raise UsageError(f"{len(points):,} configurations x {chosen.seeds:,} seeds are more than {MOST_RUNS:,} runs.")
    name, trained_in = chosen.name or _name(algorithm), [point.config.env for point in points]
    evaluating.check(algorithm, name, trained_in, chosen.eval_policy, chosen.eval_env)
    experiment = Experiment(
        algorithm=algorithm,
        name=name,
        points=points,
        fields=() if sweep is None else tuple(sweep),
        options=chosen,
        mesh=_mesh(chosen, points),
        folder=None if chosen.out is None else path_of("out", chosen.out),
        space=space,
    )
    return experiment, config


def _mesh(options: Options, points: list[sweeps.Point]) -> Mesh | None:
    """The devices of this process; None for a cluster's."""
    if options.cluster is not None:
        return None
    return mesh(len(points) * options.seeds, options.devices, options.shard, [point.config for point in points])


def callbacks_of(given: Any) -> tuple[Callback, ...]:
    """One callback or several, as a tuple; a `UsageError` if one cannot be called."""
    callbacks = tuple(given) if isinstance(given, list | tuple) else (given,)
    for one in callbacks:
        if not callable(one):
            raise UsageError(f"callback must be a function of the progress, or a list of them, got {shown(one)}.")
    return callbacks


@functools.cache  # to report it only once
def start_jax() -> None:
    """Set JAX up for a CPU, and report if it has already started with fewer devices than cores."""
    use_default()
    if message := configure_jax():
        console.say(message)


def _name(algorithm: Any) -> str:
    return getattr(algorithm, "__name__", type(algorithm).__name__).rpartition(".")[2]


def path_of(what: str, given: Any) -> pathlib.Path:
    """The folder that an argument names; a `UsageError` if it is not a path."""
    if isinstance(given, str | os.PathLike) and (text := os.fspath(given)) and "\0" not in str(text):
        return pathlib.Path(given)
    raise UsageError(f"{what} must be the path of a folder, got {shown(given)}.")


def check(algorithm: Any, config: Any) -> None:
    """Refuse what is not an algorithm, or not a config of it for one run."""
    for name in ("init", "update", "act"):
        if not callable(getattr(algorithm, name, None)):
            raise UsageError(f"{getattr(algorithm, '__name__', algorithm)!r} is not an algorithm: it has no {name}().")
    expected = getattr(algorithm, "Config", None)
    for field in dataclasses.fields(expected) if dataclasses.is_dataclass(expected) else ():
        if not hasattr(config, field.name):
            raise UsageError(f"{_name(algorithm)} needs its own Config: the one given has no {field.name}.")
    for name in ("env", "num_updates"):
        if not hasattr(config, name):
            raise UsageError(f"The config has no {name}: run() needs env and num_updates.")
    if not isinstance(config.env, envs.Env):
        raise UsageError(f"The config's env must be an rljax.Env, got {type(config.env).__name__}: use rljax.make.")
    number("The config's num_updates", config.num_updates, integer=True, minimum=1)
    sweeps.check_one_run(config)
    envs.require(config.env)
