"""Exploration schedules: epsilon, the probability of a random action, during training.

python examples/pictures/exploration_schedules.py        # writes exploration_schedules.png
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from rljax import schedules

STEPS, EPISODES = 100_000, 500
SCHEDULES = (
    "constant(0.1)",
    "linear(1.0, 0.05, fraction=0.5)",
    "exponential(1.0, 0.05)",
    "cosine(1.0, 0.05)",
    "piecewise((1.0, 0.3, 0.05), (0.25, 0.6))",
    "per_episode(1.0, 0.05, 0.99)",
)


def main(path: str) -> dict[str, np.ndarray]:
    """Plot each schedule over a run of equally long episodes, and return them."""
    import matplotlib.pyplot as plt

    done = jnp.linspace(0.0, 1.0, 201)
    curves = {}
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for text in SCHEDULES:
        schedule = schedules.of("epsilon", text)
        epsilon = jax.vmap(lambda progress, s=schedule: schedules.value(s, progress, progress * EPISODES))(done)
        curves[text] = np.asarray(epsilon)
        axes.plot(done * STEPS, curves[text], label=text)
    axes.set(xlabel=f"environment steps ({EPISODES} episodes)", ylabel="epsilon", ylim=(0, 1.02))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return curves


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "exploration_schedules.png")
