"""How presets scale what an environment gives: not at all, rewards only, or observations and rewards."""

from collections.abc import Callable
from typing import Any

from rljax.envs import Env, normalize_observations, normalize_rewards

Preset = tuple[dict[str, Any], Callable[[Env], Env] | None]
"""Values of a config's fields, and how the environment is wrapped; None as the algorithm's other presets have it."""


def raw(env: Env) -> Env:
    """The environment as it is."""
    return env


def rewards_normalized(discount: float) -> Callable[[Env], Env]:
    """Normalize rewards only."""
    return lambda env: normalize_rewards(env, discount)


def normalized(discount: float) -> Callable[[Env], Env]:
    """Normalize observations and rewards."""
    return lambda env: normalize_rewards(normalize_observations(env), discount)
