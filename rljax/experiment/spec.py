"""What is trained: an algorithm's configurations, the options, and the devices."""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rljax.backend.versions import versions
from rljax.experiment import sweeps
from rljax.experiment.description import describe
from rljax.experiment.evaluating import Evaluation, is_judged_by_training
from rljax.experiment.options import Options
from rljax.experiment.sweeps import Group, Point, Space
from rljax.report import files


class Layout(NamedTuple):
    """The devices of one worker of a cluster, and the batches that were chosen for them."""

    devices: int
    device: str  # their kind
    threads: int  # of XLA on a CPU
    sizes: tuple[int, ...]  # runs of a batch, for each group of configurations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, and how."""

    algorithm: Any
    name: str
    points: list[Point]
    """The configurations. Those that a search has not suggested yet have no values."""
    fields: tuple[str, ...]  # that are swept; empty without a sweep
    options: Options
    mesh: Mesh | None
    """The devices of this process; None in the driver of a cluster, which trains nothing itself."""
    folder: pathlib.Path | None
    layout: Layout | None = None
    """How a cluster trains it, or trained it first."""
    space: Space | None = None
    """What a search chooses from; None without a search."""

    def groups(self) -> list[Group]:
        """The configurations that are trained together; of a search one group for each of its batches."""
        points = list(self.points)
        return sweeps.groups(points) if self.space is None else self.space.groups(points, self.search_batch)

    @property
    def search_batch(self) -> int:
        """Configurations of each batch of a search; the last one may have fewer."""
        count = len(self.points)
        return -(-count // -(-count // self.options.search_batch))

    def evaluation(self, episodes: int) -> Evaluation:
        """How its policies are evaluated, in this number of episodes side by side."""
        return Evaluation(episodes, self.options.eval_env, self.options.eval_policy == "greedy")

    @property
    def judged_by(self) -> str:
        """The policy that is evaluated, or "training" if that is what counts."""
        return "training" if is_judged_by_training(self.algorithm) else self.options.eval_policy

    @property
    def num_runs(self) -> int:
        """Runs of all configurations."""
        return len(self.points) * self.options.seeds

    @property
    def local_mesh(self) -> Mesh:
        """The devices of a process that trains."""
        assert self.mesh is not None
        return self.mesh

    @property
    def devices(self) -> int:
        """How many devices train a batch."""
        if self.mesh is not None:
            return self.mesh.size
        assert self.layout is not None
        return self.layout.devices

    @property
    def device(self) -> str:
        """Their kind."""
        if self.mesh is not None:
            return self.mesh.devices.flat[0].device_kind
        assert self.layout is not None
        return self.layout.device

    @property
    def lane_devices(self) -> int:
        """Devices that a batch's lanes are divided over: 1 if every run uses all devices."""
        return self.devices if self.options.shard == "runs" else 1

    def size_of(self, index: int, group: Group) -> int:
        """The most runs of a batch of this group, which has this index."""
        # All batches of a search have the size of the first, so that one program trains them.
        runs = (len(group.points) if self.space is None else self.search_batch) * self.options.seeds
        if self.layout is not None and self.layout.sizes:
            return min(self.layout.sizes[index if self.space is None else 0], runs)
        return min(self.options.runs_per_batch or runs, runs)

    @property
    def title(self) -> str:
        """The algorithm's and the environments' names."""
        return f"{self.name} on {', '.join(dict.fromkeys(point.config.env.name for point in self.points))}"

    @property
    def keys(self) -> jax.Array:
        """Each seed's key, `[seeds]`."""
        return jax.random.split(jax.random.key(self.options.seed), self.options.seeds)

    def marks(self, num_updates: int, evaluated: Sequence[int] = ()) -> tuple[int, ...]:
        """The numbers of updates at which to evaluate, after those at which a resumed run was evaluated before."""
        if not self.options.evaluations:
            return tuple(evaluated)
        marks = (int(u) for u in np.unique(np.linspace(0, num_updates, self.options.evaluations + 1).round()))
        return (*evaluated, *(u for u in marks if not evaluated or u > evaluated[-1]))

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What a checkpoint records of where it comes from."""
        return {
            "fingerprint": self.fingerprint,
            "versions": versions(),
            "device": self.device,
            "devices": self.devices,
        }

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum that identifies the experiment, whatever its length."""
        configs = [describe(point.config) for point in self.points]
        if self.space is not None:  # the configurations follow from it
            configs = [{**describe(self.space.config), "space": describe(self.space.samplers)}]
        for described in configs:
            if "schedule_steps" in described:  # a resumed run may be longer, with the same schedules
                described["schedule_steps"] = described["schedule_steps"] or described["total_steps"]
                del described["total_steps"]
        options = self.options
        seeds = options.until or options.seeds  # their number grows, and each one's key stays
        return zlib.crc32(files.as_json([self.name, seeds, options.seed, options.halving, configs]).encode())
