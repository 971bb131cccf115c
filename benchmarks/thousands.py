"""Two thousand PPO agents on CartPole-v1 in one program, as in purejaxrl: `python benchmarks/thousands.py`.

purejaxrl's README claims 2,048 agents of 500,000 environment steps in about 98 s on an A100. This benchmark repeats its
`ppo.py`: same networks, batches, epochs, annealed learning rate, entropy bonus and value clipping. One difference: a
time limit is not a termination here. A GPU takes half a minute, a CPU of two cores three quarters of an hour;
`--seeds`, `--steps` and `--repeats` reduce the work. Writes `--out` (default `results/thousands.json`).
"""

import argparse
import json
import pathlib
import statistics

import script

import rljax
from rljax import ppo
from rljax.backend.devices import configure_jax
from rljax.schedules import linear

RESULT = pathlib.Path(__file__).parent / "results" / "thousands.json"
CLAIM = {"env_steps_per_second": 2048 * 500_000 / 98, "device": "A100", "source": "purejaxrl's README"}


def config(steps: int) -> ppo.Config:
    """Hyperparameters of purejaxrl's `ppo.py`."""
    return ppo.Config(
        env=rljax.make("CartPole-v1"),
        total_steps=steps,
        learning_rate=linear(2.5e-4, 0),
        entropy_coefficient=0.01,
        value_clip=0.2,
        num_envs=4,
        num_steps=128,
        num_epochs=4,
        num_minibatches=4,
        hidden_sizes=(64, 64),
        activation="tanh",
    )


def main(arguments: list[str]) -> None:
    """Train once to compile, then `--repeats` times, and write the results."""
    configure_jax()
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=script.positive, default=2048, help="agents")
    parser.add_argument("--steps", type=script.positive, default=500_000, help="environment steps per agent")
    parser.add_argument("--repeats", type=script.positive, default=3, help="timed runs")
    parser.add_argument("--out", type=script.output, default=RESULT, help="output file")
    given = parser.parse_args(arguments)
    runs = [
        rljax.run(ppo, config(given.steps), seeds=given.seeds, seed=repeat, evaluations=0, progress=False).summary
        for repeat in range(given.repeats + 1)
    ]
    first, timed = runs[0], runs[1:]
    seconds = [run["train_seconds"] for run in timed]
    env_steps = given.seeds * first["env_steps"]
    speed = env_steps / statistics.median(seconds)
    learned = {name: value for name, value in timed[-1]["final_return"].items() if name != "per_seed"}
    result = {
        "device": first["device"],
        "versions": first["versions"],
        "agents": given.seeds,
        "env_steps_of_each": first["env_steps"],
        "repeats": given.repeats,
        "seconds": {"median": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)},
        "compile_seconds": first["compile_seconds"],
        "env_steps_per_second": speed,
        "final_return": learned,
        "claim": CLAIM,
        "times_the_claim": speed / CLAIM["env_steps_per_second"],
    }
    script.write(given.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    script.run(main, "results are written only after all repeats.")
