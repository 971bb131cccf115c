"""An experiment's config as data, and back: what `config.json` needs to hold for a run to be resumed or loaded."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import algos
from rljax.backend.devices import cpu_threads
from rljax.config import describe, same
from rljax.envs import Env, remake
from rljax.envs.base import is_data
from rljax.errors import UsageError
from rljax.experiment import checkpoints, sweeps
from rljax.experiment.spec import Experiment
from rljax.report import files


def about(experiment: Experiment, config: Any, samples: int | None) -> dict[str, Any]:
    """What `config.json` holds, and `resuming` reads."""
    about = {
        "algo": experiment.name,
        "seeds": experiment.seeds,
        "seed": experiment.seed,
        "evaluations": experiment.evaluations,
        "eval_episodes": experiment.eval_episodes,
        "config": describe(config),
    }
    if experiment.fields:
        about["samples"] = samples
        about["sweep"] = [describe(point.values) for point in experiment.points]
    if experiment.checkpoint_every is not None:
        about["format"] = checkpoints.FORMAT
        about["checkpoint_every"] = experiment.checkpoint_every
        about["devices"] = experiment.mesh.size
        about["threads"] = cpu_threads()
        about["memory_limit"] = experiment.memory_limit
        about["halving"] = experiment.halving
        about["shard"] = experiment.mesh.axis_names[0]
        about["recipe"] = recipe(experiment.algorithm, config, experiment.points)
    return about


def recipe(algorithm: Any, config: Any, points: Sequence[sweeps.Point]) -> dict[str, Any]:
    """What it takes to make a config again: the algorithm's name, the environment's recipe, the fields' values.

    Each part is None where data cannot say it: an algorithm, an environment or a network of one's own. A sweep's
    values are recorded as they are; `objects` has for each of its points, by path, those that are no plain data.
    """
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "env"}
    parts = {"algorithm": algos.name_of(algorithm), "fields": describe(fields)}
    parts = json.loads(files.as_json(parts)) | {"env": _env_as_data(config.env), "objects": _objects(points)}
    try:
        if not same(_config(algorithm, config.env, parts["fields"]), config):
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
    return algos.algorithm(parts["algorithm"])


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


def check_unchanged(recorded: Any, given: Any, what: str = "config", where: str = "") -> None:
    """Refuse a config, or the values of a sweep's point, that is not the recorded one, naming what differs."""
    described = json.loads(files.as_json(describe(given)))
    for field, was, now in _differences("", recorded, described):
        raise UsageError(
            f"The {what} is not the one that this run began with: {field}{where} was {was!r} and is {now!r}."
        )


def points(config: Any, about: dict[str, Any], sweep: Mapping[str, Any] | None) -> list[sweeps.Point]:
    """The configurations of the run that a `config.json` is about.

    Args:
        config: what holds where the sweep says nothing.
        about: what the file holds.
        sweep: as `rljax.run` was given it, where values of it are objects; it is checked against what was recorded.
    """
    recorded = about.get("sweep")
    if recorded is None:
        if sweep is not None:
            raise UsageError("This run has no sweep: leave sweep= out.")
        return [sweeps.Point({}, config)]
    if sweep is not None:
        made = sweeps.points(config, sweep, about.get("samples"), about["seed"])
        if len(made) != len(recorded):
            raise UsageError(
                f"The sweep is not the one that this run began with: it had {len(recorded)} configurations "
                f"and has {len(made)}."
            )
        for i, (values, point) in enumerate(zip(recorded, made, strict=True)):
            check_unchanged(values, point.values, "sweep", f" of configuration {i}")
        return made
    objects = about["recipe"].get("objects") or [{}] * len(recorded)
    return [sweeps.point(config, _with_objects(*both)) for both in zip(recorded, objects, strict=True)]


def _objects(points: Sequence[sweeps.Point]) -> list[dict[str, Any]] | None:
    """Of each point the values that are no plain data, as `_env_as_data` has them; None where there are none."""
    as_data: dict[int, Any] = {}  # by identity: a grid has each of its objects many times
    objects: list[dict[str, Any]] = [{} for _ in points]
    for point, own in zip(points, objects, strict=True):
        for path, value in point.values.items():
            if not _is_plain(value):
                if id(value) not in as_data:
                    as_data[id(value)] = _env_as_data(value) if isinstance(value, Env) else None
                own[path] = as_data[id(value)]
    return objects if as_data else None


def _with_objects(values: dict[str, Any], objects: dict[str, Any]) -> dict[str, Any]:
    """A point's recorded values, those that are no plain data made again."""
    made = dict(values)
    for path, value in values.items():
        if path not in objects and not isinstance(value, dict):  # older versions have described them alone
            continue
        if objects.get(path) is None:
            raise UsageError(
                f"This run's sweep of {path} holds objects, which its folder does not: "
                "pass sweep= to rljax.resume, as rljax.run was given it."
            )
        made[path] = _env(objects[path])
    return made


def _is_plain(value: Any) -> bool:
    """Whether what JSON gives back of a sweep's value makes the same point."""
    return bool(np.isfinite(value).all()) if isinstance(value, np.ndarray) else is_data(_tuple(value))


def _env_as_data(env: Env) -> dict[str, Any] | None:
    """An environment's recipe and the leaves of its params; None where these do not make the same one."""
    if env.recipe[0] is None or not is_data(env.recipe):
        return None
    params = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(env.params)]
    part = json.loads(files.as_json({"recipe": env.recipe, "params": params}))
    try:
        return part if same(_env(part), env) else None
    except (UsageError, AttributeError, TypeError, ValueError):
        return None


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
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_tuple, value)) if isinstance(value, list | tuple) else value


def _differences(path: str, was: Any, now: Any) -> Any:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in {**was, **now}:
            yield from _differences(f"{path}.{name}".lstrip("."), was.get(name), now.get(name))
    elif was != now:
        yield path, was, now
