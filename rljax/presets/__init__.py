"""Tuned configs that reach the reference results. They were tuned on other seeds than those reported."""

from typing import Any

from rljax import algos
from rljax.algos import VARIANTS
from rljax.config import replace, same, unchecked
from rljax.envs import Env, make
from rljax.presets import a2c, atari, dqn, ppo, pqn, q_learning, reinforce, sac, td3
from rljax.presets.scaling import Preset

_PRESETS: dict[tuple[str, str], Preset] = {
    key: preset
    for module in (q_learning, dqn, sac, td3, pqn, reinforce, ppo, a2c, atari)
    for key, preset in module.PRESETS.items()
}


def tuned_for(algo: str) -> list[str]:
    """List the environments for which an algorithm or variant has tuned values."""
    base, _ = VARIANTS.get(algo, (algo, {}))
    return list(dict.fromkeys(env for name, env in _PRESETS if name in (base, algo)))


def is_tuned(algo: str, env: Any) -> bool:
    """True if an algorithm or variant has tuned values for an environment's id, or for what `make` returns for it."""
    base, _ = VARIANTS.get(algo, (algo, {}))
    name = env if isinstance(env, str) else _id_of(env)
    return _find(base, name) is not None or _find(algo, name) is not None


def preset(algo: str, env: Any, **changes: Any) -> Any:
    """Return the tuned config of an algorithm for an environment, or its default config if there is none.

    Args:
        algo: name of an algorithm or variant, for example "ppo" or "rainbow".
        env: an environment's id, object or `Env`. Tuned values apply to ids and to what `rljax.make` returns for them.
        **changes: fields to override.

    Raises:
        UsageError: the algorithm or environment is unknown, or a field is invalid.
    """
    values = _values(algo, env)
    return replace(algos.algorithm(algo).Config(env=values["env"]), **{**values, **changes})


def defaults(algo: str, env: Any) -> Any:
    """Return the same config unchecked, for the command line to complete with its options."""
    return unchecked(algos.algorithm(algo).Config, **_values(algo, env))


def _values(algo: str, env: Any) -> dict[str, Any]:
    base, variant = VARIANTS.get(algo, (algo, {}))
    name = env if isinstance(env, str) else _id_of(env)
    base_tuned, base_wrap = _find(base, name) or ({}, None)
    tuned, wrap = _find(algo, name) or ({}, None)
    made, wrap = make(env), wrap or base_wrap
    return {**base_tuned, **variant, **tuned, "env": made if wrap is None else wrap(made)}


def _id_of(env: Any) -> str:
    """Return the id from which `make` gives exactly this environment, "" if there is none."""
    has_values = isinstance(env, Env) and any(_find(algo, env.name) is not None for algo, _ in _PRESETS)
    return env.name if has_values and same(env, make(env.name)) else ""


def _find(algo: str, env: str) -> Preset | None:
    """The values for an id, or for all ids of its suite, `atari/*`."""
    return _PRESETS.get((algo, env)) or _PRESETS.get((algo, f"{env.partition('/')[0]}/*"))
