"""Tuned values of tabular Q-learning and SARSA."""

from rljax.presets.scaling import Preset
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    ("q_learning", "FrozenLake-misc"): ({"total_steps": 1_000_000, "epsilon": linear(1.0, 0.3)}, None),
    ("q_learning", "Taxi-v3"): ({"total_steps": 500_000, "epsilon": linear(1.0, 0.1)}, None),
    ("q_learning", "CliffWalking-v1"): ({"total_steps": 100_000, "discount": 1.0, "epsilon": linear(1.0, 0.1)}, None),
    ("q_learning", "operations/auction"): (
        {"total_steps": 1_000_000, "discount": 1.0, "epsilon": linear(1.0, 0.3)},
        None,
    ),
    ("q_learning", "operations/heating"): (
        {"total_steps": 1_000_000, "discount": 1.0, "epsilon": linear(1.0, 0.3)},
        None,
    ),
    ("sarsa", "CliffWalking-v1"): ({"total_steps": 500_000, "epsilon": 0.1}, None),
}
