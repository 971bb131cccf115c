"""A simulation that blows up ends its episode with an observation that is not finite: no algorithm may read it.

On-policy algorithms read none either: `test_returns.py` spoils what follows an end.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import dqn, sac, td3

OFF = {"total_steps": 60, "prefill_steps": 20, "buffer_size": 30, "batch_size": 16, "hidden_sizes": (4,)}
CASES = {
    "dqn": (dqn, {**OFF, "num_envs": 1, "num_steps": 1, "gradient_steps": 1}, False),
    "rainbow": (
        dqn,
        {
            **OFF, "num_envs": 1, "num_steps": 1, "gradient_steps": 1, "n_step": 3, "prioritized": True, "double": True,
            "head": "categorical", "value_low": -5.0, "value_high": 5.0,
        },
        False,
    ),
    "sac": (sac, OFF, True),
    "td3": (td3, OFF, True),
}  # fmt: skip


def blow_up(is_continuous):
    """Episodes of three steps; the last observation is `params`."""

    def step(key, time, action, params):
        ended = time + 1 >= 3
        return rljax.timestep(jnp.where(ended, params, (time + 1) / 3 * jnp.ones(2)), 1.0, ended), time + 1

    return rljax.Env(
        reset=lambda key, params: (jnp.zeros(2), jnp.int32(0)),
        step=step,
        params=jnp.float32(0.0),
        observation_space=rljax.Box(-np.inf, np.inf, (2,)),
        action_space=rljax.Box(-1, 1, (1,)) if is_continuous else rljax.Discrete(2),
        name="blow-up",
    )


@pytest.mark.parametrize("name", CASES)
def test_terminal_observations_change_nothing(name):
    algorithm, fields, is_continuous = CASES[name]
    config = algorithm.Config(env=blow_up(is_continuous), **fields)
    train = jax.jit(algorithm.train)

    def trained(last):
        env = config.env.replace(params=jnp.float32(last))
        return train(jax.random.key(0), rljax.replace(config, env=env))[0].params

    finite = trained(0.0)
    for last in (np.nan, np.inf, -np.inf):
        jax.tree.map(np.testing.assert_array_equal, trained(last), finite)
