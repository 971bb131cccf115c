"""What is to be trained: runs, and the batches in which they are trained side by side."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rljax import checkpoints, sweeps
from rljax.checks import scalar
from rljax.errors import UsageError
from rljax.report import console, files

SHARDED = ("runs", "envs")  # what may be divided over the devices


def mesh(runs: int, devices: int | None, shard: str = "runs", configs: Sequence[Any] = ()) -> Mesh:
    """The devices to use, on an axis named for what is sharded over them.

    Args:
        runs: how many there are; where they are sharded, no more devices are used.
        devices: how many to use; None for all.
        shard: one of `SHARDED`.
        configs: of the runs; with "envs" the environments of each must divide over the devices.
    """
    there, devices = jax.local_devices(), scalar(devices)
    if shard not in SHARDED:
        raise UsageError(f"shard={shard!r} cannot be: it is 'runs' or 'envs'.")
    if devices is not None and (not isinstance(devices, int) or not 1 <= devices <= len(there)):
        raise UsageError(f"devices={devices} cannot be had: JAX shows {len(there)} here.")
    used = devices or len(there)
    if shard == "runs":
        used = min(used, runs)
    else:
        for config in configs:
            _check_envs(config, used)
    return Mesh(np.array(there[:used]), (shard,))


def most_devices(configs: Sequence[Any], at_most: int) -> int:
    """Over how many devices the environments of all these configs divide."""
    counts = [getattr(config, "num_envs", 1) for config in configs]
    return next(used for used in range(at_most, 0, -1) if not any(count % used for count in counts))


def _check_envs(config: Any, devices: int) -> None:
    if not hasattr(config, "num_envs"):
        raise UsageError('shard="envs" divides num_envs environments over devices, and the config has no num_envs.')
    if config.num_envs % devices:
        whole, fewer = -(-config.num_envs // devices) * devices, most_devices([config], devices)
        raise UsageError(
            f"num_envs={config.num_envs} environments do not divide over {devices} devices: "
            f"take num_envs={whole}, or devices={fewer}."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Population:
    """What is to be trained, and how."""

    algorithm: Any
    name: str
    points: tuple[sweeps.Point, ...]
    fields: tuple[str, ...]  # that are swept; none without a sweep
    seeds: int
    seed: int
    evaluations: int
    eval_episodes: int
    mesh: Mesh
    folder: pathlib.Path | None
    progress: bool
    is_first: bool = True  # of several processes: it writes what is one file for all of them
    checkpoint_every: float | None
    memory_limit: int | None  # bytes of all devices together
    halving: int | None  # of that many configurations one goes on after each rung

    @property
    def lane_devices(self) -> int:
        """Devices that a batch's lanes are divided over: one where every run is on all of them."""
        return self.mesh.size if "runs" in self.mesh.axis_names else 1

    @property
    def title(self) -> str:
        """What is trained on what."""
        return f"{self.name} on {', '.join(dict.fromkeys(point.config.env.name for point in self.points))}"

    def marks(self, num_updates: int, evaluated: Sequence[int] = ()) -> tuple[int, ...]:
        """Numbers of updates at which to evaluate: those at which it was done, and those to come."""
        if not self.evaluations:
            return tuple(evaluated)
        marks = (int(u) for u in np.unique(np.linspace(0, num_updates, self.evaluations + 1).round()))
        return (*evaluated, *(u for u in marks if not evaluated or u > evaluated[-1]))

    def rungs(self, group: sweeps.Group, num_updates: int) -> list[tuple[int, int]]:
        """Successive halving: updates after which a group's configurations are compared, and how many go on.

        As in the Hyperband paper's inner loop (Li et al. 2018), each rung is as many times longer as fewer go on, so
        that every rung costs about the same.
        """
        rungs: list[tuple[int, int]] = []
        left, updates = len(group.points), num_updates
        while self.halving is not None and left > 1 and updates // self.halving >= 1:
            updates //= self.halving
            left = -(-left // self.halving)
            rungs.append((updates, left))
        ends = sorted(updates for updates, _ in rungs)
        return [(end, left) for end, (_, left) in zip(ends, rungs, strict=True)]

    def updates(self, group: sweeps.Group) -> int:
        """Updates of all runs of a group together."""
        whole = self.points[group.points[0]].config.num_updates
        left, total = len(group.points), 0
        for end, following in self.rungs(group, whole):
            total += (left - following) * end
            left = following
        return self.seeds * (total + left * whole)

    @property
    def keys(self) -> jax.Array:
        """Each seed's key."""
        return jax.random.split(jax.random.key(self.seed), self.seeds)

    @property
    def fingerprint(self) -> int:
        """A number that differs where the population is another one, whatever its length."""
        return self._checksum([files.describe(point.config) for point in self.points])

    def _checksum(self, configs: list[dict[str, Any]]) -> int:
        for described in configs:
            if "schedule_steps" in described:  # the length may change, the schedules may not
                described["schedule_steps"] = described["schedule_steps"] or described["total_steps"]
                del described["total_steps"]
        return zlib.crc32(files.as_json([self.name, self.seeds, self.seed, self.halving, configs]).encode())

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of where it comes from."""
        device = self.mesh.devices.flat[0].device_kind
        return {"fingerprint": self.fingerprint, "versions": versions(), "device": device, "devices": self.mesh.size}

    def check_own(self, saved: checkpoints.Saved) -> None:
        """Refuse a checkpoint of another population; say so where its bits will not be met."""
        of_saved = saved.about["fingerprint"]
        described = (files.without_recipes(files.describe(point.config)) for point in self.points)
        if of_saved != self.fingerprint and of_saved != self._checksum(list(described)):  # that of older versions
            raise UsageError(
                f"The checkpoints in {self.folder} are not of the run that its config.json describes: "
                "one of them was changed; restore it."
            )
        for name in ("versions", "device"):
            if saved.about[name] != self.about[name]:
                console.say(f"this run was begun on another {name.rstrip('s')}: results agree to rounding only.")


class Batch(NamedTuple):
    """Runs that are trained side by side by one compiled program."""

    group: sweeps.Group
    runs: np.ndarray  # [R, 2] configuration and seed of each
    lanes: int  # as many as there are runs, and a few more where these do not divide over the devices
    saved: checkpoints.Saved | None = None
    rung: int = 0  # of successive halving
    dropped: bool = False  # at its rung
    place: str = ""  # name of its folder of checkpoints; none before it begins

    def split(self, lanes: int, devices: int) -> list["Batch"]:
        """Batches of at most so many lanes, all laid out alike so that one program trains them."""
        parts = -(-len(self.runs) // lanes)
        size = -(-len(self.runs) // parts)
        runs = [self.runs[first : first + size] for first in range(0, len(self.runs), size)]
        return [Batch(self.group, part, divided(size, devices)) for part in runs]

    def num_updates(self, population: Population) -> int:
        """Of a whole run."""
        return population.points[self.runs[0, 0]].config.num_updates

    def until(self, population: Population) -> int:
        """Updates at which it ends: those of a whole run, or of its rung."""
        whole = self.num_updates(population)
        rungs = population.rungs(self.group, whole)
        return rungs[self.rung][0] if self.rung < len(rungs) else whole

    def is_done(self, population: Population) -> bool:
        """Whether a checkpoint holds its end."""
        saved = self.saved
        if saved is None or saved.final is None:
            return False
        return self.dropped or saved.record.updates >= self.until(population)

    def folder(self, population: Population) -> pathlib.Path:
        """Where its checkpoints are."""
        assert population.folder is not None
        return population.folder / checkpoints.FOLDER / self.place


def divided(runs: int, devices: int) -> int:
    """The lanes of so many runs: a few more where they do not divide over the devices."""
    return -(-runs // devices) * devices


def batches(
    population: Population, groups: list[sweeps.Group], saved: list[checkpoints.Saved], parts: int = 1
) -> list[Batch]:
    """Those that have checkpoints, and those of the runs that have none, a group's in so many parts."""
    devices = population.lane_devices
    group_of = {point: group for group in groups for point in group.points}
    planned: list[Batch] = []
    begun: set[tuple[int, int]] = set()
    for one in reversed(saved):  # a later batch goes on with what an earlier one's rung has left
        runs = [tuple(run) for run in one.record.runs.tolist()]
        rows = np.array([i for i, run in enumerate(runs) if run not in begun])
        begun.update(runs)
        part = one if len(rows) == len(runs) else one.rows(rows)
        group = group_of[int(part.record.runs[0, 0])]
        lanes, dropped = divided(one.lanes, devices), part is not one
        planned.insert(0, Batch(group, part.record.runs, lanes, part, one.rung, dropped, one.place))
    for group in groups:
        runs = [(point, seed) for point in group.points for seed in range(population.seeds)]
        left = [run for run in runs if run not in begun]
        if not left:
            continue
        # Those of a group that was split are laid out as its first batch was: other shapes would round otherwise.
        like = next((batch for batch in planned if batch.group is group), None)
        each = -(-len(left) // parts)
        size, lanes = (each, divided(each, devices)) if like is None else (len(like.runs), like.lanes)
        planned += [Batch(group, np.array(left[i : i + size]), lanes) for i in range(0, len(left), size)]
    return sorted(planned, key=lambda batch: tuple(batch.runs[0]))  # a configuration's seeds in their order


@functools.cache
def versions() -> dict[str, str]:
    """Of what a run's bits depend on."""
    names = {"rljax": "rljax-engine"} | {name: name for name in ("jax", "jaxlib", "flax", "optax", "gymnax")}
    return {"python": platform.python_version()} | {name: _version(package) for name, package in names.items()}


def _version(package: str) -> str:
    """A package's version; of one that is on the path but not installed nobody knows it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
