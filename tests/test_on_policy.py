"""What on-policy algorithms collect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import on_policy, ppo


class Clock:
    """Values that are the square of what is observed, which an episode's steps count."""

    def init(self, key, obs):
        return jnp.zeros(1)

    def apply(self, params, obs):
        return jnp.zeros((*obs.shape[:-1], 2)), obs[..., 0] ** 2


@pytest.mark.parametrize("limit", [1, 5, 1000])  # always, sometimes and never truncated: not all of them branch alike
@pytest.mark.parametrize("terminates", [False, True])
def test_next_values_are_read_at_the_true_next_observation(limit, terminates):
    def step(key, time, action, params):
        return rljax.timestep(jnp.float32([time + 1]), 0.0, terminates & (time + 1 == 3)), time + 1

    clock = rljax.Env(
        name="clock",
        reset=lambda key, params: (jnp.zeros(1), jnp.int32(0)),
        step=step,
        params=(),
        observation_space=rljax.Box(0, np.inf, (1,)),
        action_space=rljax.Discrete(2),
    )
    config = ppo.Config(env=rljax.envs.time_limit(clock, limit), num_envs=4, num_steps=16, gae_lambda=0.0, discount=0.5)
    config = rljax.replace(config, network=Clock(), total_steps=64)

    @jax.jit
    def targets(key):
        state = ppo.init(key, config)
        _, _, batch, _ = on_policy.collect(*jax.random.split(key), Clock(), state, config)
        return batch.inputs[0][:, 0], batch.target

    obs, target = map(np.asarray, targets(jax.random.key(0)))
    assert obs.max() + 1 == min(limit, 3 if terminates else 16)
    ends = terminates & (obs == 2)
    np.testing.assert_array_equal(target, np.where(ends, 0.0, 0.5 * (obs + 1) ** 2))
