"""Growth of cost with seeds, environments, network width, replay size and devices; overhead of `rljax.run`.

`python benchmarks/scaling.py` writes `results/scaling.json` and prints its tables; `python benchmarks/scaling.py
seeds` measures only this axis and keeps the other results in the file. Work: PPO on CartPole-v1, 4 environments x 128
steps, for the replay size DQN; evaluation off. Every figure is the median of REPEATS runs after one that compiles. The
exponent b of an axis is fitted to seconds per update = a x^b by least squares on logarithms: 1 means that cost grows
in proportion, 0 that it does not grow.
"""

import argparse
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import script
from throughput import bytes_of_a_run

import rljax
from rljax import dqn, ppo
from rljax.backend.devices import configure_jax
from rljax.errors import UsageError
from rljax.experiment import compilation

RESULTS = pathlib.Path(__file__).parent / "results" / "scaling.json"
REPEATS = 3
DRIVER_STEPS = 102_400
DRIVER_REPEATS = 8
OPTIONS: dict = {"evaluations": 0, "eval_episodes": 1, "progress": False}


class Work(NamedTuple):
    """The runs of one measurement."""

    algorithm: Any
    config: Any
    seeds: int = 1
    devices: int = 1


def of_ppo(updates: int, **changes: Any) -> ppo.Config:
    """PPO with this number of updates per run."""
    envs = changes.get("num_envs", 4)
    return ppo.Config(env=rljax.make("CartPole-v1"), total_steps=updates * 128 * envs, **changes)


def of_seeds(number: int, devices: int = 1) -> Work:
    """PPO with many seeds, and fewer updates the more seeds there are: the result is the time of one update."""
    return Work(ppo, of_ppo(min(max(2560 // number, 2), 40)), number, devices)


def of_replay(size: int) -> Work:
    """DQN with a full replay buffer, whose sampling is measured."""
    steps = size + 20_000
    config = dqn.Config(env=rljax.make("CartPole-v1"), buffer_size=size, prefill_steps=size, total_steps=steps)
    return Work(dqn, rljax.replace(config, prioritized=True))


AXES: dict[str, tuple[list[int], Callable[[int], Work]]] = {
    "seeds": ([4**i for i in range(7)], lambda seeds: of_seeds(seeds, min(seeds, len(jax.devices())))),
    "environments": ([4**i for i in range(1, 6)], lambda envs: Work(ppo, of_ppo(max(160 // envs, 2), num_envs=envs))),
    "width": ([2**i for i in range(4, 10)], lambda width: Work(ppo, of_ppo(20, hidden_sizes=(width, width)))),
    "replay size": ([10**i for i in range(3, 7)], of_replay),
    "devices": ([], lambda devices: of_seeds(64, devices)),  # powers of two up to all devices
}


def measure(work: Work) -> dict[str, Any]:
    """Measure the seconds of one update of all runs together, and the bytes per run."""
    algorithm, config, seeds, devices = work
    compilation.forget()  # so that the programs compiled last are the ones used last
    seconds = []
    for repeat in range(REPEATS + 1):
        result = rljax.run(algorithm, config, seeds=seeds, seed=repeat, devices=devices, **OPTIONS)
        seconds.append(result.summary["train_seconds"])
    median = statistics.median(seconds[1:])
    env_steps = seeds * config.num_updates * config.steps_per_update
    return {
        "updates": config.num_updates,
        "devices": devices,
        "seconds_per_update": median / config.num_updates,
        "env_steps_per_second": env_steps / median,
        "spread": (max(seconds[1:]) - min(seconds[1:])) / median,
        "kilobytes_per_run": bytes_of_a_run(devices) / 1e3,
    }


def exponent(rows: list[dict[str, Any]]) -> float:
    """Fit b in seconds per update = a x^b."""
    logs = np.log([[row["x"], row["seconds_per_update"]] for row in rows])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def along(axis: str) -> dict[str, Any]:
    """Measure and print the rows of one axis, and fit its exponent."""
    values, work = AXES[axis]
    values = values or [2**i for i in range(len(jax.devices()).bit_length())]
    print(f"\n| {axis} | devices | ms per update | env steps/s | spread | kB per run |\n|---|---|---|---|---|---|")
    rows = []
    for value in values:
        row = {"x": value, **measure(work(value))}
        rows.append(row)
        print(
            f"| {value:,} | {row['devices']} | {1e3 * row['seconds_per_update']:.2f} | "
            f"{row['env_steps_per_second']:,.0f} | {row['spread']:.0%} | {row['kilobytes_per_run']:.1f} |",
            flush=True,
        )
    if len(rows) < 2:
        return {"rows": rows}
    ends = {"exponent": exponent(rows), "exponent_of_the_upper_half": exponent(rows[-(len(rows) // 2 + 1) :])}
    print(f"exponent of {axis}: {ends['exponent']:.2f}, in the upper half {list(ends.values())[1]:.2f}")
    return {"rows": rows, **ends}


def overhead(seeds: int) -> dict:
    """Measure the overhead of `rljax.run` over a bare `jit(vmap(train))` on one device; they alternate in going first.

    `training` compares only the updates; `whole` compares everything that `run` does, including (cached) compilation
    and one episode of every final policy.
    """
    long = rljax.replace(of_ppo(1), total_steps=DRIVER_STEPS)
    bare: list[float] = []
    driven: list[float] = []
    whole: list[float] = []
    keys = jax.random.split(jax.random.key(0), seeds)
    compiled = jax.jit(jax.vmap(ppo.train, (0, None))).lower(keys, long).compile()

    def run_bare(repeat: int) -> None:
        keys = jax.random.split(jax.random.key(repeat), seeds)
        started = time.perf_counter()
        jax.block_until_ready(compiled(keys, long))
        bare.append(time.perf_counter() - started)

    def run_driven(repeat: int) -> None:
        started = time.perf_counter()
        result = rljax.run(ppo, long, seeds=seeds, seed=repeat, devices=1, **OPTIONS)
        whole.append(time.perf_counter() - started)
        driven.append(result.summary["train_seconds"])

    for repeat in range(DRIVER_REPEATS + 1):
        for measured in (run_bare, run_driven) if repeat % 2 else (run_driven, run_bare):
            measured(repeat)
    pairs = list(zip(bare[1:], driven[1:], whole[1:], strict=True))
    ratios = sorted(train / base - 1.0 for base, train, _ in pairs)
    return {
        "seeds": seeds,
        "steps": DRIVER_STEPS,
        "repeats": DRIVER_REPEATS,
        "bare_seconds": statistics.median(bare[1:]),
        "training": {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]},
        "whole": {"median": statistics.median(everything / base - 1.0 for base, _, everything in pairs)},
    }


def main(arguments: list[str]) -> None:
    """Measure, print, and write the results after each axis."""
    configure_jax()
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("axes", nargs="*", help=f"{', '.join(AXES)} (default: all, and the overhead of rljax.run)")
    axes = parser.parse_args(arguments).axes
    for axis in axes:
        if axis not in AXES:
            raise UsageError(f"There is no axis {axis!r}: choose from {', '.join(AXES)}.")
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": os.cpu_count()}
    before = script.read(RESULTS) or {}
    # Results of another machine or version are dropped.
    results = before if before.items() >= about.items() else {**about, "axes": {}}

    def write() -> None:
        script.write(RESULTS, results)

    for axis in axes or AXES:
        results["axes"][axis] = along(axis)
        write()
    if not axes:
        results["driver"] = driver = overhead(64)
        percent = {name: 100 * value for name, value in driver["training"].items()}
        print(
            f"rljax.run over bare jit(vmap(train)), {driver['seeds']} seeds x {DRIVER_STEPS:,} steps: "
            f"{percent['median']:+.1f}% ({percent['least']:+.1f}% to {percent['most']:+.1f}%)"
        )
        write()


if __name__ == "__main__":
    script.run(main, "finished axes are written.")
