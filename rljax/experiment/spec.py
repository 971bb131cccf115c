"""What is to be trained: runs, and the batches in which they are trained side by side."""

import dataclasses
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rljax.backend import versions
from rljax.config import describe
from rljax.errors import UsageError
from rljax.experiment import checkpoints, sweeps
from rljax.report import console, files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
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
        """A number that differs where the experiment is another one, whatever its length."""
        configs = [describe(point.config) for point in self.points]
        for described in configs:
            if "schedule_steps" in described:  # the length may change, the schedules may not
                described["schedule_steps"] = described["schedule_steps"] or described["total_steps"]
                del described["total_steps"]
        return zlib.crc32(files.as_json([self.name, self.seeds, self.seed, self.halving, configs]).encode())

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of where it comes from."""
        device = self.mesh.devices.flat[0].device_kind
        return {
            "fingerprint": self.fingerprint,
            "versions": versions.versions(),
            "device": device,
            "devices": self.mesh.size,
        }

    def check_own(self, saved: checkpoints.Saved) -> None:
        """Refuse a checkpoint of another experiment; say so where its bits will not be met."""
        of_saved = saved.about["fingerprint"]
        if of_saved != self.fingerprint:
            raise UsageError(
                f"The checkpoints in {self.folder} are not of the run that its config.json describes: "
                "one of them was changed; restore it."
            )
        for name in ("versions", "device"):
            if saved.about[name] != self.about[name]:
                console.say(f"this run was begun on another {name.rstrip('s')}: results agree to rounding only.")
