"""Reward variants of one task side by side: which of them lets Q-learning find the goal of a maze sooner?

The maze is that of Sutton and Barto 2018, figure 8.2, whose shortest path has 14 steps. The variants are a cost of 1
for each step, a reward of 1 at the goal only, and the latter shaped by the distance to the goal (Ng et al. 1999).

    python examples/reward_variants.py        # writes reward_variants.png and reward_variants.gif
"""

import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rljax
from rljax import core, evaluation, q_learning
from rljax.report import episodes

DISCOUNT, WIDTH, GOAL = 0.95, 9, (0, 8)


class Variant(NamedTuple):
    """What training under one reward gave, judged by the task itself."""

    lengths: np.ndarray
    """Steps to the goal of the greedy policies at points during training, `[seeds, POINTS]`; 200 if they miss it."""
    played: episodes.Played


def goal_only(env: rljax.Env) -> rljax.Env:
    """The same environment with a reward of 1 at the goal, and none elsewhere."""

    def step(key: jax.Array, state: Any, action: jax.Array, params: Any) -> tuple[rljax.TimeStep, Any]:
        result, state = env.step(key, state, action, params)
        return result._replace(reward=result.terminated.astype(jnp.float32)), state

    return env.replace(step=step)


def closeness(obs: jax.Array) -> jax.Array:
    """From 0 to 1, as the potential of shaping; it is not negative, or with a discount standing still would pay."""
    return 1.0 - (jnp.abs(obs // WIDTH - GOAL[0]) + jnp.abs(obs % WIDTH - GOAL[1])) / 13.0


def variants() -> dict[str, rljax.Env]:
    maze = rljax.make("GridWorld-misc")
    shaped = rljax.envs.shape_reward(goal_only(maze), closeness, DISCOUNT)
    return {"-1 for each step": maze, "1 at the goal": goal_only(maze), "1 at the goal, shaped": shaped}


def trained(name: str, env: rljax.Env, seeds: int, points: int) -> Variant:
    """Train under one reward, and play the greedy policies in the maze itself after each part of training."""
    config = q_learning.Config(
        env=env, total_steps=points * 500, discount=DISCOUNT, epsilon="linear(1.0, 0.1)", step_size=0.5, num_steps=100
    )
    maze, chunk = rljax.make("GridWorld-misc"), 5

    def run(key: jax.Array) -> tuple[q_learning.State, jax.Array]:
        key_init, key_updates, _ = core.training_keys(key)

        def train_chunk(state: q_learning.State, index: jax.Array) -> tuple[q_learning.State, jax.Array]:
            state, _ = core.advance(q_learning.update, key_updates, state, config, index * chunk, chunk, chunk)
            policy = q_learning.act(state, config)
            length = evaluation.play(jax.random.key(0), maze, policy, 1).measures["length"][0]
            return state, length

        return jax.lax.scan(train_chunk, q_learning.init(key_init, config), jnp.arange(points))

    states, lengths = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))
    first = jax.tree.map(lambda x: x[0], states)
    recording = evaluation.record(jax.random.key(0), maze, q_learning.act(first, config), max_steps=60)
    return Variant(np.asarray(lengths), episodes.Played(name, maze, episodes.split(recording)))


def main(path: str, seeds: int = 32, points: int = 20) -> dict[str, np.ndarray]:
    """Plot the lengths of greedy episodes during training, animate the final policies, and return the lengths."""
    import matplotlib.pyplot as plt

    found = {name: trained(name, env, seeds, points) for name, env in variants().items()}
    steps = 500 * np.arange(1, points + 1)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, variant in found.items():
        axes.plot(steps, variant.lengths.mean(axis=0), label=name)
    axes.axhline(14, color="black", linestyle=":", label="shortest path")
    axes.set(xlabel="environment steps", ylabel="steps to the goal", yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    moving = episodes.animate([variant.played for variant in found.values()], fps=8)
    moving.save(pathlib.Path(path).with_suffix(".gif"))
    return {name: variant.lengths for name, variant in found.items()}


if __name__ == "__main__":
    for variant, lengths in main(sys.argv[1] if len(sys.argv) > 1 else "reward_variants.png").items():
        print(f"{variant}: on average {lengths.mean():.0f} steps to the goal during training")
