"""Going on with a run, or using it: what a folder's checkpoints hold, and the experiment that they are of."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax import envs
from rljax.backend.devices import cpu_threads, parse_bytes
from rljax.config import replace
from rljax.errors import UsageError, number
from rljax.experiment import checkpoints, folders, manifest, placement, sweeps, trainer
from rljax.experiment.batching import batches
from rljax.experiment.placement import mesh, most_devices
from rljax.experiment.processes import Hosts, peers
from rljax.experiment.results import Result, Sweep, by_seed, joined
from rljax.experiment.run import check, check_checkpoints, check_together, path_of, start_jax
from rljax.experiment.spec import Experiment
from rljax.report import console, files
from rljax.types import Policy, RecurrentPolicy


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
    start_jax()
    folder, together = path_of("folder", folder), hosts or Hosts()
    is_first = together.process == 0
    with folders.held(folder if is_first else None):  # before anything is read, as another process may write
        experiment, saved = _restored(folder, algorithm, config, env, sweep, devices, together.processes)
        if together.processes > 1:
            check_together(folder, experiment.halving)
        every = experiment.checkpoint_every if checkpoint_every is None else checkpoint_every
        check_checkpoints(every, folder)
        experiment = dataclasses.replace(
            experiment, progress=progress and is_first, is_first=is_first, checkpoint_every=every
        )
        if memory_limit is not None:
            experiment = dataclasses.replace(experiment, memory_limit=parse_bytes(memory_limit))
        if total_steps is not None and experiment.halving is not None:
            raise UsageError("A run with successive halving cannot be made longer: its rungs depend on its length.")
        if total_steps is not None:
            total_steps = number("total_steps", total_steps, whole=True)
            points = tuple(point._replace(config=_extended(point, total_steps)) for point in experiment.points)
            experiment = dataclasses.replace(experiment, points=points)
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
            return trainer.train(experiment, saved, others)


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
    folder = path_of("folder", folder)
    experiment, saved = _restored(folder, algorithm, config, env, sweep, None)
    if configuration is None:
        path = folder / "summary.json"
        best = files.read_json(path).get("best") if experiment.fields and path.exists() else None
        configuration = best["configuration"] if best else 0
    configuration = number("configuration", configuration, whole=True)
    if not 0 <= configuration < len(experiment.points):
        raise UsageError(f"There is no configuration {configuration}: there are {len(experiment.points)}.")
    point = experiment.points[configuration]
    parts = []
    for batch in batches(experiment, sweeps.groups(list(experiment.points)), saved):
        rows = np.flatnonzero(batch.runs[:, 0] == configuration)
        one = batch.saved
        if one is not None and len(rows):
            states = placement.stacked(*trainer.states_of(experiment, one, len(batch.runs)), one.record)
            returns = np.full(len(rows), np.nan) if one.final is None else one.final[rows].mean(axis=1)
            own = jax.tree.map(lambda x, rows=rows: x[rows[0] : rows[-1] + 1], states)
            parts.append((own, returns, batch.runs[rows, 1]))
    if not parts:
        raise UsageError(f"{folder} has no checkpoint of configuration {configuration} yet.")
    seeds = np.concatenate([seeds for _, _, seeds in parts])
    states = by_seed(joined([states for states, _, _ in parts]), seeds)
    returns = by_seed(np.concatenate([returns for _, returns, _ in parts]), seeds)
    return Loaded(point.config, states, experiment.algorithm, returns)


def best(folder: str | os.PathLike[str], **of: Any) -> Policy | RecurrentPolicy:
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


def _restored(
    folder: pathlib.Path,
    algorithm: Any,
    config: Any,
    env: Any,
    sweep: Mapping[str, Any] | None,
    devices: int | None,
    processes: int = 1,
) -> tuple[Experiment, list[checkpoints.Saved]]:
    """The experiment that a folder describes, and its batches as they stand."""
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
            algorithm = manifest.algorithm_of(about["recipe"])
        if config is None:
            config = manifest.config_of(about["recipe"], algorithm, None if env is None else envs.make(env))
        manifest.check_unchanged(about["config"], config)
        points = manifest.points(config, about, sweep)
        if "total_steps" in about:
            points = [point._replace(config=_extended(point, about["total_steps"])) for point in points]
        counts = {name: about[name] for name in ("seeds", "seed", "evaluations", "eval_episodes")}
        check(algorithm, config, **counts)
        runs = -(-len(points) * counts["seeds"] // processes)
        shard, configs = about["shard"], [point.config for point in points]
        there = len(jax.local_devices())
        there = min(there, runs) if shard == "runs" else most_devices(configs, min(there, about["devices"]))
        if devices is None and about["devices"] > there:
            console.say(f"{about['devices']} devices were used and there are {there}: results agree to rounding.")
        threads = about.get("threads", cpu_threads())
        if jax.default_backend() == "cpu" and threads != cpu_threads():
            console.say(f"XLA's threads were {threads} and are {cpu_threads()}: results agree to rounding.")
        experiment = Experiment(
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
        experiment.check_own(one)
    return experiment, saved


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
