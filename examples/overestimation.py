"""DQN overestimates action values, and Double DQN does so less, measured against exact values.

The environment is a random process of 20 states and 8 actions with noisy rewards; planning gives its optimal values.
The plot shows each learner's estimate of its best actions' values minus the optimal values during training:

    python examples/overestimation.py        # writes overestimation.png; takes a minute
"""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import core, dqn, envs, planning

DISCOUNT, POINTS = 0.9, 25


def noisy_process(key: jax.Array, deviation: float = 1.0) -> rljax.Env:
    """A random process whose rewards are its model's plus noise of mean zero, which does not change its values."""
    env = envs.random_mdp(key, states=20, actions=8)

    def step(key: jax.Array, state: Any, action: jax.Array, model: envs.Model) -> Any:
        key_step, key_noise = jax.random.split(key)
        result, state = env.step(key_step, state, action, model)
        return result._replace(reward=result.reward + deviation * jax.random.normal(key_noise)), state

    return dataclasses.replace(env, step=step, name="noisy process")


def overestimation(config: dqn.Config, seeds: int) -> np.ndarray:
    """Estimated minus optimal values, averaged over states, at points during training, `[seeds, POINTS]`."""
    network = dqn.default_network(config.env, config)
    optimal = planning.value_iteration(config.env.params, DISCOUNT).values
    chunk = config.num_updates // POINTS

    def run(key: jax.Array) -> jax.Array:
        key_init, key_updates, _ = core.training_keys(key)

        def train_chunk(state: dqn.State, index: jax.Array) -> tuple[dqn.State, jax.Array]:
            first = index * chunk
            state, _ = core.advance(dqn.update, key_updates, state, config, first, chunk, chunk)
            estimates = network.apply(state.params, jnp.arange(20))[..., 0].max(axis=-1)
            return state, jnp.mean(estimates - optimal)

        return jax.lax.scan(train_chunk, dqn.init(key_init, config), jnp.arange(POINTS))[1]

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds)))


def main(path: str, seeds: int = 16) -> dict[str, np.ndarray]:
    """Train both, plot their errors, and return them."""
    import matplotlib.pyplot as plt

    base = dqn.Config(
        env=noisy_process(jax.random.key(42)),
        total_steps=20_000,
        discount=DISCOUNT,
        epsilon=1.0,  # uniformly random actions: both learn from the same data distribution
        learning_rate=1e-3,
        hidden_sizes=(64,),
    )
    double = dataclasses.replace(base, double=True)
    errors = {"DQN": overestimation(base, seeds), "Double DQN": overestimation(double, seeds)}
    steps = base.total_steps * np.arange(1, POINTS + 1) / POINTS
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, curves in errors.items():
        (line,) = axes.plot(steps, curves.mean(axis=0), label=name)
        axes.plot(steps, curves.T, color=line.get_color(), alpha=0.15, linewidth=0.7)
    axes.axhline(0.0, color="black", linewidth=0.8, label="true optimal values")
    axes.set(xlabel="environment steps", ylabel="estimated minus optimal value")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    return errors


if __name__ == "__main__":
    for learner, curves in main(sys.argv[1] if len(sys.argv) > 1 else "overestimation.png").items():
        print(f"{learner}: final overestimation {curves[:, -1].mean():.2f}")
