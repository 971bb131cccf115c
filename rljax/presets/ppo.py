"""Tuned values of PPO and recurrent PPO."""

from typing import Any

from rljax.presets.scaling import Preset, normalized, rewards_normalized
from rljax.schedules import linear

_NAVIX: dict[str, Any] = {
    "learning_rate": linear(2.5e-4, 0),
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "value_clip": 0.2,
    "num_envs": 16,
    "num_steps": 128,
    "num_epochs": 4,
    "num_minibatches": 8,
}
_GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
# Those of gymnax's Breakout, with twice the steps.
_MINATAR: dict[str, Any] = {
    "total_steps": 1_000_000,
    "learning_rate": linear(5e-4, 0),
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "num_envs": 16,
    "num_steps": 64,
    "num_minibatches": 8,
    "hidden_sizes": (64,),
    "activation": "relu",
}

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
    # Discount, epochs and trace are Brax's own (google/brax, notebooks/training.ipynb), for 2,048 environments at once;
    # the rest is for a CPU.
    ("ppo", "brax/inverted_pendulum"): (
        {
            "total_steps": 400_000,
            "learning_rate": linear(1e-3, 0),
            "discount": 0.97,
            "gae_lambda": 0.95,
            "num_envs": 64,
            "num_steps": 32,
            "num_epochs": 4,
            "num_minibatches": 8,
            "entropy_coefficient": 0.0,
        },
        normalized(0.97),
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
    ("ppo", "recommender/drift-100"): (
        {
            "total_steps": 300_000,
            "learning_rate": linear(1e-3, 0),
            "discount": 0.95,
            "gae_lambda": 0.95,
            "entropy_coefficient": linear(0.03, 0),
            "num_envs": 16,
            "num_steps": 64,
            "encoder": "history_mean",
        },
        None,
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
    # The values of Navix's own PPO (navix.agents.PPOHparams), with four epochs instead of one.
    ("ppo", "navix/Navix-Empty-8x8-v0"): ({"total_steps": 200_000, **_NAVIX}, None),
    ("ppo", "navix/Navix-DoorKey-5x5-v0"): ({"total_steps": 1_000_000, **_NAVIX}, None),
    # Matthews et al. 2024, as in Craftax_Baselines, whose runs have 1e9 steps.
    ("ppo", "craftax/Craftax-Classic-Symbolic-v1"): (
        {
            "total_steps": 10_000_000,
            "learning_rate": linear(2e-4, 0),
            "discount": 0.99,
            "gae_lambda": 0.8,
            "entropy_coefficient": 0.01,
            "max_grad_norm": 1.0,
            "value_clip": 0.2,
            "num_envs": 1024,
            "num_steps": 64,
            "num_epochs": 4,
            "num_minibatches": 8,
            "hidden_sizes": (512, 512, 512),
        },
        None,
    ),
    **{("ppo", f"pgx/minatar-{game}"): (_MINATAR, None) for game in _GAMES},
    **{
        ("ppo", f"jumanji/{puzzle}"): (
            {
                "total_steps": 2_000_000,
                "learning_rate": linear(5e-4, 0),
                "discount": 0.99,
                "gae_lambda": 0.95,
                "entropy_coefficient": 0.01,
                "num_envs": 32,
                "num_steps": 64,
                "num_minibatches": 8,
                "hidden_sizes": (256, 256),
                "activation": "relu",
            },
            wrap,
        )
        for puzzle, wrap in (("Snake-v1", None), ("Game2048-v1", rewards_normalized(0.99)))
    },
}
