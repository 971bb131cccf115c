"""Tuned configs: the values that reach the reference results, found on other seeds than those that are reported."""

from collections.abc import Callable
from typing import Any

from rljax.algos import ppo
from rljax.config import replace
from rljax.envs import Env, make, normalize_observations, normalize_rewards
from rljax.errors import UsageError, suggest

_ALGORITHMS = {"ppo": ppo}


def _rewards_normalized(discount: float) -> Callable[[Env], Env]:
    return lambda env: normalize_rewards(env, discount)


def _normalized(discount: float) -> Callable[[Env], Env]:
    return lambda env: normalize_rewards(normalize_observations(env), discount)


_PRESETS: dict[tuple[str, str], tuple[dict[str, Any], Callable[[Env], Env] | None]] = {
    ("ppo", "CartPole-v1"): (
        {"total_steps": 100_000, "learning_rate": 2e-3, "discount": 0.98, "gae_lambda": 0.95},
        None,
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


def algorithms() -> dict[str, Any]:
    """The algorithms by name."""
    return dict(_ALGORITHMS)


def algorithm(name: str) -> Any:
    """The algorithm's module; an unknown name is a `UsageError` with the nearest right ones."""
    if name not in _ALGORITHMS:
        raise UsageError(f"There is no algorithm {name!r}: {suggest(name, _ALGORITHMS)}")
    return _ALGORITHMS[name]


def tuned_for(algo: str) -> list[str]:
    """The environments that an algorithm has tuned values for."""
    return [env for name, env in _PRESETS if name == algo]


def preset(algo: str, env: Any, **changes: Any) -> Any:
    """The tuned config of an algorithm on an environment; its defaults where there is none.

    Args:
        algo: name of an algorithm.
        env: an environment's id, object or `Env`. Only for an id can there be tuned values.
        **changes: fields to set otherwise.
    """
    module = algorithm(algo)
    values, wrap = _PRESETS.get((algo, env), ({}, None)) if isinstance(env, str) else ({}, None)
    made = make(env)
    return replace(module.Config(env=made if wrap is None else wrap(made), **values), **changes)
