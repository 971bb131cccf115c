"""The rules for the classic tasks reach their returns, and random actions are legal ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import walk

import rljax
from rljax.envs import heuristics

# Of 50 episodes: a bound that the mean reaches, and one that the worst episode reaches.
REACHED = {
    "CartPole-v1": (500, 500),
    "Acrobot-v1": (-90, -250),
    "MountainCar-v0": (-125, -135),
    "MountainCarContinuous-v0": (88, 85),
    "Pendulum-v1": (-190, -450),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "Acrobot-v1" else name for name in REACHED]
)
def test_heuristics_reach_their_returns(name):
    env = rljax.make(name)
    program = jax.jit(lambda key: rljax.evaluate(key, env, heuristics.heuristic(env), 50))
    returns = np.asarray(program(jax.random.key(1)))
    mean, worst = REACHED[name]
    assert returns.mean() >= mean
    assert returns.min() >= worst


def test_an_environment_without_a_rule_is_refused():
    with pytest.raises(rljax.UsageError, match="no heuristic for walk, only for CartPole-v1"):
        heuristics.heuristic(walk)
    with pytest.raises(rljax.UsageError, match="without wrappers"):
        heuristics.heuristic(rljax.envs.frame_stack("CartPole-v1", 2))


def test_random_actions_are_uniform_and_legal():
    actions = jax.jit(heuristics.random(walk))(jax.random.key(0), jnp.zeros((2000, 1)))
    assert abs(float(actions.mean()) - 0.5) < 0.05
    masked = rljax.envs.Masked(jnp.zeros((500, 1)), jnp.broadcast_to(jnp.array([True, False]), (500, 2)))
    assert not jax.jit(heuristics.random(walk))(jax.random.key(0), masked).any()
