"""A trainable for Ray Tune, whose schedulers stop, pause and copy our runs."""

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.errors import UsageError
from rljax.experiment import checkpoints, evaluating, loop, placement, session, shipping, sweeps, worker
from rljax.experiment.batching import Batch, lanes_for
from rljax.experiment.checkpoints import Saved
from rljax.experiment.combining import states_of
from rljax.experiment.history import Record, Runs
from rljax.experiment.interrupts import wait
from rljax.experiment.naming import resolved
from rljax.experiment.options import Options, with_changes
from rljax.experiment.run import check
from rljax.experiment.spec import Experiment
from rljax.report import statistics

_TAKEN = ("seeds", "seed", "evaluations", "eval_episodes", "eval_policy", "eval_env", "name")
_BATCH = "0000"  # folder of the checkpoints


def tune_trainable(algorithm: Any, config: Any, **options: Any) -> Callable[[dict[str, Any]], None]:
    """Make a trainable for Ray Tune: `ray.tune.Tuner(rljax.tune_trainable("ppo", "Acrobot-v1", seeds=5), ...)`.

    A trial trains all seeds of one configuration side by side, on the CPUs or the GPU that Tune gives it. Tune's config
    has values of fields by path, `{"learning_rate": tune.loguniform(1e-4, 1e-2), "env.params.gravity": 9.8}`. After
    each evaluation it reports

    - `return`: the interquartile mean over the seeds of their mean returns;
    - `updates` and `env_steps`, of one seed;
    - other means of the evaluation, such as `length`;

    and saves a checkpoint, from which Tune may continue it, also with other values of traced fields, as its
    population-based training does. Tune counts the evaluations as `training_iteration`, from 1.

    Args:
        algorithm, config: as for `rljax.run`, with fields of the config to override among the options.
        **options: `seeds`, `seed`, `evaluations` (at least one), `eval_episodes` (at most 20 are played),
            `eval_policy`, `eval_env` and `name` of `rljax.run`.

    Raises:
        UsageError: an argument is invalid, or Tune is not installed.
    """
    algorithm, config, options = resolved(algorithm, config, options)
    chosen = with_changes(Options(), options, _TAKEN, "tune_trainable")
    check(algorithm, config)
    if not chosen.evaluations:
        raise UsageError("Tune gets the returns of evaluations: pass evaluations=1 or more.")
    name = chosen.name or algorithm.__name__
    evaluating.check(algorithm, name, [config.env], chosen.eval_policy, chosen.eval_env)
    try:
        from ray import cloudpickle, tune
    except ImportError:
        raise UsageError("Tune is a part of Ray: pip install 'rljax-engine[tune]'.") from None
    shipment = shipping.pack(_Job(algorithm, name, config, chosen), cloudpickle.dumps)

    def trainable(values: dict[str, Any]) -> None:
        resources = tune.get_context().get_trial_resources().required_resources
        _configure_jax(int(resources.get("CPU", 1)), resources.get("GPU", 1))
        _train(worker.unpacked(shipment), values)

    return trainable


class _Job(NamedTuple):
    """What trials need to know."""

    algorithm: Any
    name: str
    config: Any
    options: Options


def _train(job: _Job, values: dict[str, Any]) -> None:
    """Train a trial, and report to Tune."""
    from ray import tune

    options = job.options
    experiment = Experiment(
        algorithm=job.algorithm,
        name=job.name,
        points=[sweeps.point(job.config, values)],
        fields=(),
        options=options,
        mesh=placement.mesh(options.seeds, None),
        folder=None,
    )
    runs = Runs.of([(0, seed) for seed in range(options.seeds)])
    batch = Batch(experiment.groups()[0], runs, lanes_for(len(runs), experiment.lane_devices))
    programs, lanes, keys, capacity = session.compiled(experiment, batch)
    record, states = Record(runs), None
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            saved = checkpoints.newest(pathlib.Path(folder) / checkpoints.FOLDER / _BATCH)
        if saved is None:
            raise UsageError(f"{checkpoint} is not a checkpoint of rljax.tune_trainable.")
        record, states = saved.record, states_of(experiment, saved, batch.lanes)[0]
    start = [wait(programs.init, lanes.keys, lanes.config) if states is None else states]
    num_updates = batch.num_updates(experiment)
    marks = experiment.marks(num_updates, record.eval_updates)
    reporter = _Reporter(experiment, batch, programs.axes, np.asarray(jax.random.key_data(keys.updates))[: len(runs)])
    loop.train(programs, lanes, keys, start, record, marks, num_updates, capacity, reporter)


def _configure_jax(cpus: int, gpus: float) -> None:
    """Use the CPUs and the part of a GPU's memory that the trial has, and not those of others."""
    if 0 < gpus < 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * gpus:.3f}")
    if "NPROC" not in os.environ:
        os.environ["NPROC"] = str(max(cpus, 1))
        jax.config.update("jax_num_cpu_devices", max(cpus, 1))


class _Reporter:
    """Reports each evaluation to Tune; see `loop.Observer`."""

    def __init__(self, experiment: Experiment, batch: Batch, axes: Any, keys: np.ndarray) -> None:
        self._experiment, self._batch, self._axes, self._keys = experiment, batch, axes, keys

    def after_chunk(self, record: Record, states: Any) -> None:
        """Nothing: Tune stops a trial when it reports."""

    def after_evaluation(self, record: Record, states: Any) -> None:
        """Report it, unless nothing was trained yet."""
        from ray import tune

        if not record.updates:
            return
        leaves, axes = placement.capture(states, self._axes, len(record.runs))
        about, lean = self._experiment.about, record.without_metrics()
        measures = {measure: float(np.nanmean(x)) for measure, x in record.eval_measures[-1].items()}
        metrics = {
            **measures,
            "return": statistics.score(record.evaluations[-1]),
            "updates": record.updates,
            "env_steps": record.env_steps,
        }
        with tempfile.TemporaryDirectory() as folder:
            writer = checkpoints.Writer(pathlib.Path(folder))
            writer.save(_BATCH, Saved(lean, leaves, axes, self._keys, None, self._batch.lanes, about))
            writer.close()
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    def interrupted(self, record: Record) -> bool:
        """Never: Tune ends its trials itself."""
        return False
