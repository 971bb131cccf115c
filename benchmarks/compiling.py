"""Seconds from a config to a compiled program, for a whole PPO run on CartPole-v1.

Measured with an empty cache, and with JAX's persistent cache filled by the previous process. `python
benchmarks/compiling.py` writes `results/compiling.json`. The time covers tracing, lowering and compiling
`jit(ppo.train)`, but no imports. Every measurement has its own process.
"""

import argparse
import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import script

RESULT = pathlib.Path(__file__).parent / "results" / "compiling.json"
REPEATS = 5


def compile_once(cache: str) -> tuple[float, str]:
    """Compile once in this process; return the seconds and the device."""
    import jax

    jax.config.update("jax_compilation_cache_dir", cache)
    import rljax
    from rljax import ppo

    config = rljax.preset("ppo", "CartPole-v1")
    key = jax.block_until_ready(jax.random.key(0))  # starts JAX
    started = time.perf_counter()
    jax.jit(ppo.train).lower(key, config).compile()
    return time.perf_counter() - started, jax.devices()[0].device_kind


def compile_in_new_process(cache: str) -> tuple[float, str]:
    """Compile once in a new process; return the seconds and the device."""
    done = subprocess.run([sys.executable, __file__, "--cache", cache], check=True, capture_output=True, text=True)
    seconds, device = json.loads(done.stdout.splitlines()[-1])
    return seconds, device


def main(arguments: list[str]) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--cache", type=script.folder, help="compile once, with JAX's cache in this folder, and print the seconds"
    )
    given = parser.parse_args(arguments)
    if given.cache is not None:
        print(json.dumps(compile_once(given.cache)))
        return
    cold, cached = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as cache:
            seconds, device = compile_in_new_process(cache)
            cold.append(seconds)
            cached.append(compile_in_new_process(cache)[0])
    result = {
        "device": device,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "gymnax")},
        "repeats": REPEATS,
        "cold": {"seconds": statistics.median(cold), "fastest": min(cold), "slowest": max(cold)},
        "cached": {"seconds": statistics.median(cached), "fastest": min(cached), "slowest": max(cached)},
    }
    script.write(RESULT, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    script.run(main, "results are written only after all repeats.")
