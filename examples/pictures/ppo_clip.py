"""PPO's clip: what the objective of one sample is at each probability ratio, for both signs of its advantage.

python examples/pictures/ppo_clip.py        # writes ppo_clip.png
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from rljax import losses

CLIP = 0.2


def main(path: str) -> dict[str, np.ndarray]:
    """Plot the objective and its gradient against the ratio, and return them."""
    import matplotlib.pyplot as plt

    ratio = jnp.linspace(0.4, 1.6, 241)

    def objective(ratio: jax.Array, advantage: jax.Array) -> jax.Array:
        return -losses.clipped_surrogate(jnp.log(ratio), advantage, CLIP)

    curves = {"ratio": ratio}
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axes, sign, advantage in zip(panels, ("positive", "negative"), jnp.array([1.0, -1.0]), strict=True):
        curves[sign] = objective(ratio, advantage)
        curves[f"{sign} gradient"] = jax.vmap(jax.grad(objective), (0, None))(ratio, advantage)
        axes.plot(ratio, ratio * advantage, "--", color="0.6", label="without the clip")
        axes.plot(ratio, curves[sign], color="tab:blue", label="objective")
        flat = curves[f"{sign} gradient"] == 0
        axes.plot(ratio[flat], curves[sign][flat], color="tab:red", linewidth=3, label="no gradient")
        axes.axvspan(1 - CLIP, 1 + CLIP, color="0.93", zorder=0)
        axes.plot(1, advantage, "o", color="black")
        axes.set(title=f"{sign} advantage", xlabel="probability ratio, new policy to old", ylabel="objective")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return {name: np.asarray(values) for name, values in curves.items()}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "ppo_clip.png")
