"""Draw the regret of seven agents on ten Bernoulli arms, means of 1,000 seeds with 95% intervals.

python examples/bandits.py [SEEDS] [STEPS]
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure

import rljax
from rljax.algos import algorithm

AGENTS = ("thompson", "kl_ucb", "epsilon_greedy", "decaying_epsilon_greedy", "softmax", "ucb1", "exp3")


def regret(name: str, seeds: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[U]`, and each seed's regret after them `[seeds, U]`. All agents meet the same problems."""
    config = rljax.preset(name, "bandits/bernoulli-10", total_steps=steps, num_steps=max(steps // 50, 1))
    train = algorithm(name).train
    keys = jax.random.split(jax.random.key(0), seeds)
    _, metrics = jax.jit(jax.vmap(train, (0, None)))(keys, config)
    return np.asarray(metrics["env_steps"][0]), np.asarray(metrics["regret"])


def main() -> None:
    seeds, steps = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 1000), (2, 5000)))
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name in AGENTS:
        time, regrets = regret(name, seeds, steps)
        mean, error = regrets.mean(axis=0), 1.96 * regrets.std(axis=0) / np.sqrt(seeds)
        (line,) = axes.plot(time, mean, label=name.replace("_", " "))
        axes.fill_between(time, mean - error, mean + error, color=line.get_color(), alpha=0.25, linewidth=0)
        print(f"{name:24} regret {mean[-1]:6.1f} +- {error[-1]:.1f}")
    axes.set(xlabel="steps", ylabel="regret", title=f"Ten Bernoulli arms, {seeds} seeds: mean regret, 95% intervals")
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig("bandits.png")
    print("bandits.png")


if __name__ == "__main__":
    main()
