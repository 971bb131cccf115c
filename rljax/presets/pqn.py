"""Tuned values of PQN."""

from rljax.presets.scaling import Preset

PRESETS: dict[tuple[str, str], Preset] = {
    ("pqn", "CartPole-v1"): ({"total_steps": 500_000, "learning_rate": 1e-3}, None),
}
