"""Tuned configs: the values that reach the reference results, found on other seeds than those that are reported."""

from collections.abc import Callable
from typing import Any

from rljax.algos import a2c, dqn, ppo, pqn, q_learning, reinforce, sac, td3
from rljax.config import replace, same, unchecked
from rljax.envs import Env, make, normalize_observations, normalize_rewards
from rljax.errors import UsageError, suggest

_ALGORITHMS = {
    "ppo": ppo,
    "a2c": a2c,
    "reinforce": reinforce,
    "sac": sac,
    "td3": td3,
    "q_learning": q_learning,
    "dqn": dqn,
    "pqn": pqn,
}

# Names of their own for a choice of values: (algorithm, values). The tuned values of the algorithm hold for them too.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_ppo": ("ppo", {"recurrent": "gru"}),
    "sarsa": ("q_learning", {"target": "sarsa"}),
    "expected_sarsa": ("q_learning", {"target": "expected_sarsa"}),
    "double_q_learning": ("q_learning", {"target": "double_q_learning"}),
    "double_dqn": ("dqn", {"double": True}),
    "dueling_dqn": ("dqn", {"dueling": True}),
    "n_step_dqn": ("dqn", {"n_step": 3}),
    "prioritized_dqn": ("dqn", {"prioritized": True}),
    "noisy_dqn": ("dqn", {"noisy": True, "epsilon": 0.0, "epsilon_end": 0.0}),
    "c51": ("dqn", {"head": "categorical"}),
    "qr_dqn": ("dqn", {"head": "quantile", "num_atoms": 25, "huber_delta": 1.0}),
    "ddpg": (
        "td3",
        {"num_critics": 1, "smoothing_std": 0.0, "actor_period": 1, "noise_std": 0.4, "noise_reversion": 0.15},
    ),
    "rainbow": (
        "dqn",
        {
            "double": True,
            "dueling": True,
            "n_step": 3,
            "prioritized": True,
            "noisy": True,
            "epsilon": 0.0,
            "epsilon_end": 0.0,
            "head": "categorical",
        },
    ),
}


def _raw(env: Env) -> Env:
    return env


def _rewards_normalized(discount: float) -> Callable[[Env], Env]:
    return lambda env: normalize_rewards(env, discount)


def _normalized(discount: float) -> Callable[[Env], Env]:
    return lambda env: normalize_rewards(normalize_observations(env), discount)


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

_PRESETS: dict[tuple[str, str], tuple[dict[str, Any], Callable[[Env], Env] | None]] = {
    ("q_learning", "FrozenLake-misc"): ({"total_steps": 1_000_000, "epsilon_end": 0.3}, None),
    ("q_learning", "Taxi-v3"): ({"total_steps": 500_000, "epsilon_end": 0.1}, None),
    ("q_learning", "CliffWalking-v1"): ({"total_steps": 100_000, "discount": 1.0, "epsilon_end": 0.1}, None),
    ("sarsa", "CliffWalking-v1"): ({"total_steps": 500_000, "epsilon": 0.1, "epsilon_schedule": "constant"}, None),
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
        _rewards_normalized(0.99),
    ),
    ("dueling_dqn", "CartPole-v1"): ({"double": True}, None),  # as its paper
    ("prioritized_dqn", "CartPole-v1"): (_MILD_PRIORITIES, None),
    ("qr_dqn", "CartPole-v1"): ({"epsilon_end": 0.01}, None),
    # Rewards summed over steps of an older policy mislead: a short memory.
    ("n_step_dqn", "CartPole-v1"): ({"buffer_size": 10_000}, None),
    # Atoms stand for returns of raw rewards. Of 101, 51, 26 and 13 of them 26 have the fewest seeds flicker.
    ("c51", "CartPole-v1"): (_CARTPOLE_ATOMS | {"num_atoms": 26}, _raw),
    ("rainbow", "CartPole-v1"): (_CARTPOLE_ATOMS | _MILD_PRIORITIES, _raw),
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
        _normalized(0.99),
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
    ("sac", "Pendulum-v1"): (
        {
            "total_steps": 20_000,
            "learning_rate": 2e-3,
            "anneal_learning_rate": True,
            "num_envs": 4,
            "num_steps": 4,
            "gradient_steps": 4,
            "batch_size": 128,
            "target_rate": 0.02,
        },
        None,
    ),
    ("td3", "Pendulum-v1"): (
        {
            "total_steps": 20_000,
            "learning_rate": 1e-3,
            "anneal_learning_rate": True,
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
    # Slow and wide noise swings the car up to the goal where steps of independent noise cancel out.
    ("td3", "MountainCarContinuous-v0"): (
        {
            "total_steps": 100_000,
            "learning_rate": 1e-3,
            "anneal_learning_rate": True,
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
    ("pqn", "CartPole-v1"): ({"total_steps": 500_000, "learning_rate": 1e-3}, None),
    # Rewards normalized, or the baseline would need most of the run to reach the size of the returns.
    ("reinforce", "CartPole-v1"): (
        {"total_steps": 200_000, "learning_rate": 5e-3, "num_envs": 4, "num_steps": 64, "hidden_sizes": (64,)},
        _rewards_normalized(0.99),
    ),
    # Every episode has 200 steps, so an update plays whole ones and needs no history.
    ("reinforce", "Pendulum-v1"): (
        {
            "total_steps": 1_000_000,
            "learning_rate": 5e-3,
            "discount": 0.9,
            "num_envs": 2,
            "num_steps": 200,
            "max_episode_steps": 1,
        },
        _rewards_normalized(0.9),
    ),
    ("ppo", "CartPole-v1"): (
        {"total_steps": 100_000, "learning_rate": 2e-3, "discount": 0.98, "gae_lambda": 0.95},
        None,
    ),
    ("recurrent_ppo", "MemoryChain-bsuite"): (
        {"total_steps": 150_000, "learning_rate": 3e-3, "num_envs": 16, "num_steps": 64, "hidden_sizes": (32,)},
        None,
    ),
    # Whole sequences: four environments make four minibatches at most.
    ("recurrent_ppo", "Pendulum-v1"): ({"num_minibatches": 4}, None),
    ("a2c", "CartPole-v1"): (
        {
            "total_steps": 500_000,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.0,
            "num_steps": 16,
            "normalize_advantages": True,
        },
        _rewards_normalized(0.99),
    ),
    ("a2c", "Pendulum-v1"): (
        {
            "total_steps": 1_000_000,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "discount": 0.95,
            "gae_lambda": 0.9,
            "entropy_coefficient": 0.0,
            "num_envs": 8,
            "num_steps": 8,
            "normalize_advantages": True,
        },
        _rewards_normalized(0.9),
    ),
    ("recurrent_ppo", "CartPole-v1"): (
        {
            "total_steps": 300_000,
            "learning_rate": 1e-3,
            "num_envs": 16,
            "num_steps": 128,
            "num_epochs": 8,
            "hidden_sizes": (32,),
        },
        _rewards_normalized(0.99),
    ),
    ("ppo", "Pendulum-v1"): (
        {
            "total_steps": 100_000,
            "learning_rate": 1e-3,
            "discount": 0.95,
            "gae_lambda": 0.9,
            "num_envs": 4,
            "num_steps": 512,
            "num_epochs": 10,
            "num_minibatches": 32,
        },
        _rewards_normalized(0.9),
    ),
    ("ppo", "MountainCar-v0"): (
        {
            "total_steps": 1_000_000,
            "learning_rate": 1e-3,
            "discount": 0.99,
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.01,
            "num_envs": 16,
            "num_steps": 16,
        },
        _normalized(0.99),
    ),
    ("ppo", "Breakout-MinAtar"): (
        {
            "total_steps": 500_000,
            "learning_rate": 5e-4,
            "discount": 0.99,
            "gae_lambda": 0.95,
            "entropy_coefficient": 0.01,
            "num_envs": 16,
            "num_steps": 64,
            "num_minibatches": 8,
            "hidden_sizes": (64,),
            "activation": "relu",
        },
        None,
    ),
}


def algorithms() -> dict[str, str]:
    """What each algorithm is, by name; variants are the values that make them."""
    described = {name: str(module.__doc__).strip().splitlines()[0] for name, module in _ALGORITHMS.items()}
    for name, (base, values) in _VARIANTS.items():
        described[name] = f"{base} with {', '.join(f'{field}={value}' for field, value in values.items())}"
    return described


def algorithm(name: str) -> Any:
    """The algorithm's module, a variant's being that of what it varies; an unknown name is a `UsageError`."""
    base, _ = _VARIANTS.get(name, (name, {}))
    if base not in _ALGORITHMS:
        raise UsageError(f"There is no algorithm {name!r}: {suggest(name, [*_ALGORITHMS, *_VARIANTS])}")
    return _ALGORITHMS[base]


def name_of(algorithm: Any) -> str | None:
    """The name of one of the library's own modules; None for any other algorithm."""
    return next((name for name, module in _ALGORITHMS.items() if module is algorithm), None)


def tuned_for(algo: str) -> list[str]:
    """The environments that an algorithm has tuned values for."""
    base, _ = _VARIANTS.get(algo, (algo, {}))
    return list(dict.fromkeys(env for name, env in _PRESETS if name in (base, algo)))


def preset(algo: str, env: Any, **changes: Any) -> Any:
    """The tuned config of an algorithm on an environment; its defaults where there is none.

    Args:
        algo: name of an algorithm or of a variant, such as "ppo" or "rainbow".
        env: an environment's id, object or `Env`. Tuned values are for ids, and for what `rljax.make` gives of them.
        **changes: fields to set otherwise.
    """
    values = _values(algo, env)
    return replace(algorithm(algo).Config(env=values["env"]), **{**values, **changes})


def defaults(algo: str, env: Any) -> Any:
    """The same with its checks left to whoever completes it, as the command line's options do."""
    return unchecked(algorithm(algo).Config, **_values(algo, env))


def _values(algo: str, env: Any) -> dict[str, Any]:
    base, chosen = _VARIANTS.get(algo, (algo, {}))
    name = env if isinstance(env, str) else _id_of(env)
    tuned, wrap = _PRESETS.get((base, name), ({}, None))
    own, own_wrap = _PRESETS.get((algo, name), ({}, None))
    made, wrap = make(env), own_wrap or wrap
    return {**tuned, **chosen, **own, "env": made if wrap is None else wrap(made)}


def _id_of(env: Any) -> str:
    """The id that gives this very environment; "" where none does, as it was made, wrapped or changed otherwise."""
    has_values = isinstance(env, Env) and any(env.name == name for _, name in _PRESETS)
    return env.name if has_values and same(env, make(env.name)) else ""
