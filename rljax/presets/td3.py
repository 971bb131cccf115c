"""Tuned values of TD3 and DDPG."""

from rljax.presets.scaling import Preset
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    ("td3", "Pendulum-v1"): (
        {
            "total_steps": 20_000,
            "learning_rate": linear(1e-3, 0),
            "discount": 0.98,
            "num_envs": 4,
            "num_steps": 4,
            "gradient_steps": 8,
            "batch_size": 128,
            "target_rate": 0.01,
            "noise_std": 0.2,
        },
        None,
    ),
    # Slow, wide noise swings the car up to the goal; steps of independent noise cancel out.
    ("td3", "MountainCarContinuous-v0"): (
        {
            "total_steps": 100_000,
            "learning_rate": linear(1e-3, 0),
            "num_envs": 4,
            "num_steps": 4,
            "gradient_steps": 2,
            "batch_size": 128,
            "target_rate": 0.01,
            "noise_std": 0.9,
            "noise_reversion": 0.05,
        },
        None,
    ),
}
