"""Tuned values of DQN and its variants."""

from rljax.envs import normalize_observations
from rljax.presets.scaling import Preset, normalized, raw, rewards_normalized

# A reward of 1, or of -1, at every step: what 1 / (1 - discount) of them add up to. Bricks of 1 every few steps.
_CARTPOLE_ATOMS = {
    "total_steps": 100_000,
    "gradient_steps": 4,
    "target_period": 12,
    "value_low": 0.0,
    "value_high": 100.0,
}

_BREAKOUT_RETURNS = {"value_low": 0.0, "value_high": 20.0}

_MOUNTAIN_CAR_RETURNS = {"value_low": -100.0, "value_high": 0.0}

# Priorities sharpen every noise too: hardly any, and the whole of their bias undone.
_MILD_PRIORITIES = {"priority_exponent": 0.2, "importance_exponent": 1.0}

PRESETS: dict[tuple[str, str], Preset] = {
    # Once policies hardly fail, actions' values are nearly equal and the greedy one flickers with every noise: large
    # batches at a high rate, LayerNorm, rewards of one scale and an average of parameters keep it from that. A cart
    # that drifts fails after hundreds of steps, which few environments reach sooner than many.
    ("dqn", "CartPole-v1"): (
        {
            "total_steps": 50_000,
            "learning_rate": 2e-3,
            "anneal_learning_rate": True,
            "num_envs": 4,
            "num_steps": 16,
            "gradient_steps": 8,
            "batch_size": 512,
            "target_period": 5,
            "epsilon_end": 0.05,
            "epsilon_fraction": 0.05,
            "max_grad_norm": 3.0,
            "averaging": 0.13,
            "layer_norm": True,
        },
        rewards_normalized(0.99),
    ),
    ("dueling_dqn", "CartPole-v1"): ({"double": True}, None),  # as its paper
    ("prioritized_dqn", "CartPole-v1"): (_MILD_PRIORITIES, None),
    ("qr_dqn", "CartPole-v1"): ({"epsilon_end": 0.01}, None),
    # Rewards summed over steps of an older policy mislead: a short memory.
    ("n_step_dqn", "CartPole-v1"): ({"buffer_size": 10_000}, None),
    # Atoms stand for returns of raw rewards. Of 101, 51, 26 and 13 of them 26 have the fewest seeds flicker.
    ("c51", "CartPole-v1"): (_CARTPOLE_ATOMS | {"num_atoms": 26}, raw),
    ("rainbow", "CartPole-v1"): (_CARTPOLE_ATOMS | _MILD_PRIORITIES, raw),
    ("c51", "Breakout-MinAtar"): (_BREAKOUT_RETURNS, None),
    ("rainbow", "Breakout-MinAtar"): (_BREAKOUT_RETURNS, None),
    ("c51", "MountainCar-v0"): (_MOUNTAIN_CAR_RETURNS, normalize_observations),
    ("rainbow", "MountainCar-v0"): (_MOUNTAIN_CAR_RETURNS, normalize_observations),
    ("dqn", "MountainCar-v0"): (
        {
            "total_steps": 120_000,
            "learning_rate": 3e-3,
            "anneal_learning_rate": True,
            "gradient_steps": 4,
            "batch_size": 512,
            "target_period": 50,
            "epsilon_end": 0.07,
            "max_grad_norm": 3.0,
            "hidden_sizes": (64, 64),
        },
        normalized(0.99),
    ),
    ("dqn", "Breakout-MinAtar"): (
        {
            "total_steps": 100_000,
            "learning_rate": 1e-3,
            "anneal_learning_rate": True,
            "num_envs": 16,
            "gradient_steps": 8,
            "batch_size": 32,
            "target_period": 200,
            "epsilon_end": 0.02,
            "layer_norm": True,
            "hidden_sizes": (64,),
        },
        None,
    ),
}
