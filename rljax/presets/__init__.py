"""Tuned configs: the values that reach the reference results, found on other seeds than those that are reported."""

from typing import Any

from rljax import algos
from rljax.algos import VARIANTS
from rljax.config import replace, same, unchecked
from rljax.envs import Env, make
from rljax.presets import a2c, dqn, ppo, pqn, q_learning, reinforce, sac, td3
from rljax.presets.scaling import Preset

_PRESETS: dict[tuple[str, str], Preset] = {
    key: preset
    for module in (q_learning, dqn, sac, td3, pqn, reinforce, ppo, a2c)
    for key, preset in module.PRESETS.items()
}


def tuned_for(algo: str) -> list[str]:
    """The environments that an algorithm has tuned values for."""
    base, _ = VARIANTS.get(algo, (algo, {}))
    return list(dict.fromkeys(env for name, env in _PRESETS if name in (base, algo)))


def preset(algo: str, env: Any, **changes: Any) -> Any:
    """The tuned config of an algorithm on an environment; its defaults where there is none.

    Args:
        algo: name of an algorithm or of a variant, such as "ppo" or "rainbow".
        env: an environment's id, object or `Env`. Tuned values are for ids, and for what `rljax.make` gives of them.
        **changes: fields to set otherwise.
    """
    values = _values(algo, env)
    return replace(algos.algorithm(algo).Config(env=values["env"]), **{**values, **changes})


def defaults(algo: str, env: Any) -> Any:
    """The same with its checks left to whoever completes it, as the command line's options do."""
    return unchecked(algos.algorithm(algo).Config, **_values(algo, env))


def _values(algo: str, env: Any) -> dict[str, Any]:
    base, chosen = VARIANTS.get(algo, (algo, {}))
    name = env if isinstance(env, str) else _id_of(env)
    tuned, wrap = _PRESETS.get((base, name), ({}, None))
    own, own_wrap = _PRESETS.get((algo, name), ({}, None))
    made, wrap = make(env), own_wrap or wrap
    return {**tuned, **chosen, **own, "env": made if wrap is None else wrap(made)}


def _id_of(env: Any) -> str:
    """The id that gives this very environment; "" where none does, as it was made, wrapped or changed otherwise."""
    has_values = isinstance(env, Env) and any(env.name == name for _, name in _PRESETS)
    return env.name if has_values and same(env, make(env.name)) else ""
