"""Published values for the games of ale-py, the same for each of them: `("dqn", "atari/*")`.

Rewards are clipped for the learner, and episodes are whole games. The network is `nature`'s, which has a hidden layer
of 512. Rainbow has a second one, since its last two layers are noisy.
"""

import optax

from rljax.envs import clip_reward
from rljax.presets.scaling import Preset
from rljax.schedules import linear
from rljax.types import Scalar


def centered_rmsprop(learning_rate: Scalar) -> optax.GradientTransformation:
    """RMSProp of Mnih et al. 2015, extended data table 1: both averages with 0.95.

    The paper's smallest squared gradient is 0.01 for the sum over a batch of 32, and here it is for the mean.
    """
    return optax.rmsprop(learning_rate, decay=0.95, eps=0.01 / 32**2, centered=True)


_RETURNS = {"value_low": -10.0, "value_high": 10.0}  # of clipped rewards, as in Bellemare et al. 2017

PRESETS: dict[tuple[str, str], Preset] = {
    # Mnih et al. 2015, extended data table 1: 50 million frames, four environments instead of one. The buffer needs 7
    # GB. The table also ends the learner's episodes at a lost life: rljax.make("atari/breakout", life_loss=True).
    ("dqn", "atari/*"): (
        {
            "total_steps": 12_500_000,
            "optimizer": centered_rmsprop,
            "learning_rate": 2.5e-4,
            "num_envs": 4,
            "num_steps": 1,
            "gradient_steps": 1,
            "batch_size": 32,
            "buffer_size": 1_000_000,
            "prefill_steps": 50_000,
            "successor_slots": 1_000,
            "target_period": 10_000,
            "epsilon": linear(1.0, 0.1, fraction=1_000_000 / 12_450_000),
            "huber_delta": 1.0,
            "max_grad_norm": 1e6,
            "encoder": "nature",
            "hidden_sizes": (),
        },
        clip_reward,
    ),
    # A faster one for a short run: returns of several steps, a double target and Adam, as in Rainbow (Hessel et al.
    # 2018), with epsilon at 0.01 after a tenth of the run and a smaller buffer.
    ("n_step_dqn", "atari/*"): (
        {
            "total_steps": 1_000_000,
            "optimizer": None,
            "learning_rate": 1e-4,
            "double": True,
            "num_envs": 8,
            "buffer_size": 100_000,
            "prefill_steps": 10_000,
            "num_steps": 4,
            "gradient_steps": 8,
            "target_period": 1_000,
            "epsilon": linear(1.0, 0.01, fraction=0.1),
            "max_grad_norm": 10.0,
        },
        None,
    ),
    # Schulman et al. 2017 for Atari, as in CleanRL's ppo_atari.py.
    ("ppo", "atari/*"): (
        {
            "total_steps": 10_000_000,
            "learning_rate": linear(2.5e-4, 0),
            "clip": linear(0.1, 0),
            "entropy_coefficient": 0.01,
            "num_envs": 8,
            "num_steps": 128,
            "num_minibatches": 4,
            "num_epochs": 4,
            "encoder": "nature",
            "hidden_sizes": (),
            "activation": "relu",
        },
        clip_reward,
    ),
    ("recurrent_ppo", "atari/*"): ({"hidden_sizes": (512,)}, None),  # as wide as the core
    ("c51", "atari/*"): (_RETURNS, None),
    ("rainbow", "atari/*"): ({**_RETURNS, "hidden_sizes": (512,)}, None),
    # PQN's own configuration of Atari (purejaxql's pqn_atari.yaml), whose runs have 1e7 to 5e7 steps.
    ("pqn", "atari/*"): (
        {
            "total_steps": 50_000_000,
            "learning_rate": 2.5e-4,
            "trace_decay": 0.65,
            "epsilon": linear(1.0, 0.001, fraction=0.1),
            "num_envs": 128,
            "num_steps": 32,
            "num_minibatches": 32,
            "num_epochs": 2,
            "encoder": "nature",
            "hidden_sizes": (),
        },
        clip_reward,
    ),
}
