"""Small environments of Gymnasium, registered for tests of environments on the host."""

import os

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """A random walk with nested observations of 64 bits and actions from 3 to 5; it ends at either side."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(-np.inf, np.inf, (2,), np.float64), "side": spaces.Discrete(3, start=-1)}
    )
    action_space = spaces.Discrete(3, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2)
        return self.seen(), {}

    def step(self, action):
        assert 3 <= action <= 5
        self.place = self.place + np.array([action - 4.0, self.np_random.normal() / 3])
        terminated = bool(np.abs(self.place).max() > 4.0)
        return self.seen(), float(self.place.sum()), terminated, False, {"not": "passed on"}

    def seen(self):
        return {"place": self.place, "side": int(np.sign(self.place[0]))}


class Failing(gymnasium.Env):
    """Raises an error at its step number `when`, or ends its process."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, when=10, dies=False):
        self.when, self.dies, self.steps = when, dies, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.when and self.dies:
            os._exit(1)
        if self.steps == self.when:
            raise ZeroDivisionError("the wheel came off")
        return np.zeros(2, np.float32), 1.0, self.steps % 4 == 0, False, {}


gymnasium.register("Walk-v0", Walk, max_episode_steps=30)
gymnasium.register("Failing-v0", Failing)
