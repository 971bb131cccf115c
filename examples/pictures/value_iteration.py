"""Value iteration sweep by sweep: values spread from the goal of a maze, and the error shrinks.

python examples/pictures/value_iteration.py        # writes value_iteration.png
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from rljax import envs, planning
from rljax.envs.toy_text import DYNA_MAZE

SWEEPS, SHOWN, DISCOUNT = 20, (1, 5, 10, 14), 0.95


def main(path: str) -> dict[str, np.ndarray]:
    """Plot values after some sweeps, and the error after each; return both."""
    import matplotlib.pyplot as plt

    model = envs.tabular_model("GridWorld-misc")
    exact = jax.jit(planning.value_iteration)(model, DISCOUNT).values

    def sweep(values: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        values = planning.action_values(model, values, DISCOUNT).max(axis=-1)
        return values, values

    _, values = jax.lax.scan(sweep, jnp.zeros_like(exact), None, length=SWEEPS)
    errors = np.abs(np.asarray(values - exact)).max(axis=-1)
    tiles = np.array([list(row) for row in DYNA_MAZE])
    walls, goal = tiles == "#", tiles == "G"
    figure, panels = plt.subplots(1, len(SHOWN) + 1, figsize=(14, 2.4), layout="constrained")
    for axes, after in zip(panels, SHOWN, strict=False):
        grid = np.where(walls, np.nan, np.asarray(values[after - 1]).reshape(walls.shape))
        axes.set_facecolor("0.3")
        image = axes.imshow(grid, cmap="viridis", vmin=float(exact.min()), vmax=0)
        axes.plot(*np.argwhere(goal)[0][::-1], "*", color="white", markersize=12)
        axes.set(title=f"after {after} sweep{'s' if after > 1 else ''}", xticks=[], yticks=[])
    figure.colorbar(image, ax=panels[len(SHOWN) - 1])
    panels[-1].plot(range(1, SWEEPS + 1), errors, marker=".")
    panels[-1].set(title="largest error", xlabel="sweeps", ylim=(0, None))
    figure.savefig(path, dpi=150)
    return {"values": np.asarray(values), "errors": errors, "exact": np.asarray(exact)}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "value_iteration.png")
