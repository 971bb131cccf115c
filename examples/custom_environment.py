"""A custom environment: two pure functions, checked and then trained on with PPO.

Move a cart on a line to a target and hold it there. Run it with `python examples/custom_environment.py`, or from the
command line with all its options: `rljax train ppo --env examples/custom_environment.py:env --seeds 8`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import rljax


class Params(NamedTuple):
    """Parameters; `env.params` are traced, so that they can be swept."""

    force: float = 0.1
    friction: float = 0.05


class State(NamedTuple):
    position: jax.Array
    velocity: jax.Array
    target: jax.Array


def observe(state: State) -> jax.Array:
    return jnp.stack([state.target - state.position, state.velocity])


def reset(key: jax.Array, params: Params) -> tuple[jax.Array, State]:
    position, target = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
    state = State(position, jnp.float32(0.0), target)
    return observe(state), state


def step(key: jax.Array, state: State, action: jax.Array, params: Params) -> tuple[rljax.TimeStep, State]:
    velocity = (1.0 - params.friction) * state.velocity + params.force * jnp.clip(action[0], -1.0, 1.0)
    state = State(state.position + velocity, velocity, state.target)
    distance = jnp.abs(state.target - state.position)
    info = {"effort": jnp.abs(action[0]), "distance": distance}  # reported next to the return
    return rljax.timestep(observe(state), reward=-distance, terminated=distance > 4.0, info=info), state


env = rljax.Env(
    name="Target",
    reset=reset,
    step=step,
    params=Params(),
    observation_space=rljax.Box(-jnp.inf, jnp.inf, shape=(2,)),
    action_space=rljax.Box(-1.0, 1.0, shape=(1,)),
    info={"effort": "mean", "distance": "last"},  # how an episode's numbers become one
)
env = rljax.envs.time_limit(env, 50)

if __name__ == "__main__":
    for problem in rljax.envs.check(env):
        print(problem)
    config = rljax.ppo.Config(env=env, total_steps=100_000, learning_rate=1e-3, discount=0.95)
    rljax.run(rljax.ppo, config, seeds=8)
