"""The variance of REINFORCE's gradient estimates: without a baseline, with a constant one, with the exact values.

The policy of a softmax over a table of logits is uniform, the process random, and episodes have 20 steps.

    python examples/pictures/reinforce_variance.py        # writes reinforce_variance.png
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from rljax import envs, losses, planning, rollout

STATES, ACTIONS, HORIZON = 10, 4, 20


def estimates(num_episodes: int) -> dict[str, jax.Array]:
    """The gradient estimate of each episode by itself, `[num_episodes, STATES * ACTIONS]`, for each baseline."""
    process = envs.random_mdp(jax.random.key(0), STATES, ACTIONS)
    env = envs.time_limit(process, HORIZON)
    key_reset, key_actions, key_rollout = jax.random.split(jax.random.key(1), 3)
    actions = jax.random.randint(key_actions, (HORIZON, num_episodes), 0, ACTIONS)
    collector = rollout.reset(key_reset, env, num_episodes)
    _, steps, _ = rollout.rollout(key_rollout, lambda action, _: (action, action), actions, collector, env, HORIZON)
    returns = jnp.cumsum(steps.reward[::-1], axis=0)[::-1]  # of the rest of the episode, [HORIZON, num_episodes]

    def backup(values: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        values = planning.action_values(process.params, values, 1.0).mean(axis=-1)
        return values, values

    _, values = jax.lax.scan(backup, jnp.zeros(STATES), length=HORIZON)  # with 1, 2, ... steps left
    baselines = {
        "no baseline": jnp.zeros_like(returns),
        "mean return": jnp.broadcast_to(returns.mean(), returns.shape),
        "exact values": jnp.take_along_axis(values[::-1], steps.obs, axis=1),
    }

    def gradient(states: jax.Array, actions: jax.Array, advantages: jax.Array) -> jax.Array:
        def loss(logits: jax.Array) -> jax.Array:
            return losses.policy_gradient(jax.nn.log_softmax(logits)[states, actions], advantages).sum()

        return -jax.grad(loss)(jnp.zeros((STATES, ACTIONS))).ravel()

    return {
        name: jax.vmap(gradient, 1)(steps.obs, steps.action, returns - baseline) for name, baseline in baselines.items()
    }


def main(path: str, num_episodes: int = 4096) -> dict[str, dict[str, np.ndarray]]:
    """Plot the total variance of estimates from batches of several sizes; return it with their means."""
    import matplotlib.pyplot as plt

    sizes = 2 ** np.arange(0, 8)
    found = {}
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, each in jax.jit(estimates, static_argnums=0)(num_episodes).items():
        batches = [np.asarray(each).reshape(-1, size, each.shape[1]).mean(axis=1) for size in sizes]
        variance = np.array([batch.var(axis=0, ddof=1).sum() for batch in batches])
        found[name] = {"sizes": sizes, "variance": variance, "mean": batches[0].mean(axis=0)}
        axes.loglog(sizes, variance, marker="o", label=name)
    axes.set(xlabel="episodes in a batch", ylabel="total variance of the gradient estimate")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return found


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "reinforce_variance.png")
