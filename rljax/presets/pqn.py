"""Tuned values of PQN."""

from rljax.presets.scaling import Preset
from rljax.schedules import linear

PRESETS: dict[tuple[str, str], Preset] = {
    ("pqn", "CartPole-v1"): ({"total_steps": 500_000, "learning_rate": linear(1e-3, 0)}, None),
    # After Gallici et al. 2024, whose runs have 128 environments and 1e7 steps; fewer of both here.
    **{
        ("pqn", f"pgx/minatar-{game}"): (
            {
                "total_steps": 1_000_000,
                "learning_rate": linear(5e-4, 0),
                "trace_decay": 0.65,
                "epsilon": linear(1.0, 0.05, fraction=0.1),
                "num_envs": 32,
                "num_steps": 32,
                "num_epochs": 2,
                "num_minibatches": 8,
                "hidden_sizes": (128,),
            },
            None,
        )
        for game in ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
    },
}
