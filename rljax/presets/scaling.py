"""Normalization in presets: none, rewards only, or observations and rewards."""

from collections.abc import Callable
from typing import Any

from rljax.envs import Env, normalize_observations, normalize_rewards

Preset = tuple[dict[str, Any], Callable[[Env], Env] | None]
"""Values of config fields, and a wrapper of the environment; None falls back on the base algorithm's wrapper."""


def raw(env: Env) -> Env:
    """Leave the environment unchanged."""
    return env


def rewards_normalized(discount: float) -> Callable[[Env], Env]:
    """Normalize rewards only."""
    return lambda env: normalize_rewards(env, discount)


def normalized(discount: float) -> Callable[[Env], Env]:
    """Normalize observations and rewards."""
    return lambda env: normalize_rewards(normalize_observations(env), discount)
