"""Gymnasium: `make_vec` and a loop over `step`, in each of its vectorisation modes."""

from typing import Any

import gymnasium
from protocol import Program, serve


def build(job: dict[str, Any]) -> Program:
    """Step with uniform actions, drawn at every step."""
    num_envs, loops = job["num_envs"], job["steps"] // job["num_envs"]
    envs = gymnasium.make_vec(job["env"], num_envs=num_envs, vectorization_mode=job["mode"])

    def run(seed: int) -> float:
        envs.action_space.seed(seed)
        envs.reset(seed=seed)
        total = 0.0
        for _ in range(loops):
            _, rewards, *_ = envs.step(envs.action_space.sample())
            total += float(rewards.sum())
        return total

    return Program(lambda seed: lambda: run(seed), lambda total: [total / (loops * num_envs)], loops * num_envs)


if __name__ == "__main__":
    serve(build)
