"""Training throughput of every algorithm, compared with its floors: `python benchmarks/throughput.py`.

For each row, and for 1 to 4,096 seeds as time allows: training env steps per second (median of REPEATS runs of
`rljax.run` with evaluation off), seconds to compile, bytes per run, and two floors measured in the same minutes: a
random policy stepping the same environments, and the program's matrix products at the machine's peak rate. The ratio
of a floor is the share of the row's time that the floor by itself would take: 1 is the upper limit. Ratios can be
compared between CPUs, speeds cannot.

`--check` measures a few rows and compares their ratios with `results/baseline.json`; it fails if one has fallen by
more than the tolerance in that file. `--baseline` writes that file.
"""

import argparse
import importlib.metadata
import os
import pathlib
import platform
import statistics
from collections.abc import Iterator
from typing import Any

import floors
import jax
import random_policy
import script

import rljax
from rljax import algos, core
from rljax.backend.devices import configure_jax
from rljax.errors import UsageError
from rljax.experiment import compilation

RESULTS = pathlib.Path(__file__).parent / "results"
REPEATS = 5
SECONDS = 2.0  # target time of a run of at least UPDATES updates
LONGEST = 30.0  # rows whose UPDATES updates would take longer are left out
UPDATES = 4  # minimum per run
SEEDS = [1, 64, 4096]
ROWS = [
    ("q_learning", "FrozenLake-misc"),
    ("dqn", "CartPole-v1"),
    ("pqn", "CartPole-v1"),
    ("reinforce", "CartPole-v1"),
    ("a2c", "CartPole-v1"),
    ("ppo", "CartPole-v1"),
    ("recurrent_ppo", "CartPole-v1"),
    ("sac", "Pendulum-v1"),
    ("td3", "Pendulum-v1"),
    ("ppo", "Breakout-MinAtar"),
    ("dqn", "Breakout-MinAtar"),
]
CHECKED = {  # rows of --check, with the environment steps per run
    ("q_learning", "FrozenLake-misc"): 40_000,
    ("dqn", "CartPole-v1"): 3_000,
    ("ppo", "CartPole-v1"): 20_000,
}
CHECKED_SEEDS = 16
CHECK_REPEATS = 3  # most of a check's three minutes is compiling
TOLERANCE = 0.5  # allowed loss of a ratio: speed on these machines varies by a quarter and more


def seconds_of(algorithm: Any, config: Any, seeds: int, seed: int) -> dict[str, Any]:
    """Train and return the summary."""
    return rljax.run(algorithm, config, seeds=seeds, seed=seed, evaluations=0, eval_episodes=1, progress=False).summary


def bytes_of_a_run(devices: int) -> float:
    """Bytes of the programs compiled last, per run that they update at once."""
    last = compilation.latest()
    advance: Any = last.advance
    lanes = jax.tree.leaves(advance.args_info)[0].shape[0]  # fewer than all runs if they train in batches
    return last.bytes / (lanes // devices)


def measure(algo: str, env: str, seeds: int, steps: int, repeats: int = REPEATS) -> dict[str, Any]:
    """Measure one row: the speed of `seeds` parallel runs of `steps` steps and, in turns with it, the floors."""
    algorithm, config = algos.algorithm(algo), rljax.preset(algo, env, total_steps=steps)
    random = random_policy.Config(
        env=config.env, num_envs=config.num_envs, total_steps=max(steps, 128 * config.num_envs)
    )
    compilation.forget()  # the short run that estimates the speed may have used the same program
    first = seconds_of(algorithm, config, seeds, 0)
    devices = min(seeds, len(jax.devices()))
    memory = bytes_of_a_run(devices)
    seconds_of(random_policy, random, seeds, 0)
    learning, stepping, product_rates = [], [], []
    for repeat in range(1, repeats + 1):
        learning.append(seconds_of(algorithm, config, seeds, repeat)["train_seconds"])
        stepping.append(seconds_of(random_policy, random, seeds, repeat)["train_seconds"])
        product_rates.append(floors.product_rate())
    product_rate = statistics.median(product_rates)
    seconds = statistics.median(learning)
    # Filling a replay buffer is part of `init`, which is not timed.
    trained = config.num_updates * core.steps_per_update(config)
    stepped = random.num_updates * core.steps_per_update(random)
    key, state = jax.random.key(0), jax.eval_shape(algorithm.init, jax.random.key(0), config)
    operations = config.num_updates * floors.product_operations(algorithm.update, key, state, config)
    return {
        "algorithm": algo,
        "environment": env,
        "seeds": seeds,
        "devices": devices,
        "env_steps_of_each": trained,
        "env_steps_per_second": seeds * trained / seconds,
        "spread": (max(learning) - min(learning)) / seconds,
        "compile_seconds": first["compile_seconds"],
        "megabytes_of_each": memory / 1e6,
        "operations_per_env_step": operations / trained,
        "of_stepping": statistics.median(stepping) / stepped * trained / seconds,
        "of_products": seeds * operations / product_rate / seconds,
        "product_gigaflops": product_rate / 1e9,
    }


def rows_of(algo: str, env: str, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Measure one algorithm on one environment; the steps of each row take about `SECONDS` at the last speed."""
    config = rljax.preset(algo, env)
    prefill = config.total_steps - config.num_updates * core.steps_per_update(config)
    prefill = prefill if hasattr(config, "prefill_steps") else 0
    least = prefill + UPDATES * core.steps_per_update(config)
    speed = None
    for number in seeds:
        if speed is None:  # a short run estimates the speed
            short = rljax.preset(algo, env, total_steps=least)
            run = [seconds_of(algos.algorithm(algo), short, number, seed)["train_seconds"] for seed in (0, 1)][1]
            speed = number * (least - prefill) / run
        if number * least / speed > LONGEST:
            print(f"| {algo} | {env} | {number:,} | left out: {UPDATES} updates would take over {LONGEST:.0f} s |")
            return
        steps = prefill + max(int(SECONDS * speed / number), least - prefill)
        row = measure(algo, env, number, min(steps, config.total_steps))
        speed = row["env_steps_per_second"]
        yield row


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows with the machine and versions."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "gymnax")}
    return {
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **versions},
        "repeats": REPEATS,
        "rows": rows,
    }


def show(row: dict[str, Any]) -> None:
    """Print one line of the table."""
    print(
        f"| {row['algorithm']} | {row['environment']} | {row['seeds']:,} | {row['env_steps_per_second']:,.0f} | "
        f"{row['spread']:.0%} | {row['of_stepping']:.1%} | {row['of_products']:.1%} | {row['compile_seconds']:.1f} | "
        f"{row['megabytes_of_each']:.2f} |",
        flush=True,
    )


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Plot the ratios over the number of seeds, one line per algorithm and environment."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), sharex=True, sharey=True)
    for panel, floor in zip(panels, ("of_stepping", "of_products"), strict=True):
        for name in dict.fromkeys((row["algorithm"], row["environment"]) for row in rows):
            line = [row for row in rows if (row["algorithm"], row["environment"]) == name and row[floor] > 0]
            panel.plot([r["seeds"] for r in line], [r[floor] for r in line], marker="o", label=" on ".join(name))
        panel.set(xscale="log", yscale="log", xlabel="seeds", title=f"share of the time {floor.replace('_', ' ')}")
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def checked_rows(repeats: int) -> list[dict[str, Any]]:
    """Measure the rows of `--check`."""
    return [measure(*names, CHECKED_SEEDS, steps, repeats) for names, steps in CHECKED.items()]


def check() -> int:
    """Compare with the baseline; return the number of ratios below the tolerance."""
    baseline = script.read(RESULTS / "baseline.json")
    device = jax.devices()[0].device_kind
    if baseline is None or baseline["device"] != device or len(baseline["rows"]) != len(CHECKED):
        raise UsageError(
            f"There is no baseline of this device ({device}) with these rows: "
            "measure one with `rljax bench throughput --baseline`."
        )
    failures = 0
    for now, was in zip(checked_rows(CHECK_REPEATS), baseline["rows"], strict=True):
        show(now)
        for floor in ("of_stepping", "of_products"):
            if now[floor] < (1.0 - baseline["tolerance"]) * was[floor]:
                failures += 1
                print(
                    f"{now['algorithm']} on {now['environment']} is at {now[floor]:.1%} {floor.replace('_', ' ')} and "
                    f"was at {was[floor]:.1%}: it lost more than {baseline['tolerance']:.0%} of its speed."
                )
    return failures


def main(arguments: list[str]) -> int:
    """Measure, print and write; the exit code is 1 if a check failed."""
    configure_jax()
    parser = argparse.ArgumentParser(description="Training throughput, compared with its floors.")
    short = parser.add_mutually_exclusive_group()
    short.add_argument("--check", action="store_true", help="compare a few rows with results/baseline.json")
    short.add_argument("--baseline", action="store_true", help="write results/baseline.json")
    parser.add_argument(
        "--seeds", type=script.positive, nargs="+", help="numbers of parallel runs (default: 1, 64 and 4,096)"
    )
    parser.add_argument("--algorithms", nargs="+", choices=sorted({algo for algo, _ in ROWS}), help="default: all")
    parser.add_argument("--out", type=script.output, help="output file (default: results/throughput.json)")
    given = parser.parse_args(arguments)
    if (given.check or given.baseline) and (given.seeds or given.algorithms or given.out):
        parser.error("--check and --baseline have fixed rows: drop --seeds, --algorithms and --out")
    out = given.out or RESULTS / "throughput.json"
    columns = ("algorithm", "environment", "seeds", "env steps/s", "spread", "of stepping", "of products")
    print("| " + " | ".join((*columns, "compile s", "MB per run")) + " |\n" + "|---" * 9 + "|", flush=True)
    if given.check:
        return int(check() > 0)
    if given.baseline:
        baseline = {"tolerance": TOLERANCE, **report(checked_rows(REPEATS))}
        script.write(RESULTS / "baseline.json", baseline)
        return 0
    rows = []
    for algo, env in ROWS:
        if given.algorithms and algo not in given.algorithms:
            continue
        for row in rows_of(algo, env, given.seeds or SEEDS):
            rows.append(row)
            show(row)
            script.write(out, report(rows))
    draw(rows, out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    script.run(main, "finished rows of the table are written, those of a check or a baseline are not.")
