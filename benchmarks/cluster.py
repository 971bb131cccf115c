"""Start-up and overhead of a Ray cluster on one machine: the same batches with and without `--cluster ray`, in turns.

`python benchmarks/cluster.py` writes `results/cluster.json` and prints its figures. Every figure is the wall time of a
whole command, after one of each kind has filled the cache of compiled programs. Two lengths of training separate what
a command takes once from what grows with the work: start-up is what a cluster adds to the short command, overhead
what it adds to the difference between the long and the short one. Leave the machine idle meanwhile.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import script

RESULTS = pathlib.Path(__file__).parent / "results" / "cluster.json"
SEEDS, PER_BATCH = 64, 8  # eight batches
SHORT, LONG = 512, 200_000  # environment steps of a run
REPEATS = 3
CLUSTERS = {"local": [], "ray": ["--cluster", "ray"]}


def seconds(steps: int, cluster: list[str], cache: str) -> float:
    """Wall time of a command that trains the batches."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "rljax", "train", "ppo", "--env", "CartPole-v1", "--seeds", str(SEEDS)]
        command += ["--runs-per-batch", str(PER_BATCH), "--total-steps", str(steps), "--evaluations", "1"]
        started = time.perf_counter()
        subprocess.run(
            [*command, "--quiet", "--out", f"{out}/x", *cluster],
            env={**os.environ, "RLJAX_CACHE": cache},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - started


def measure() -> dict[str, Any]:
    """Seconds of every command, and what follows from their medians and from each turn."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(REPEATS + 1):
            for name, cluster in CLUSTERS.items():
                for length, steps in (("short", SHORT), ("long", LONG)):
                    took = seconds(steps, cluster, cache)
                    print(f"turn {turn}, {name}, {length}: {took:.1f} s", flush=True)
                    if turn:  # the first one compiles
                        found.setdefault(f"{name}_{length}", []).append(took)
    turns = list(zip(*(found[f"{name}_{length}"] for name in CLUSTERS for length in ("short", "long")), strict=True))
    start_ups = [ray_short - local_short for local_short, _, ray_short, _ in turns]
    overheads = [
        (ray_long - ray_short) / (local_long - local_short) - 1
        for local_short, local_long, ray_short, ray_long in turns
    ]
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "seeds": SEEDS,
        "runs_per_batch": PER_BATCH,
        "seconds": found,
        "start_up_seconds": start_ups,
        "overhead": overheads,
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    results = measure()
    script.write(RESULTS, results)
    for name, unit in (("start_up_seconds", "s"), ("overhead", "")):
        values = results[name]
        print(f"{name}: median {statistics.median(values):.3g} {unit}, {min(values):.3g} to {max(values):.3g}")


if __name__ == "__main__":
    script.run(main, "results are written only after all repeats.")
