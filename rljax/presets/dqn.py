"""Tuned values of DQN and its variants."""

from rljax.envs import normalize_observations
from rljax.presets.scaling import Preset, normalized, raw, rewards_normalized
from rljax.schedules import linear

# Bounds of the discounted return. A reward of 1 (CartPole) or -1 (MountainCar) at every step sums to 1 / (1 - discount)
# = 100 in size; a brick in Breakout gives 1 every few steps.
_CARTPOLE_ATOMS = {
    "total_steps": 100_000,
    "gradient_steps": 4,
    "target_period": 12,
    "value_low": 0.0,
    "value_high": 100.0,
}

_BREAKOUT_RETURNS = {"value_low": 0.0, "value_high": 20.0}

_LANDER_RETURNS = {"value_low": -300.0, "value_high": 300.0}

_MOUNTAIN_CAR_RETURNS = {"value_low": -100.0, "value_high": 0.0}

# Priorities also amplify noise: keep them mild and correct their bias fully.
_MILD_PRIORITIES = {"priority_exponent": 0.2, "importance_exponent": 1.0}

PRESETS: dict[tuple[str, str], Preset] = {
    # Once the policy rarely fails, action values are nearly equal and noise flips the greedy action. Large batches with
    # a high learning rate, LayerNorm, normalized rewards and averaged parameters prevent this. A drifting cart fails
    # only after hundreds of steps, and fewer environments reach that point earlier in a run.
    ("dqn", "CartPole-v1"): (
        {
            "total_steps": 50_000,
            "learning_rate": linear(2e-3, 0),
            "num_envs": 4,
            "num_steps": 16,
            "gradient_steps": 8,
            "batch_size": 512,
            "target_period": 5,
            "epsilon": linear(1.0, 0.05, fraction=0.05),
            "max_grad_norm": 3.0,
            "averaging": 0.13,
            "layer_norm": True,
        },
        rewards_normalized(0.99),
    ),
    ("dueling_dqn", "CartPole-v1"): ({"double": True}, None),  # as in the paper
    ("prioritized_dqn", "CartPole-v1"): (_MILD_PRIORITIES, None),
    ("qr_dqn", "CartPole-v1"): ({"epsilon": linear(1.0, 0.01, fraction=0.05)}, None),
    # n-step returns of an older policy are biased, so the buffer is short.
    ("n_step_dqn", "CartPole-v1"): ({"buffer_size": 10_000}, None),
    # Atoms represent returns of raw rewards. Among 13, 26, 51 and 101 atoms, 26 had the fewest unstable seeds.
    ("c51", "CartPole-v1"): (_CARTPOLE_ATOMS | {"num_atoms": 26}, raw),
    ("rainbow", "CartPole-v1"): (_CARTPOLE_ATOMS | _MILD_PRIORITIES, raw),
    ("c51", "Breakout-MinAtar"): (_BREAKOUT_RETURNS, None),
    ("rainbow", "Breakout-MinAtar"): (_BREAKOUT_RETURNS, None),
    ("c51", "gymnasium/LunarLander-v3"): (_LANDER_RETURNS, None),
    ("rainbow", "gymnasium/LunarLander-v3"): (_LANDER_RETURNS, None),
    ("c51", "MountainCar-v0"): (_MOUNTAIN_CAR_RETURNS, normalize_observations),
    ("rainbow", "MountainCar-v0"): (_MOUNTAIN_CAR_RETURNS, normalize_observations),
    ("dqn", "MountainCar-v0"): (
        {
            "total_steps": 120_000,
            "learning_rate": linear(3e-3, 0),
            "gradient_steps": 4,
            "batch_size": 512,
            "target_period": 50,
            "epsilon": linear(1.0, 0.07, fraction=0.2),
            "max_grad_norm": 3.0,
            "hidden_sizes": (64, 64),
        },
        normalized(0.99),
    ),
    # RL Baselines3 Zoo's, hyperparams/dqn.yml, LunarLander, with four environments instead of one.
    ("dqn", "gymnasium/LunarLander-v3"): (
        {
            "total_steps": 100_000,
            "learning_rate": 6.3e-4,
            "num_envs": 4,
            "num_steps": 4,
            "gradient_steps": 16,
            "batch_size": 128,
            "buffer_size": 50_000,
            "prefill_steps": 128,
            "target_period": 250,
            "epsilon": linear(1.0, 0.1, fraction=0.12),
            "huber_delta": 1.0,
            "hidden_sizes": (256, 256),
        },
        None,
    ),
    ("dqn", "Breakout-MinAtar"): (
        {
            "total_steps": 100_000,
            "learning_rate": linear(1e-3, 0),
            "num_envs": 16,
            "gradient_steps": 8,
            "batch_size": 32,
            "target_period": 200,
            "epsilon": linear(1.0, 0.02, fraction=0.2),
            "layer_norm": True,
            "hidden_sizes": (64,),
        },
        None,
    ),
}
