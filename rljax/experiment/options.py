"""The options of a run, each declared once: for `rljax.run`, `rljax.resume`, the command line and `config.json`."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rljax.backend import controllers
from rljax.backend.devices import parse_bytes
from rljax.config import config, field_docs, replace, static, traced
from rljax.envs import Env
from rljax.errors import UsageError, shown
from rljax.report import sequential

MOST_RUNS = 1_000_000  # and evaluations, and episodes of one: more would take hours without a sign of life
SHARDED = ("runs", "envs")  # what can be divided over the devices
LOGGED = ("configuration", "run")  # what is one series of numbers for a logger
EVALUATED = ("greedy", "stochastic")  # policies
KEPT = ("last", "best", "all")  # states that a folder can hold
SEARCHED = ("optuna",)
SAMPLERS = ("tpe", "cmaes")
SEARCH_BATCH = 10  # as many as TPE draws at random before it learns
CHANGEABLE = (  # by `resume`
    *("progress", "devices", "checkpoint_every", "memory_limit", "log"),
    *("cluster", "task_resources", "distributed"),
)
NOT_RECORDED = (  # in config.json: they belong to one call
    *("out", "progress", "overwrite", "name"),
    *("cluster", "distributed"),
)
CLUSTER_SECONDS = 600.0  # between two checkpoints on a cluster, by default


@config
class Options:
    """How runs are trained, evaluated and stored."""

    seeds: int = static(default=1, minimum=1, maximum=MOST_RUNS)
    """Number of runs of each configuration; "until 5%" sets `until`."""
    until: str | None = static(default=None)
    """Train seeds in batches until the interval of the final return's IQM, which holds for all batches together, has at
    most this half-width: "5%" of |IQM|, or an absolute one, "2.5"."""
    seed: int = static(default=0, minimum=0)
    """Seed of the key that all runs' keys are split from, and of the draws of a sweep's samplers."""
    samples: int | None = static(default=None, minimum=1, maximum=MOST_RUNS)
    """Number of draws of a sweep's samplers, or of configurations of a search."""
    search: str | None = static(default=None, choices=SEARCHED)
    """Choose the configurations from a sweep's samplers and lists by what was learned from those before: "optuna"."""
    search_sampler: str = static(default=SAMPLERS[0], choices=SAMPLERS)
    """How a search chooses: "tpe" (Bergstra et al. 2011) or "cmaes" (Hansen 2016), which needs two ranges or more."""
    search_batch: int = static(default=SEARCH_BATCH, minimum=1, maximum=MOST_RUNS)
    """How many configurations a search chooses at once, which are trained side by side in one program."""
    halving: int | None = static(default=None, minimum=2)
    """Successive halving (Jamieson and Talwalkar 2016): after each rung, keep one in this many of a sweep's
    configurations. Each rung is this many times as long as the one before, and the last has the full length."""
    asynchronous: bool = static(default=False)
    """Promote at a rung without waiting for all configurations (ASHA, Li et al. 2020), so that no worker of a cluster
    waits; which configurations continue then depends on the order in which they end the rung."""
    evaluations: int = static(default=20, minimum=0, maximum=MOST_RUNS)
    """Evaluations of the policies during training, after the one before the first update; 0 for none."""
    eval_episodes: int = static(default=100, minimum=1, maximum=MOST_RUNS)
    """Episodes of each seed's final evaluation; evaluations during training use at most 20 of them."""
    eval_policy: str = static(default="greedy", choices=EVALUATED)
    """Which policy evaluations play: "greedy", or "stochastic", which samples actions or explores as in training."""
    eval_env: Env | str | None = traced(default=None)
    """Environment to evaluate in, with the spaces of the one to train in; None for that one."""
    out: str | os.PathLike[str] | None = static(default=None)
    """Folder for config.json, summary.json, curves.csv, metrics.csv, learning_curve.png and the states."""
    keep: tuple[str, ...] = static(default=("last",))
    """Which states the folder holds besides the final ones: "best" for each run's best evaluated policy, "all" for the
    policy of every evaluation."""
    metrics_every: int = static(default=1, minimum=1)
    """Write the metrics of each update whose number is a multiple of this."""
    log: Any = traced(default=())
    """Loggers: csv, jsonl, tensorboard, wandb, trackio, mlflow, or a custom object; see `rljax.report.loggers`."""
    log_each: str = static(default="configuration", choices=LOGGED)
    """What a logger gets as one series: "configuration", the mean over its seeds, or "run"."""
    stop_at: float | None = static(default=None)
    """Freeze a run whose evaluation reaches this return, and end the experiment once all runs have."""
    overwrite: bool = static(default=False)
    """Replace the files of an earlier run in that folder."""
    name: str | None = static(default=None)
    """What to call the algorithm in tables and files, instead of its module's name."""
    progress: bool = static(default=True)
    """Show a progress bar and the table."""
    devices: int | None = static(default=None, minimum=1)
    """Number of devices to use; None for all (on a CPU, one per core)."""
    shard: str = static(default="runs", choices=SHARDED)
    """What to divide over the devices: "runs", each on one device, or "envs", the environments of every run."""
    checkpoint_every: float | None = static(default=None, minimum=0)
    """Seconds between checkpoints, from which `rljax.resume` continues; 0 for one after every chunk; None for none,
    or for every 600 on a cluster."""
    memory_limit: int | str | None = static(default=None)
    """Bytes of all devices together to use at most, or a size such as 8GiB; None for what is free."""
    runs_per_batch: int | None = static(default=None, minimum=1, maximum=MOST_RUNS)
    """Runs that are trained side by side at most; None for as many as fit, and on a cluster for 16 per CPU device or
    256 per other device."""
    cluster: str | None = static(default=None)
    """Train on a Ray cluster, one task per batch: "ray" for the one in RAY_ADDRESS or a new one on this machine,
    "ray=auto" for one that runs on this machine, "ray=HOST:PORT" or "ray://HOST:PORT" for one elsewhere."""
    task_resources: str | None = static(default=None)
    """What each task of a cluster needs, such as "gpu=0.5,cpu=2,memory=4GiB,mine=1"; None for one GPU, or one CPU if
    the cluster has no GPU."""

    distributed: str | None = static(default=None)
    """Divide the environments (shard="envs") over the devices of several processes, which all make the same call:
    "PROCESS/PROCESSES@HOST:PORT", such as "0/2@node1:5000" in the first of two, where HOST is that of process 0; or
    "auto" for what Slurm or Open MPI say."""

    def __post_init__(self) -> None:
        if self.seed >= 2**32:
            raise UsageError(f"seed must be less than 2**32, got {self.seed}.")
        if self.memory_limit is not None:
            parse_bytes(self.memory_limit)
        object.__setattr__(self, "keep", _kept(self.keep))
        object.__setattr__(self, "log", tuple(self.log) if isinstance(self.log, list | tuple) else (self.log,))
        if self.cluster is not None:
            address_of(self.cluster)
        if self.task_resources is not None:
            resources_of(self.task_resources)
        if self.distributed is not None:
            controllers.parse(self.distributed)
            if self.cluster is not None:
                raise UsageError("cluster and distributed cannot be combined: the first is for many runs.")
            if self.shard != "envs":
                raise UsageError(
                    'distributed divides the environments of every run: pass shard="envs" (--shard envs), or for many '
                    "runs use cluster."
                )
            if self.until is not None or self.search is not None:
                raise UsageError("distributed is for one large run: leave until and search out.")
        if self.until is not None:
            self._check_until(self.until)
        if self.asynchronous and self.halving is None:
            raise UsageError("asynchronous is for successive halving: pass halving as well.")
        if self.search is None and (self.search_sampler, self.search_batch) != (SAMPLERS[0], SEARCH_BATCH):
            raise UsageError('search_sampler and search_batch are for a search: pass search="optuna" as well.')
        if self.search is not None and self.halving is not None:
            raise UsageError("search and halving cannot be combined: a search compares runs of full length.")
        if self.stop_at is not None and self.halving is not None:
            raise UsageError("stop_at and halving cannot be combined: rungs compare runs of equal length.")

    def _check_until(self, until: str) -> None:
        sequential.width_of(until)
        if self.seeds == 1:
            object.__setattr__(self, "seeds", sequential.BATCH)
        if self.seeds not in sequential.looks():
            raise UsageError(f"until={until!r} chooses the number of seeds: leave seeds={self.seeds} out.")
        if self.halving is not None or self.cluster is not None or self.distributed is not None:
            raise UsageError(
                "until is for runs of one configuration in one process: leave halving, cluster and distributed out."
            )

    @property
    def keeps_policies(self) -> bool:
        """True if policies are kept at evaluations."""
        return self.keep != ("last",)

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit in bytes."""
        return None if self.memory_limit is None else parse_bytes(self.memory_limit)


def address_of(cluster: str) -> str | None:
    """The address in a value of `cluster`; None for the cluster in RAY_ADDRESS or a new one."""
    name, equals, address = cluster.partition("=")
    if name == "ray" and (address or not equals):
        return address or None
    if cluster.removeprefix("ray://") not in ("", cluster):
        return cluster
    raise UsageError(f"cluster must be ray, ray=auto, ray=HOST:PORT or ray://HOST:PORT, got {cluster!r}.")


def resources_of(text: str) -> dict[str, float]:
    """The resources in a value of `task_resources`; bytes for memory."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        name = name.lower() if name.lower() in ("cpu", "gpu", "memory") else name
        try:
            amount = float(parse_bytes(value)) if name == "memory" else float(value)
        except ValueError:
            amount = -1.0
        is_split = name not in ("cpu", "memory") and amount > 1 and amount != int(amount)
        if not name or name in found or not 0 <= amount < 2.0**63 or is_split:
            raise UsageError(f"task_resources must be like gpu=0.5,cpu=2,memory=4GiB,mine=1, got {text!r}.")
        found[name] = amount
    return found


def with_until(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which `seeds="until 5%"` is written as `until="5%"`.

    Raises:
        UsageError: the number of seeds is another string.
    """
    seeds = given.get("seeds")
    if not isinstance(seeds, str):
        return dict(given)
    word, _, width = seeds.strip().partition(" ")
    if word != "until" or not width:
        raise UsageError(f'seeds must be an integer, or "until 5%" or "until 2.5", got {shown(seeds)}.')
    return {name: value for name, value in given.items() if name != "seeds"} | {"until": width.strip()}


def _kept(given: Any) -> tuple[str, ...]:
    """The states to keep, in order; the final ones always are."""
    names = given.replace(",", " ").split() if isinstance(given, str) else given
    if not isinstance(names, tuple | list) or not set(names) <= set(KEPT):
        raise UsageError(f"keep takes {', '.join(KEPT)}, got {shown(given)}.")
    return tuple(name for name in KEPT if name == "last" or name in names)


def with_changes(
    options: Options, changes: Mapping[str, Any], known: Iterable[str] = (), function: str = "resume"
) -> Options:
    """Apply the changes that are not None; a name that is not `known` to the function is a `UsageError`."""
    for name in changes:
        if known and name not in known:
            raise UsageError(f"{function}() cannot change {name}: it can change {', '.join(known)}.")
    return replace(options, **{name: value for name, value in changes.items() if value is not None})


def documented[**P, T](*names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Put options (all by default) into a function's signature and docstring, for `help` and completion.

    The function takes them as `**options`, and its docstring has a line `{options}` among its arguments.
    """
    docs = field_docs(Options)
    names = names or tuple(docs)

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        defaults = Options()
        is_change = names != tuple(docs)
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if is_change else getattr(defaults, name),
                annotation=Options.__annotations__[name],
            )
            for name in names
        ]
        others = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=[*others, *options])  # type: ignore[attr-defined]
        lines = "\n        ".join(f"{name}: {' '.join(docs[name].split())}" for name in names)
        function.__doc__ = (function.__doc__ or "").replace("{options}", lines)
        return function

    return decorate
