"""Resume a stopped run."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from rljax import envs, schedules
from rljax.backend import controllers
from rljax.backend.devices import cpu_threads
from rljax.config import replace
from rljax.errors import UsageError, located, number
from rljax.experiment import checkpoints, cluster, folders, manifest, remote, sequential, session, sweeps
from rljax.experiment.checkpoints import Saved
from rljax.experiment.manifest import Manifest
from rljax.experiment.options import CHANGEABLE, documented, with_changes
from rljax.experiment.outlets import Callback
from rljax.experiment.placement import max_devices, mesh, visible
from rljax.experiment.results import Result, Sweep
from rljax.experiment.run import callbacks_of, check, path_of, start_jax
from rljax.experiment.spec import Experiment, Layout
from rljax.experiment.together import require_same_program, together
from rljax.report import console


@documented(*CHANGEABLE)
def resume(
    folder: str | os.PathLike[str],
    *,
    algorithm: Any = None,
    config: Any = None,
    env: Any = None,
    eval_env: Any = None,
    sweep: Mapping[str, Any] | None = None,
    total_steps: int | None = None,
    callback: Callback | Sequence[Callback] = (),
    **changes: Any,
) -> Result | Sweep:
    """Resume a stopped or killed run from its newest checkpoints, to the bits of a run that was never stopped.

    The bits are the same with the same software, kind and number of devices, and number of XLA's threads; otherwise
    results agree to rounding. Environments on the host (`gymnasium/`, `atari/`) begin new episodes.

    Args:
        folder: the `out` given to `run`.
        algorithm: the one given to `run`, if it is a custom one; the folder holds no code.
        config: the one given to `run`, if it holds custom objects; it is checked against the recorded one.
        env: the environment, if only that is a custom one.
        eval_env: the one given to `run`, if it is a custom one.
        sweep: the one given to `run`, if its values are objects such as networks; it is checked against the recorded
            one.
        total_steps: a new length of the run. The schedules keep theirs: a learning rate that was annealed over the
            old length is zero after it, which is reported.
        callback: as for `run`.
        {options}

    Raises:
        UsageError: the folder holds no run to resume, or not this one.
        NotWritten, Interrupted: as for `run`.
    """
    start_jax()
    callbacks = callbacks_of(callback)
    with together(changes.get("distributed")), contextlib.ExitStack() as stack:
        with controllers.refusing_together():
            wanted = remote.wanted_by(changes.get("cluster"))
            folder = path_of("folder", stack.enter_context(remote.staged(folder, wanted=wanted)))
            if controllers.is_first():  # before reading, since another process may write
                stack.enter_context(folders.locked(folder))
            with_changes(manifest.read(folder).options, changes, CHANGEABLE)
            experiment, saved = restored(folder, algorithm, config, env, sweep, changes)
            evaluated = manifest.with_eval_env(manifest.read(folder), None if eval_env is None else envs.make(eval_env))
            options = dataclasses.replace(
                experiment.options, eval_env=evaluated.eval_env, progress=bool(changes.get("progress", True))
            )
            experiment = dataclasses.replace(experiment, options=options)
            if total_steps is not None:
                total_steps = number("total_steps", _as_integer(total_steps), integer=True)
                experiment = _lengthened(experiment, saved, total_steps)
            if controllers.is_first():
                remote.begin(folder)
        require_same_program(experiment, saved)
        if total_steps is not None:
            if controllers.is_first():
                manifest.update(folder, total_steps=total_steps)
            _warn_if_annealed([point.config for point in experiment.points], total_steps)
        connection = None
        if experiment.options.cluster is not None:
            connection = stack.enter_context(cluster.connected(experiment.options))
            experiment = dataclasses.replace(experiment, layout=connection.layout(experiment))
        return sequential.train(experiment, saved, callbacks, connection)


def _as_integer(value: Any) -> Any:
    """1e5 as an integer; anything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lengthened(experiment: Experiment, saved: list[Saved], total_steps: int) -> Experiment:
    """The experiment with another length of its runs."""
    if experiment.options.halving is not None:
        raise UsageError("A run with successive halving cannot be made longer: its rungs depend on its length.")
    if experiment.space is not None:
        raise UsageError("A search cannot be made longer: its suggestions depend on the returns at its length.")
    points = [point._replace(config=_extended(point, total_steps)) for point in experiment.points]
    for one in saved:
        done, num_updates = one.record.updates, points[one.record.runs.configurations[0]].config.num_updates
        if num_updates < done:
            raise UsageError(
                f"total_steps={total_steps} is only {num_updates:,} updates, and {done:,} are already completed: "
                "pass a larger total_steps."
            )
    return dataclasses.replace(experiment, points=points)


def restored(
    folder: pathlib.Path,
    algorithm: Any = None,
    config: Any = None,
    env: Any = None,
    sweep: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
    trains: bool = True,
) -> tuple[Experiment, list[Saved]]:
    """The experiment that a folder describes, and its batches' checkpoints; reports what changes bits if it trains."""
    recorded, on_cluster = manifest.read(folder), changes.get("cluster") is not None
    try:
        if algorithm is None:
            algorithm = manifest.algorithm_of(recorded.recipe)
        if config is None:
            config = manifest.config_of(recorded.recipe, algorithm, None if env is None else envs.make(env))
        manifest.check_unchanged(recorded.config, config)
        space = None if recorded.space is None else sweeps.space_of(config, recorded.space)
        points = manifest.points_of(recorded, config, sweep)
        if recorded.total_steps is not None:
            points = [point._replace(config=_extended(point, recorded.total_steps)) for point in points]
        check(algorithm, config)
        experiment = Experiment(
            algorithm=algorithm,
            name=recorded.algo,
            points=points,
            fields=tuple(recorded.space or (recorded.sweep or [{}])[0]),
            options=with_changes(recorded.options, {"progress": False, **changes}),
            mesh=None if on_cluster else _mesh(recorded, points, changes.get("devices"), trains),
            folder=folder,
            layout=_layout(recorded) if on_cluster or recorded.batch_sizes else None,
            space=space,
        )
    except UsageError:
        raise
    except Exception as error:  # of custom code, or of another version's fields
        raise UsageError(f"{folder / manifest.FILE} cannot be used here: {located(error)}.") from error
    saved = [] if on_cluster else checkpoints.load(folder)  # there the workers read them
    for one in saved:
        session.check_checkpoint(experiment, one, trains)
    if trains and saved and any(getattr(point.config.env, "resets_itself", False) for point in experiment.points):
        console.say(
            "Environments on the host cannot be saved: their episodes begin anew, and the bits differ from those of a "
            "run that was never stopped."
        )
    return experiment, saved


def _layout(recorded: Manifest) -> Layout:
    """How a cluster is to train a run that has begun."""
    return Layout(recorded.devices, "", recorded.threads, recorded.batch_sizes)


def _mesh(recorded: Manifest, points: list[sweeps.Point], devices: int | None, trains: bool) -> jax.sharding.Mesh:
    """The requested devices, or as many as before if available; report differences that change bits."""
    runs = len(points) * recorded.options.seeds
    shard, configs = recorded.options.shard, [point.config for point in points]
    available = len(visible())
    at_most = min(available, max(recorded.devices, controllers.count()))
    usable = min(available, runs) if shard == "runs" else max_devices(configs, at_most)
    if trains and devices is None and recorded.devices > usable:
        console.say(
            f"This run used {recorded.devices} devices, and only {usable} can be used here: "
            "results agree only to rounding."
        )
    if trains and jax.default_backend() == "cpu" and recorded.threads != cpu_threads():
        console.say(
            f"This run used {recorded.threads} XLA threads, and this process has {cpu_threads()}: "
            "results agree only to rounding."
        )
    return mesh(runs, devices or (usable if shard == "envs" else min(recorded.devices, usable)), shard, configs)


def _extended(point: sweeps.Point, total_steps: int) -> Any:
    """A configuration with another length and the same schedules."""
    config = point.config
    if not hasattr(config, "schedule_steps"):
        raise UsageError(
            f"{type(config).__module__.rpartition('.')[2]} has no schedule_steps, so its schedules end with "
            "total_steps: a longer run of it must start anew."
        )
    horizon = config.schedule_steps or config.total_steps
    return replace(config, total_steps=total_steps, schedule_steps=horizon)


def _warn_if_annealed(configs: list[Any], total_steps: int) -> None:
    """Warn that a longer run learns nothing once its learning rate is zero."""
    ends = {c.schedule_steps for c in configs if schedules.falls_to_zero(getattr(c, "learning_rate", None))}
    if ends and min(ends) < total_steps:
        console.say(
            f"The learning rate is annealed to zero at {min(ends):,} env steps, where its schedule ends, so nothing is "
            "learned after them: a run that may become longer needs a constant learning_rate, or schedule_steps as "
            "large as the length it may reach, from the start."
        )
