"""Stable-Baselines3 and SBX, its version in JAX: `learn` on vectorised Gymnasium environments."""

import importlib
from typing import Any

import numpy as np
from protocol import Program, serve
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


def build(job: dict[str, Any]) -> Program:
    """Train a new learner for every repetition and seed, one after the other.

    Each learns briefly before it is timed, since SBX compiles again for every learner.
    """
    library = importlib.import_module(job["library"])
    algorithm = getattr(library, job["algorithm"].upper())
    if job["library"] == "sbx":
        import flax.linen

        activation: Any = getattr(flax.linen, job["activation"])
    else:
        import torch

        activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[job["activation"]]
    options: dict[str, Any] = {"learning_rate": job["learning_rate"], "gamma": job["discount"], "device": "auto"}
    layers: Any = list(job["hidden"])
    if job["algorithm"] == "ppo":
        options |= {
            "n_steps": job["num_steps"],
            "batch_size": job["num_envs"] * job["num_steps"] // job["minibatches"],
            "n_epochs": job["epochs"],
            "gae_lambda": job["gae_lambda"],
            "ent_coef": job["entropy"],
        }
        layers = {"pi": layers, "vf": layers}
    else:
        options |= {
            "train_freq": job["num_steps"],
            "gradient_steps": job["gradient_steps"],
            "batch_size": job["batch"],
            "buffer_size": job["buffer"],
            "learning_starts": job["prefill"],
        }
    if job["algorithm"] == "dqn":
        options |= {
            "target_update_interval": job["target_period"] * job["num_envs"] // job["gradient_steps"],
            "exploration_final_eps": job["epsilon_end"],
            "exploration_fraction": job["epsilon_fraction"],
        }
    elif job["algorithm"] == "sac":
        options |= {"tau": job["target_rate"]}
        layers = {"pi": layers, "qf": layers}
    options["policy_kwargs"] = {"net_arch": layers, "activation_fn": activation}

    first = job["num_envs"] * job["num_steps"] if job["algorithm"] == "ppo" else job["prefill"] + 2 * job["num_envs"]

    def learner(seed: int) -> Any:
        envs = make_vec_env(job["env"], n_envs=job["num_envs"], seed=seed)
        return algorithm("MlpPolicy", envs, seed=seed, **options).learn(first)

    def start(seed: int) -> Any:
        learners = [learner(100 * seed + i) for i in range(job["seeds"])]
        return lambda: [one.learn(job["steps"] - first, reset_num_timesteps=False) for one in learners]

    def returns(learners: list[Any]) -> list[float]:
        env = make_vec_env(job["env"], n_envs=job["episodes"], seed=1)
        return [float(np.mean(evaluate_policy(one, env, job["episodes"])[0])) for one in learners]

    return Program(start, returns, job["seeds"] * (job["steps"] - first))


if __name__ == "__main__":
    serve(build)
