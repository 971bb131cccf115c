"""How populations scale: time and memory of a run as more of them train side by side, and what the driver costs.

`python benchmarks/scaling.py` writes `results/scaling.json` and prints its tables; `python benchmarks/scaling.py 1 64`
measures these numbers of seeds alone. PPO on CartPole-v1, 4 environments x 128 steps, evaluation off. Every figure is
the median of REPEATS runs after one that compiles.
"""

import json
import os
import pathlib
import statistics
import sys
import time

import jax

import rljax
from rljax import ppo, programs
from rljax.devices import use_cpu_cores

RESULTS = pathlib.Path(__file__).parent / "results" / "scaling.json"
SEEDS = [4**i for i in range(7)]
MOST_STEPS = 20_480  # of a run; of many runs fewer, since what is asked for is the time of a step
LEAST_STEPS = 1_024
ALL_STEPS = 1_310_720  # of all runs together, where that leaves each of them as many as it must have
REPEATS = 3
DRIVER_STEPS = 102_400
DRIVER_REPEATS = 8
OPTIONS: dict = {"evaluations": 0, "eval_episodes": 1, "progress": False}


def config(seeds: int) -> ppo.Config:
    """PPO's defaults with as many steps a run as there is time for."""
    steps = min(max(ALL_STEPS // seeds, LEAST_STEPS), MOST_STEPS)
    return ppo.Config(env=rljax.make("CartPole-v1"), total_steps=steps)


def measure(seeds: int, devices: int) -> dict:
    """Seconds and bytes of one run among so many."""
    seconds = []
    for repeat in range(REPEATS + 1):
        result = rljax.run(ppo, config(seeds), seeds=seeds, seed=repeat, devices=devices, **OPTIONS)
        seconds.append(result.summary["train_seconds"])
    lanes = -(-seeds // devices)
    memory = next(reversed(programs._compiled.values())).memory
    env_steps = seeds * result.summary["env_steps"]
    return {
        "seeds": seeds,
        "devices": devices,
        "env_steps_of_each": result.summary["env_steps"],
        "env_steps_per_second": env_steps / statistics.median(seconds[1:]),
        "microseconds_per_env_step": 1e6 * statistics.median(seconds[1:]) / env_steps,
        "spread": (max(seconds[1:]) - min(seconds[1:])) / statistics.median(seconds[1:]),
        "kilobytes_per_run": memory / lanes / 1e3,
    }


def overhead(seeds: int) -> dict:
    """What `rljax.run` adds to a bare `jit(vmap(train))` on one device; they take turns at going first.

    `training` compares the updates alone, `whole` everything that `run` does, compilation (cached) and one episode of
    every final policy among it.
    """
    long = rljax.replace(config(1), total_steps=DRIVER_STEPS)
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
    ratios = sorted(train / alone - 1.0 for alone, train, _ in pairs)
    return {
        "seeds": seeds,
        "steps": DRIVER_STEPS,
        "repeats": DRIVER_REPEATS,
        "bare_seconds": statistics.median(bare[1:]),
        "training": {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]},
        "whole": {"median": statistics.median(everything / alone - 1.0 for alone, _, everything in pairs)},
    }


def main(arguments: list[str]) -> None:
    """Measure, print and write."""
    use_cpu_cores()
    seeds = [int(number) for number in arguments] or SEEDS
    devices = sorted({1, len(jax.devices())})
    rows = []
    print("| seeds | devices | env steps/s | us an env step | spread | kB a run |\n|---|---|---|---|---|---|")
    for used in devices:
        for number in seeds:
            if number >= used:
                rows.append(measure(number, used))
                row = rows[-1]
                print(
                    f"| {number:,} | {used} | {row['env_steps_per_second']:,.0f} | "
                    f"{row['microseconds_per_env_step']:.2f} | {row['spread']:.0%} | {row['kilobytes_per_run']:.1f} |",
                    flush=True,
                )
    driver = overhead(64)
    percent = {name: 100 * value for name, value in driver["training"].items()}
    print(
        f"driver over bare jit(vmap(train)), {driver['seeds']} seeds x {DRIVER_STEPS:,} steps: "
        f"{percent['median']:+.1f}% "
        f"({percent['least']:+.1f}% to {percent['most']:+.1f}%)"
    )
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": os.cpu_count()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**about, "scaling": rows, "driver": driver}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
