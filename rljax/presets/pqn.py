"""Tuned values of PQN."""

from rljax.presets.scaling import Preset
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    ("pqn", "CartPole-v1"): ({"total_steps": 500_000, "learning_rate": linear(1e-3, 0)}, None),
}
