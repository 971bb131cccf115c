"""Tuned values of PPO and recurrent PPO."""

from rljax.presets.scaling import Preset, normalized, rewards_normalized
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): (
        {"total_steps": 100_000, "learning_rate": linear(2e-3, 0), "discount": 0.98, "gae_lambda": 0.95},
        None,
    ),
    ("recurrent_ppo", "MemoryChain-bsuite"): (
        {
            "total_steps": 150_000,
            "learning_rate": linear(3e-3, 0),
            "num_envs": 16,
            "num_steps": 64,
            "hidden_sizes": (32,),
        },
        None,
    ),
    # A sample is a sequence, so four environments allow at most four minibatches.
    ("recurrent_ppo", "Pendulum-v1"): ({"num_minibatches": 4}, None),
    ("recurrent_ppo", "gymnasium/LunarLander-v3"): ({"num_minibatches": 16}, None),
    ("recurrent_ppo", "CartPole-v1"): (
        {
            "total_steps": 300_000,
            "learning_rate": linear(1e-3, 0),
            "num_envs": 16,
            "num_steps": 128,
            "num_epochs": 8,
            "hidden_sizes": (32,),
        },
        rewards_normalized(0.99),
    ),
    ("ppo", "Pendulum-v1"): (
        {
            "total_steps": 100_000,
            "learning_rate": linear(1e-3, 0),
            "discount": 0.95,
            "gae_lambda": 0.9,
            "num_envs": 4,
            "num_steps": 512,
            "num_epochs": 10,
            "num_minibatches": 32,
        },
        rewards_normalized(0.9),
    ),
    ("ppo", "MountainCar-v0"): (
        {
            "total_steps": 1_000_000,
            "learning_rate": linear(1e-3, 0),
            "discount": 0.99,
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.01,
            "num_envs": 16,
            "num_steps": 16,
        },
        normalized(0.99),
    ),
    # RL Baselines3 Zoo's, hyperparams/ppo.yml, LunarLander.
    ("ppo", "gymnasium/LunarLander-v3"): (
        {
            "total_steps": 1_000_000,
            "learning_rate": 3e-4,
            "discount": 0.999,
            "gae_lambda": 0.98,
            "entropy_coefficient": 0.01,
            "num_envs": 16,
            "num_steps": 1024,
            "num_minibatches": 256,
            "num_epochs": 4,
        },
        None,
    ),
    ("ppo", "Breakout-MinAtar"): (
        {
            "total_steps": 500_000,
            "learning_rate": linear(5e-4, 0),
            "discount": 0.99,
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.01,
            "num_envs": 16,
            "num_steps": 64,
            "num_minibatches": 8,
            "hidden_sizes": (64,),
            "activation": "relu",
        },
        None,
    ),
}
