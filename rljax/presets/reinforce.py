"""Tuned values of REINFORCE."""

from rljax.presets.scaling import Preset, rewards_normalized
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    # Without normalized rewards the baseline would need most of the run to reach the scale of the returns.
    ("reinforce", "CartPole-v1"): (
        {
            "total_steps": 200_000,
            "learning_rate": linear(5e-3, 0),
            "num_envs": 4,
            "num_steps": 64,
            "hidden_sizes": (64,),
        },
        rewards_normalized(0.99),
    ),
    # Every episode has 200 steps, so an update plays whole episodes and needs no history.
    ("reinforce", "Pendulum-v1"): (
        {
            "total_steps": 1_000_000,
            "learning_rate": linear(5e-3, 0),
            "discount": 0.9,
            "num_envs": 2,
            "num_steps": 200,
            "max_episode_steps": 1,
        },
        rewards_normalized(0.9),
    ),
    ("reinforce", "recommender/drift-100"): (
        {
            "total_steps": 300_000,
            "learning_rate": linear(2e-3, 0),
            "discount": 0.95,
            "entropy_coefficient": linear(0.03, 0),
            "num_envs": 16,
            "num_steps": 64,
            "max_episode_steps": 200,
            "encoder": "history_mean",
        },
        None,
    ),
}
