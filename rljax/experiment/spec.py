"""What is trained: an algorithm's configurations, the options, and the devices."""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rljax.backend.versions import versions
from rljax.experiment.description import describe
from rljax.experiment.evaluating import Evaluation
from rljax.experiment.options import Options
from rljax.experiment.sweeps import Point
from rljax.report import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, and how."""

    algorithm: Any
    name: str
    points: tuple[Point, ...]
    fields: tuple[str, ...]  # that are swept; empty without a sweep
    options: Options
    mesh: Mesh
    folder: pathlib.Path | None
    is_first: bool = True  # of several processes: the one that writes the files they share

    def evaluation(self, episodes: int) -> Evaluation:
        """How its policies are evaluated, in this number of episodes side by side."""
        return Evaluation(episodes, self.options.eval_env, self.options.eval_policy == "greedy")

    @property
    def num_runs(self) -> int:
        """Runs of all configurations."""
        return len(self.points) * self.options.seeds

    @property
    def lane_devices(self) -> int:
        """Devices that a batch's lanes are divided over: 1 if every run uses all devices."""
        return self.mesh.size if "runs" in self.mesh.axis_names else 1

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
        device = self.mesh.devices.flat[0].device_kind
        return {"fingerprint": self._fingerprint, "versions": versions(), "device": device, "devices": self.mesh.size}

    @property
    def _fingerprint(self) -> int:
        """A checksum that identifies the experiment, whatever its length."""
        configs = [describe(point.config) for point in self.points]
        for described in configs:
            if "schedule_steps" in described:  # a resumed run may be longer, with the same schedules
                described["schedule_steps"] = described["schedule_steps"] or described["total_steps"]
                del described["total_steps"]
        options = self.options
        return zlib.crc32(files.as_json([self.name, options.seeds, options.seed, options.halving, configs]).encode())
