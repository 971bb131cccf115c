"""A population's config as data, and back: what `config.json` needs to hold for a run to be resumed or loaded."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import presets, sweeps
from rljax.envs import Env, remake
from rljax.errors import UsageError
from rljax.report import files


def recipe(algorithm: Any, name: str, config: Any) -> dict[str, Any]:
    """What it takes to make a config again: the algorithm's name, the environment's recipe, the fields' values.

    Each part is None where data cannot say it: an algorithm, an environment or a network of one's own.
    """
    env = {"recipe": config.env.recipe, "params": _leaves(config.env.params)} if config.env.recipe else None
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "env"}
    parts = {"algorithm": name if _is_known(name, algorithm) else None, "env": env, "fields": files.describe(fields)}
    parts = json.loads(files.as_json(parts))
    try:
        if env is not None and not _same(_env(parts["env"]), config.env):
            parts["env"] = None
        if not _same(_config(algorithm, config.env, parts["fields"]), config):
            parts["fields"] = None
    except (UsageError, AttributeError, TypeError, ValueError):
        parts["fields"] = None
    return parts


def algorithm_of(parts: dict[str, Any]) -> Any:
    """The algorithm of a recipe."""
    if parts["algorithm"] is None:
        raise UsageError(
            "This run's algorithm is one of your own, which its folder does not hold: "
            "say rljax resume FOLDER --algorithm own.py, or rljax.resume(folder, algorithm=own)."
        )
    return presets.algorithm(parts["algorithm"])


def config_of(parts: dict[str, Any], algorithm: Any, env: Env | None = None) -> Any:
    """The config of a recipe; `env` for an environment of one's own."""
    if env is None and parts["env"] is None:
        raise UsageError(
            "This run's environment is one of your own, which its folder does not hold: "
            "say rljax resume FOLDER --env own.py:env, or rljax.resume(folder, env=env)."
        )
    if parts["fields"] is None:
        raise UsageError("This run's config holds objects, which its folder does not: pass config= to rljax.resume.")
    return _config(algorithm, _env(parts["env"]) if env is None else env, parts["fields"])


def check_unchanged(recorded: Any, config: Any) -> None:
    """Refuse a config that is not the recorded one, naming what differs."""
    for field, was, now in _differences("", recorded, json.loads(files.as_json(files.describe(config)))):
        raise UsageError(f"The config is not the one that this run began with: {field} was {was!r} and is {now!r}.")


def points(config: Any, values: list[dict[str, Any]] | None) -> list[sweeps.Point]:
    """The configurations of a sweep from the values that were recorded of each."""
    return [sweeps.Point({}, config)] if values is None else [sweeps.point(config, given) for given in values]


def _is_known(name: str, algorithm: Any) -> bool:
    try:
        return presets.algorithm(name) is algorithm
    except UsageError:
        return False


def _leaves(params: Any) -> list[Any]:
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(params)]


def _env(part: dict[str, Any]) -> Env:
    env = remake(part["recipe"])
    leaves, structure = jax.tree.flatten(env.params)
    if len(leaves) != len(part["params"]):
        raise UsageError(f"{env.name} has other params here than where this run was written.")
    filled = [_like(leaf, value) for leaf, value in zip(leaves, part["params"], strict=True)]
    return env.replace(params=jax.tree.unflatten(structure, filled))


def _like(leaf: Any, value: Any) -> Any:
    return value if isinstance(leaf, bool | int | float) else jnp.asarray(value, leaf.dtype)


def _config(algorithm: Any, env: Env, fields: dict[str, Any]) -> Any:
    return algorithm.Config(env=env, **{name: _tuple(value) for name, value in fields.items()})


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _same(left: Any, right: Any) -> bool:
    """Whether two pytrees would compile to the same program and compute with the same bits."""
    structure: Any
    leaves, structure = jax.tree.flatten(left)
    others = jax.tree.leaves(right)
    return structure == jax.tree.structure(right) and all(
        isinstance(x, bool | int | float) == isinstance(y, bool | int | float)
        and (jnp.shape(x), jnp.result_type(x)) == (jnp.shape(y), jnp.result_type(y))
        and np.array_equal(x, y, equal_nan=True)
        for x, y in zip(leaves, others, strict=True)
    )


def _differences(path: str, was: Any, now: Any) -> Any:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in {**was, **now}:
            yield from _differences(f"{path}.{name}".lstrip("."), was.get(name), now.get(name))
    elif was != now:
        yield path, was, now
