"""How well the learners learn: presets on fresh seeds, measured beside what others reached.

`make learning` writes LEARNING.md; `python benchmarks/learning.py ppo Pendulum-v1` measures one line and prints it.
Protocol: greedy evaluation of every seed's final policy, IQM over 20 seeds with a 95% bootstrap interval. The seeds
start at SEED; presets were tuned on others.
"""

import json
import pathlib
import sys
from typing import NamedTuple

import rljax
from rljax import presets

HERE = pathlib.Path(__file__).parent
SEED = 20_261_122
SEEDS = 20


class Claim(NamedTuple):
    """A line of the table: the preset to run, how to judge it, and what it is held against."""

    algo: str
    env: str
    bar: float
    reference: str
    episodes: int = 100


CLAIMS = [
    Claim("ppo", "CartPole-v1", 495, "RL Zoo 500 (1 run), CleanRL 490 at 500k (3 seeds)"),
    Claim("ppo", "Pendulum-v1", -175, "RL Zoo -172 (1 run); optimum about -139", episodes=1000),
    Claim("ppo", "MountainCar-v0", -112, "RL Zoo -110.4 (1 run); optimum about -97.7"),
    Claim("ppo", "Breakout-MinAtar", 5, "a random policy 0.43; PPO 43 at 20 times the steps (gymnax-blines)"),
]


def measure(claim: Claim) -> dict:
    """Train a preset on 20 fresh seeds; the run's summary."""
    config = rljax.preset(claim.algo, claim.env)
    algorithm = presets.algorithm(claim.algo)
    result = rljax.run(algorithm, config, seeds=SEEDS, seed=SEED, evaluations=0, eval_episodes=claim.episodes)
    return result.summary


def row(claim: Claim, summary: dict) -> str:
    """The table's line."""
    final = summary["final_return"]
    low, high = final["ci95"]
    interval = f"{final['iqm']:.1f} [{low:.1f}, {high:.1f}]"
    cells = [claim.algo, claim.env, f"{summary['env_steps']:,}", interval, f"{final['min']:.1f}", f"{claim.bar:g}"]
    return "| " + " | ".join([*cells, claim.reference]) + " |"


def main(arguments: list[str]) -> None:
    """Measure the claims that the arguments name, or all, and write the table."""
    chosen = [claim for claim in CLAIMS if not arguments or set(arguments) <= {claim.algo, claim.env}]
    results = HERE / "results" / "learning.json"
    results.parent.mkdir(exist_ok=True)
    known = json.loads(results.read_text()) if results.exists() else {}
    for claim in chosen:
        known[f"{claim.algo} {claim.env}"] = measure(claim)
        results.write_text(json.dumps(known, indent=1) + "\n")
        print(row(claim, known[f"{claim.algo} {claim.env}"]))
    lines = [row(claim, known[key]) for claim in CLAIMS if (key := f"{claim.algo} {claim.env}") in known]
    head = "| algorithm | environment | env steps | IQM return [95% interval] | worst seed | bar | reference |"
    text = f"""# What the learners reach

Written by `make learning`. Presets as they are in `rljax.presets`; greedy evaluation of every seed's final policy over
100 episodes (Pendulum 1000); interquartile mean over {SEEDS} seeds that were not used for tuning, with its 95%
bootstrap interval. Every seed's value is in `results/learning.json`.

{head}
|---|---|---|---|---|---|---|
{chr(10).join(lines)}
"""
    (HERE / "LEARNING.md").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
