"""Compare recommenders while they learn: engagement per session, means of seeds with 95% intervals.

Encoders of history, an entropy coefficient that falls or stays, and a myopic learner, next to fixed policies.
    python examples/recommender.py [SEEDS] [STEPS] [ID]
"""

import sys
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import rljax
from rljax import a2c, schedules
from rljax.envs import heuristics, recommender

MEASURES = {"episode_return": "return", "episode_clicks": "clicks", "episode_length": "session length"}
LEARNERS: dict[str, dict[str, Any]] = {
    "no state": {"encoder": "history_none"},
    "one-hot": {"encoder": "history_one_hot"},
    "recency-weighted mean": {"encoder": "history_mean"},
    "GRU": {"encoder": "history_gru"},
    "attention": {"encoder": "history_attention"},
    "mean, constant entropy": {"encoder": "history_mean", "entropy_coefficient": 0.03},
    "mean, myopic (discount 0)": {"encoder": "history_mean", "discount": 0.0},
}


def trained(name: str, world: str, seeds: int, steps: int) -> dict[str, np.ndarray]:
    """The measures of sessions in each twentieth of training, `[seeds, 20]`."""
    changes = {"entropy_coefficient": schedules.linear(0.03, 0.0), "total_steps": steps, **LEARNERS[name]}
    config = rljax.replace(rljax.preset("a2c", "recommender/drift-100", **changes), env=rljax.make(world))
    keys = jax.random.split(jax.random.key(0), seeds)
    metrics = jax.jit(jax.vmap(a2c.train, (0, None)))(keys, config)[1]
    parts = {measure: np.array_split(np.asarray(metrics[measure]), 20, axis=1) for measure in MEASURES}
    return {measure: np.stack([np.nanmean(x, axis=1) for x in pieces], axis=1) for measure, pieces in parts.items()}


def fixed(world: str) -> dict[str, dict[str, float]]:
    """The mean measures of policies that do not learn, over 1,000 sessions."""
    env = rljax.make(world)
    policies = {
        "random": (env, heuristics.random(env)),
        "most popular": (env, recommender.most_popular(env)),
        "greedy, knows the person": (recommender.revealed(env), recommender.greedy(env)),
    }
    found = {name: rljax.play(jax.random.key(1), *pair, num_episodes=1000) for name, pair in policies.items()}
    each = {name: {"return": one.returns, **one.measures} for name, one in found.items()}
    return {name: {f"episode_{what}": float(x.mean()) for what, x in one.items()} for name, one in each.items()}


def main() -> None:
    seeds, steps = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 5), (2, 200_000)))
    world = sys.argv[3] if len(sys.argv) > 3 else "recommender/drift-100"
    figure = Figure(figsize=(13, 4.2), dpi=150, layout="constrained")
    panels = dict(zip(MEASURES, figure.subplots(1, 3), strict=True))
    for name, measured in fixed(world).items():
        print(f"{name:26}", "  ".join(f"{what} {measured[measure]:6.2f}" for measure, what in MEASURES.items()))
        for measure, axes in panels.items():
            axes.axhline(measured[measure], color="grey", linewidth=0.8, linestyle=":")
            axes.annotate(name, (steps, measured[measure]), ha="right", va="bottom", fontsize=7, color="grey")
    for name in LEARNERS:
        curves = trained(name, world, seeds, steps)
        for measure, axes in panels.items():
            x, mean = steps * (np.arange(20) + 0.5) / 20, curves[measure].mean(axis=0)
            error = 1.96 * curves[measure].std(axis=0, ddof=min(seeds - 1, 1)) / np.sqrt(seeds)
            (line,) = axes.plot(x, mean, label=name)
            axes.fill_between(x, mean - error, mean + error, color=line.get_color(), alpha=0.2, linewidth=0)
            axes.set(xlabel="recommendations", title=f"{MEASURES[measure]} per session")
        last = (f"{what} {curves[measure][:, -2:].mean():6.2f}" for measure, what in MEASURES.items())
        print(f"{name:26}", "  ".join(last), flush=True)
    panels["episode_return"].legend(frameon=False, fontsize=7)
    figure.savefig("recommender.png")


if __name__ == "__main__":
    main()
