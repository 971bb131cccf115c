"""A Gaussian policy's density as it learns: it moves to the best action, and narrows.

The task has one step, and the reward is highest at an action of 0.7. The algorithm is REINFORCE.

    python examples/pictures/gaussian_policy.py        # writes gaussian_policy.png
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import core, reinforce
from rljax.distributions import DiagonalGaussian, policy_head

BEST = 0.7


def reset(key: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.zeros(1), jnp.int32(0)


def step(key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> tuple[rljax.TimeStep, jax.Array]:
    return rljax.timestep(jnp.zeros(1), -jnp.square(action[0] - BEST), terminated=True), state


def main(path: str, updates: int = 200, shown: int = 6) -> dict[str, np.ndarray]:
    """Plot the density before training and after parts of it; return its means, deviations and values."""
    import matplotlib.pyplot as plt

    env = rljax.Env(
        name="aim",
        reset=reset,
        step=step,
        observation_space=rljax.Box(-1.0, 1.0, shape=(1,)),
        action_space=rljax.Box(-1.0, 1.0, shape=(1,)),
    )
    config = reinforce.Config(
        env=env,
        total_steps=updates * 64,
        num_envs=64,
        num_steps=1,
        max_episode_steps=1,
        learning_rate=1e-2,
        hidden_sizes=(),
    )
    network, chunk = reinforce.default_network(env, config), updates // (shown - 1)

    @jax.jit
    def run(key: jax.Array) -> DiagonalGaussian:
        key_init, key_updates, _ = core.training_keys(key)

        def train_chunk(state: Any, index: jax.Array) -> Any:
            trained, _ = core.advance(reinforce.update, key_updates, state, config, index * chunk, chunk, chunk)
            return trained, state.params

        _, params = jax.lax.scan(train_chunk, reinforce.init(key_init, config), jnp.arange(shown))
        outputs = jax.vmap(lambda params: network.apply(params, jnp.zeros(1))[0])(params)
        return policy_head(env.action_space).distribution(outputs)

    policy = run(jax.random.key(0))
    actions = jnp.linspace(-2.0, 2.0, 401)
    density = jnp.exp(jax.vmap(policy.log_prob)(jnp.broadcast_to(actions[:, None, None], (401, shown, 1)))).T
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, (values, colour) in enumerate(zip(density, plt.cm.viridis(np.linspace(0, 0.9, shown)), strict=True)):
        axes.plot(actions, values, color=colour, label=f"after {number * chunk} updates")
    axes.axvline(BEST, color="black", linestyle=":", label="best action")
    axes.set(xlabel="action, clipped to [-1, 1]", ylabel="density")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    means, deviations = policy.mean[:, 0], jnp.exp(policy.log_std[:, 0])
    found = {"means": means, "deviations": deviations, "actions": actions, "density": density}
    return {name: np.asarray(values) for name, values in found.items()}


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "gaussian_policy.png")
