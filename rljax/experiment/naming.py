"""Algorithms and environments by name, with their tuned values."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rljax import algos, envs, presets
from rljax.config import replace
from rljax.errors import UsageError, suggest
from rljax.experiment.options import Options
from rljax.report import console

OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


def resolved(algorithm: Any, config: Any, given: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """An algorithm, its config and the options, from names and overrides.

    Args:
        algorithm: a module, or the name of an algorithm or variant.
        config: its config, or an environment or its id, for which the algorithm's tuned values are taken.
        given: options of the run, and fields of the config to override.
    """
    name = algorithm if isinstance(algorithm, str) else algos.name_of(algorithm)
    module = algos.algorithm(algorithm) if isinstance(algorithm, str) else algorithm
    options = {key: value for key, value in given.items() if key in OPTIONS}
    fields = {key: value for key, value in given.items() if key not in OPTIONS}
    if isinstance(algorithm, str):
        options.setdefault("name", algorithm)
    if fields and dataclasses.is_dataclass(getattr(module, "Config", None)):
        known = [field.name for field in dataclasses.fields(module.Config)]
        for key in fields:
            if key not in known:
                raise UsageError(
                    f"{key} is neither an option of run() nor a field of the config: {suggest(key, [*OPTIONS, *known])}"
                )
    if isinstance(config, str | envs.Env):
        if name is None:
            return module, module.Config(env=config, **fields), options
        tuned = presets.preset(name, config, **fields)
        say_if_untuned(name, config)
        return module, tuned, options
    return module, replace(config, **fields) if fields else config, options


def say_if_untuned(name: str, env: Any) -> None:
    """Report that an algorithm has no tuned values for an environment."""
    if not presets.is_tuned(name, env):
        known = ", ".join(presets.tuned_for(name)) or "no environment"
        console.say(
            f"{name} has no tuned values for {env if isinstance(env, str) else env.label}: it trains with its "
            f"defaults, which may learn slowly or not at all (tuned for {known})."
        )


def name_of(algorithm: Any) -> str:
    """The name of an algorithm's module, or of a custom one."""
    return algos.name_of(algorithm) or str(getattr(algorithm, "__name__", "custom")).rpartition(".")[2]
