"""Environments with nested observations."""

import functools

import jax.numpy as jnp
import numpy as np

import rljax
from rljax import envs


@functools.cache
def nested_cartpole():
    """CartPole whose observation is a dict of positions, velocities and a context that says nothing."""
    cart = rljax.make("CartPole-v1")

    def split(obs):
        return {"position": obs[0::2], "velocity": obs[1::2], "context": jnp.int32(1)}

    def reset(key, params):
        obs, state = cart.reset(key, params)
        return split(obs), state

    def step(key, state, action, params):
        result, state = cart.step(key, state, action, params)
        obs = split(result.next_obs)
        return result._replace(obs=obs, next_obs=obs), state

    low, high = cart.observation_space.low, cart.observation_space.high
    spaces = {
        "position": rljax.Box(low[0::2], high[0::2], (2,)),
        "velocity": rljax.Box(low[1::2], high[1::2], (2,)),
        "context": rljax.Discrete(3),
    }
    return rljax.Env(
        name="nested", reset=reset, step=step, params=cart.params, observation_space=envs.Dict(spaces),
        action_space=cart.action_space,
    )  # fmt: skip


@functools.cache
def robot(actions=rljax.Discrete(2)):  # noqa: B008 - spaces are values
    """Noise in leaves of several dtypes, below a dict and a tuple; an episode ends with some chance at each step."""
    space = envs.Dict(
        {
            "camera": rljax.Box(0, 255, (4, 5, 3), np.uint8),
            "joints": envs.Tuple((rljax.Box(-1.0, 1.0, (2,)), rljax.MultiDiscrete((2, 3)))),
        }
    )

    def reset(key, params):
        return space.sample(key), jnp.int32(0)

    def step(key, time, action, params):
        obs = space.sample(key)
        reward = obs["joints"][0][0]
        return rljax.timestep(obs, reward, obs["joints"][0][1] > 0.8, time >= 4), time + 1

    return rljax.Env(name="robot", reset=reset, step=step, observation_space=space, action_space=actions)
