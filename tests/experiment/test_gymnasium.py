"""Returns in Gymnasium's environments agree with those in ours; `tests/envs` compares them step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.envs import heuristics
from rljax.experiment import gymnasium
from rljax.report import statistics

EPISODES = 400
# Gymnasium's id, and a policy that ends its episodes.
PAIRS = {
    "CartPole-v1": ("CartPole-v1", "heuristic"),
    "Acrobot-v1": ("Acrobot-v1", "heuristic"),
    "MountainCar-v0": ("MountainCar-v0", "heuristic"),
    "MountainCarContinuous-v0": ("MountainCarContinuous-v0", "heuristic"),
    "Pendulum-v1": ("Pendulum-v1", "random"),
    "Taxi-v3": ("Taxi-v4", "random"),
    "CliffWalking-v1": ("CliffWalking-v1", "along"),
    "FrozenLake-misc": ("FrozenLake-v1", "random"),
}
LONG = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "Taxi-v3")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PAIRS]


def along(_, obs):
    """Up, to the right, and down: random steps fall down the cliff for thousands of steps."""
    return jnp.where(obs == 36, 0, jnp.where(obs % 12 == 11, 2, 1))


@pytest.mark.parametrize("name", NAMES)
def test_returns_agree_within_their_interval(name):
    theirs, kind = PAIRS[name]
    env = rljax.make(name)
    policy = along if kind == "along" else getattr(heuristics, kind)(env)
    ours = np.asarray(rljax.evaluate(jax.random.key(0), env, policy, EPISODES))
    returns, measures = gymnasium.play(jax.random.key(1), theirs, env, policy, EPISODES)
    assert np.isfinite(ours).all()
    assert np.isfinite(returns).all()
    assert (measures["length"] >= 1).all()
    low, high = statistics.difference(ours, returns).ci95
    assert low <= 0 <= high
    assert abs(ours.mean() - returns.mean()) <= 3 * np.hypot(ours.std(), returns.std()) / np.sqrt(EPISODES)
