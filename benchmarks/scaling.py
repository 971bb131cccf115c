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
STEPS = 20_480
REPEATS = 3
OPTIONS: dict = {"evaluations": 0, "eval_episodes": 1, "progress": False}


def config() -> ppo.Config:
    return ppo.Config(env=rljax.make("CartPole-v1"), total_steps=STEPS)


def measure(seeds: int, devices: int) -> dict:
    """Seconds and bytes of one run among so many."""
    seconds = []
    for repeat in range(REPEATS + 1):
        result = rljax.run(ppo, config(), seeds=seeds, seed=repeat, devices=devices, **OPTIONS)
        seconds.append(result.summary["train_seconds"])
    lanes = -(-seeds // devices)
    memory = next(reversed(programs._compiled.values())).memory
    return {
        "seeds": seeds,
        "devices": devices,
        "env_steps_per_second": seeds * result.summary["env_steps"] / statistics.median(seconds[1:]),
        "milliseconds_per_run": 1e3 * statistics.median(seconds[1:]) / seeds,
        "kilobytes_per_run": memory / lanes / 1e3,
    }


def overhead(seeds: int) -> dict:
    """What `rljax.run` takes beside a bare `jit(vmap(train))`, on one device, one after the other."""
    compiled = None
    bare, driven = [], []
    for repeat in range(REPEATS + 1):
        keys = jax.random.split(jax.random.key(repeat), seeds)
        if compiled is None:
            compiled = jax.jit(jax.vmap(ppo.train, (0, None))).lower(keys, config()).compile()
        started = time.perf_counter()
        jax.block_until_ready(compiled(keys, config()))
        bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        result = rljax.run(ppo, config(), seeds=seeds, seed=repeat, devices=1, **OPTIONS)
        whole = time.perf_counter() - started
        driven.append((result.summary["train_seconds"], whole))
    median = statistics.median(bare[1:])
    return {
        "seeds": seeds,
        "bare_seconds": median,
        "driver_train_seconds": statistics.median(train for train, _ in driven[1:]),
        "driver_whole_seconds": statistics.median(whole for _, whole in driven[1:]),
        "overhead": statistics.median(train for train, _ in driven[1:]) / median - 1.0,
    }


def main(arguments: list[str]) -> None:
    """Measure, print and write."""
    use_cpu_cores()
    seeds = [int(number) for number in arguments] or SEEDS
    devices = sorted({1, len(jax.devices())})
    rows = []
    print("| seeds | devices | env steps/s | ms a run | kB a run |\n|---|---|---|---|---|")
    for used in devices:
        for number in seeds:
            if number >= used:
                rows.append(measure(number, used))
                row = rows[-1]
                print(
                    f"| {number:,} | {used} | {row['env_steps_per_second']:,.0f} | {row['milliseconds_per_run']:.2f} | "
                    f"{row['kilobytes_per_run']:.1f} |"
                )
    driver = overhead(64)
    print(f"driver over bare jit(vmap(train)), {driver['seeds']} seeds: {100 * driver['overhead']:+.1f}%")
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "steps": STEPS}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**about, "scaling": rows, "driver": driver}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
