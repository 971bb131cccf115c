"""DQN on MinAtar's Breakout with the budget of the published runs: 1M environment steps, five seeds.

This takes half an hour on one CPU core. The reference is the raw data of reg-duel-q: 16.4 +- 3.1 at 1M, 30 seeds, with
the original dynamics; gymnax's Breakout has no sticky actions and ends after 1000 steps. `python benchmarks/minatar.py
--steps 1000000 --seeds 5` writes `results/minatar_dqn.json` with the device's name.
"""

import argparse
import pathlib

import script

import rljax
from rljax import dqn
from rljax.schedules import linear


def config(total_steps: int) -> dqn.Config:
    """Hyperparameters of reg-duel-q, which updates its target network every 1000 steps, or 250 gradient steps.

    Differences: Adam's epsilon (theirs is 3.1e-4) and the layer of 128 after the convolution. Epsilon falls over 250k
    steps for every budget.
    """
    return dqn.Config(
        env=rljax.make("Breakout-MinAtar"),
        total_steps=total_steps,
        learning_rate=2.5e-4,
        num_envs=1,
        num_steps=4,
        gradient_steps=1,
        batch_size=32,
        buffer_size=100_000,
        prefill_steps=1_000,
        target_period=250,
        epsilon=linear(1.0, 0.01, fraction=min(250_000 / total_steps, 1.0)),
        huber_delta=1.0,
        max_grad_norm=1e9,
        hidden_sizes=(128,),
    )


def main(arguments: list[str]) -> None:
    """Train, evaluate and write the summary."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=script.positive, default=1_000_000, help="environment steps per run")
    parser.add_argument("--seeds", type=script.positive, default=5)
    given = parser.parse_args(arguments)
    result = rljax.run(dqn, config(given.steps), seeds=given.seeds, seed=20_261_122, evaluations=10, name="dqn")
    path = pathlib.Path(__file__).parent / "results" / "minatar_dqn.json"
    script.write(path, result.summary)
    print(f"written to {path}")


if __name__ == "__main__":
    script.run(main, "nothing is written.")
