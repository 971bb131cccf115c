"""Time 10,000 bandit agents x 10,000 steps in one program, next to a NumPy loop and to one vectorised NumPy program.

    python benchmarks/bandit_speed.py [AGENTS] [STEPS]

All play UCB1 on ten Bernoulli arms with means drawn by agent. The loop is timed for few agents and its time multiplied.
"""

import json
import sys
import time

import jax
import numpy as np

import rljax
from rljax import bandits

LOOPED = 10  # agents of the loop
ARMS = 10


def ours(agents: int, steps: int) -> tuple[float, float, float]:
    """Seconds to run and to compile, and mean regret."""
    config = bandits.ucb1.Config(env=f"bandits/bernoulli-{ARMS}", total_steps=steps, num_steps=min(steps, 1000))
    keys = jax.random.split(jax.random.key(0), agents)
    started = time.perf_counter()
    program = jax.jit(jax.vmap(bandits.ucb1.train, (0, None))).lower(keys, config).compile()
    compiled = time.perf_counter()
    state, _ = jax.block_until_ready(program(keys, config))
    return time.perf_counter() - compiled, compiled - started, float(state.totals.regret.mean())


def loop(agents: int, steps: int) -> tuple[float, float]:
    """Seconds and mean regret of one agent after the other."""
    rng, started, regret = np.random.default_rng(0), time.perf_counter(), 0.0
    for _ in range(agents):
        means, plays, sums = rng.random(ARMS), np.zeros(ARMS), np.zeros(ARMS)
        for step in range(steps):
            arm = step if step < ARMS else int(np.argmax(sums / plays + np.sqrt(2 * np.log(step) / plays)))
            plays[arm] += 1
            sums[arm] += rng.random() < means[arm]
            regret += means.max() - means[arm]
    return time.perf_counter() - started, regret / agents


def vectorised(agents: int, steps: int) -> tuple[float, float]:
    """Seconds and mean regret of all agents side by side."""
    rng, started = np.random.default_rng(0), time.perf_counter()
    means, rows = rng.random((agents, ARMS)), np.arange(agents)
    plays, sums, regret = np.zeros((agents, ARMS)), np.zeros((agents, ARMS)), np.zeros(agents)
    for step in range(steps):
        if step < ARMS:
            arm = np.full(agents, step)
        else:
            arm = np.argmax(sums / plays + np.sqrt(2 * np.log(step) / plays), axis=1)
        plays[rows, arm] += 1
        sums[rows, arm] += rng.random(agents) < means[rows, arm]
        regret += means.max(axis=1) - means[rows, arm]
    return time.perf_counter() - started, float(regret.mean())


def main() -> None:
    agents, steps = (int(sys.argv[i]) if len(sys.argv) > i else 10_000 for i in (1, 2))
    rljax.configure_jax()
    seconds, compiling, regret = ours(agents, steps)
    in_loop, regret_of_loop = loop(min(LOOPED, agents), steps)
    in_loop *= agents / min(LOOPED, agents)
    in_numpy, regret_of_numpy = vectorised(agents, steps)
    measured = {
        "agents": agents,
        "steps": steps,
        "rljax": {"seconds": seconds, "compile_seconds": compiling, "regret": regret},
        "numpy_loop": {"seconds": in_loop, "regret": regret_of_loop},
        "numpy_vectorised": {"seconds": in_numpy, "regret": regret_of_numpy},
    }
    print(json.dumps(measured, indent=1))
    print(f"{in_loop / seconds:.1f} times as fast as the loop, {in_numpy / seconds:.1f} as vectorised NumPy")


if __name__ == "__main__":
    main()
