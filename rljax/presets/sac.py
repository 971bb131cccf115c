"""Tuned values of SAC."""

from rljax.envs import normalize_observations
from rljax.presets.scaling import Preset
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    ("sac", "CartPole-v1"): (
        {
            "total_steps": 100_000,
            "learning_rate": 1e-3,
            "num_envs": 4,
            "num_steps": 4,
            "gradient_steps": 8,
            "batch_size": 64,
            "target_rate": 0.01,
            "temperature": 0.2,
            "target_entropy_fraction": 0.2,
            "hidden_sizes": (128, 128),
        },
        None,
    ),
    ("sac", "brax/inverted_pendulum"): (
        {
            "total_steps": 24_000,
            "learning_rate": 1e-3,
            "num_envs": 8,
            "num_steps": 4,
            "gradient_steps": 8,
            "batch_size": 128,
            "target_rate": 0.01,
            "hidden_sizes": (64, 64),
            "prefill_steps": 1_000,
        },
        normalize_observations,
    ),
    ("sac", "Pendulum-v1"): (
        {
            "total_steps": 20_000,
            "learning_rate": linear(2e-3, 0),
            "num_envs": 4,
            "num_steps": 4,
            "gradient_steps": 4,
            "batch_size": 128,
            "target_rate": 0.02,
        },
        None,
    ),
}
