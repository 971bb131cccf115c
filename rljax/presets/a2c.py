"""Tuned values of A2C."""

from rljax.presets.scaling import Preset, rewards_normalized
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    ("a2c", "CartPole-v1"): (
        {
            "total_steps": 500_000,
            "optimizer": "adam",
            "learning_rate": linear(1e-3, 0),
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.0,
            "num_steps": 16,
            "normalize_advantages": True,
        },
        rewards_normalized(0.99),
    ),
    ("a2c", "Pendulum-v1"): (
        {
            "total_steps": 1_000_000,
            "optimizer": "adam",
            "learning_rate": linear(1e-3, 0),
            "discount": 0.95,
            "gae_lambda": 0.9,
            "entropy_coefficient": 0.0,
            "num_envs": 8,
            "num_steps": 8,
            "normalize_advantages": True,
        },
        rewards_normalized(0.9),
    ),
    ("a2c", "recommender/drift-100"): (
        {
            "total_steps": 300_000,
            "optimizer": "adam",
            "learning_rate": linear(2e-3, 0),
            "discount": 0.95,
            "gae_lambda": 0.95,
            "entropy_coefficient": linear(0.03, 0),
            "num_envs": 16,
            "num_steps": 16,
            "normalize_advantages": True,
            "encoder": "history_mean",
        },
        None,
    ),
}
