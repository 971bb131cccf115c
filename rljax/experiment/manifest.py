"""`config.json`: the manifest of a run: everything needed to resume or load it, except custom code and objects.

It is one JSON object: the recorded options by name, and

- `format`: of the manifest and the checkpoints; `algo`: the algorithm's name in tables;
- `config`: the config as people read it; `sweep`: the values of each configuration, if there is a sweep;
- `space`: what a search chooses from; its `sweep` has the configurations that were suggested so far;
- `recipe`: how to rebuild the config: the algorithm's name, the environment's recipe, the values of the fields;
- `devices`, `threads`: how many were used, which decides how sums are rounded; on a cluster those of one worker;
- `batch_sizes`: how many runs of each group of configurations a cluster trains side by side, which does as well;
- `command`: the command line that started the run; null for one that was started in Python;
- `checksum`: of all the others, since an edited manifest describes another run than the checkpoints;
- `total_steps`: the length, if `resume` has changed it.

Of the options, `eval_env` is an object with `config`, how it reads, `recipe` and `reference`, how to rebuild it.
"""

import contextlib
import dataclasses
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import algos, envs, schedules
from rljax.backend.devices import cpu_threads
from rljax.config import same, with_values
from rljax.envs import Env, remake
from rljax.envs.base import is_data
from rljax.errors import UsageError, number, shown
from rljax.experiment import sweeps
from rljax.experiment.checkpoints import FORMAT
from rljax.experiment.description import LARGE, describe
from rljax.experiment.options import NOT_RECORDED, Options
from rljax.experiment.spec import Experiment
from rljax.report import files

FILE = "config.json"
_RECORDED = tuple(f.name for f in dataclasses.fields(Options) if f.name not in NOT_RECORDED)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `config.json` holds, checked."""

    algo: str
    options: Options  # without eval_env, which `with_eval_env` makes: reading a manifest does not start JAX
    config: Any  # described
    recipe: dict[str, Any]
    sweep: list[dict[str, Any]] | None
    space: dict[str, dict[str, Any]] | None
    devices: int
    threads: int
    batch_sizes: tuple[int, ...]  # of each group of configurations; empty unless a cluster trained it
    total_steps: int | None
    eval_env: dict[str, Any] | None  # how it reads, and how to rebuild it; None without one
    command: str | None  # the command line that started it; None for Python


_references: dict[int, tuple[Any, list[str]]] = {}  # with the objects, so that their ids are not used again


def remember(imported: Any, reference: str, env_changes: Sequence[str] = ()) -> None:
    """Note where the command line imported an algorithm or environment from, for the manifest of its runs.

    `env_changes` are params that it changed, `NAME=VALUE`, and wrappers that it added, `+WRAPPER=ARGUMENTS`.
    """
    _references[id(imported)] = (imported, [reference, *env_changes])


_commands: dict[int, tuple[Any, str]] = {}  # by the config's identity, as above


def remember_command(config: Any, command: str) -> None:
    """Note the command line that starts a run of this config, for its manifest."""
    _commands[id(config)] = (config, command)


def write(folder: pathlib.Path, experiment: Experiment, config: Any) -> None:
    """Write a run's manifest."""
    options = {name: getattr(experiment.options, name) for name in _RECORDED}
    options["log"] = [one for one in options["log"] if isinstance(one, str)]  # custom loggers are passed again
    options["eval_env"] = _recorded_eval_env(options["eval_env"])
    manifest = {
        "format": FORMAT,
        "algo": experiment.name,
        **options,
        "devices": experiment.devices,
        "threads": cpu_threads() if experiment.layout is None else experiment.layout.threads,
        "batch_sizes": None if experiment.layout is None else list(experiment.layout.sizes),
        "command": _commands.get(id(config), (config, None))[1],
        "config": describe(config),
        "recipe": _recipe(experiment.algorithm, config, experiment.points),
    }
    if experiment.fields:
        manifest["sweep"] = described_values(experiment.points)
    if experiment.space is not None:
        manifest["space"] = describe(experiment.space.samplers)
    _write(folder, manifest)


def described_values(points: Sequence[sweeps.Point]) -> list[Any]:
    """The values of a sweep's configurations, without those that a search has not chosen yet."""
    return [describe(point.values) for point in points if point.values]


def update(folder: pathlib.Path, **changes: Any) -> None:
    """Record what has changed since the run started: its total_steps, its seeds, or the `sweep` of a search."""
    _write(folder, {**files.read_json(folder / FILE), **changes})


def _write(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    plain = json.loads(files.as_json(manifest))
    files.write_json(folder / FILE, {**plain, "checksum": _checksum(plain)})


def _checksum(manifest: dict[str, Any]) -> int:
    """Of the manifest as JSON, without the checksum itself."""
    fields = {name: value for name, value in manifest.items() if name != "checksum"}
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def read(folder: pathlib.Path) -> Manifest:
    """Read a run's manifest.

    Raises:
        UsageError: there is none, another version wrote it, or it was changed.
    """
    path = folder / FILE
    fields = files.read_json(path)
    try:
        if fields["format"] != FORMAT:
            raise UsageError(
                f"{folder} has format {fields['format']}, and this version of rljax reads format {FORMAT}: "
                "use the version that wrote it."
            )
        if fields["checksum"] != _checksum(fields):
            raise damaged(folder, "its checksum does not match")
        return Manifest(
            algo=fields["algo"],
            options=Options(**{**{name: fields[name] for name in _RECORDED}, "eval_env": None}),
            config=fields["config"],
            recipe=fields["recipe"],
            sweep=fields.get("sweep"),
            space=fields.get("space"),
            devices=number("devices", fields["devices"], integer=True, minimum=1),
            threads=number("threads", fields["threads"], integer=True, minimum=1),
            batch_sizes=tuple(number("batch_sizes", n, integer=True, minimum=1) for n in fields["batch_sizes"] or ()),
            total_steps=fields.get("total_steps"),
            eval_env=fields["eval_env"],
            command=fields.get("command"),
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise damaged(folder, shown(error)) from error


def damaged(folder: pathlib.Path, why: str) -> UsageError:
    """The error for a manifest that has been edited or damaged."""
    return UsageError(f"{folder / FILE} was changed since rljax wrote it ({why}): restore it.")


def _recipe(algorithm: Any, config: Any, points: Sequence[sweeps.Point]) -> dict[str, Any]:
    """How to rebuild a config: the algorithm's name, the environment's recipe, the fields' values.

    `references` has where the command line imported the first two from, such as "path/custom.py:env", followed by
    what it changed, such as "gravity=5" or "+time_limit=200".

    A part is None if it is not plain data: a custom algorithm, environment or network. A sweep's values are recorded
    elsewhere; `objects` has for each of its points, by path, those that are not plain data.
    """
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "env"}
    imported = {"algorithm": algorithm, "env": config.env}
    references = {kind: _references.get(id(one), (one, None))[1] for kind, one in imported.items()}
    parts = {"references": references, "algorithm": algos.name_of(algorithm), "fields": describe(fields)}
    parts = json.loads(files.as_json(parts)) | {"env": _env_as_data(config.env), "objects": _objects(points)}
    try:
        if not same(_config(algorithm, config.env, parts["fields"]), config):
            parts["fields"] = None
    except (UsageError, AttributeError, TypeError, ValueError):
        parts["fields"] = None
    return parts


def algorithm_of(recipe: dict[str, Any]) -> Any:
    """The algorithm of a recipe."""
    if recipe["algorithm"] is None:
        raise UsageError(
            "This run's algorithm is a custom one, which its folder does not hold: "
            "pass it as algorithm= (rljax resume FOLDER --algorithm custom.py)."
        )
    return algos.algorithm(recipe["algorithm"])


def config_of(recipe: dict[str, Any], algorithm: Any, env: Env | None = None) -> Any:
    """The config of a recipe; `env` for a custom environment."""
    if env is None and recipe["env"] is None:
        raise UsageError(
            "This run's environment is a custom one, which its folder does not hold: "
            "pass it as env= (rljax resume FOLDER --env custom.py:env)."
        )
    if recipe["fields"] is None:
        raise UsageError(
            "This run's config contains custom objects, which are not saved in its folder: "
            "pass the config given to rljax.run as config=."
        )
    return _config(algorithm, _env(recipe["env"]) if env is None else env, recipe["fields"])


def _recorded_eval_env(env: Any) -> dict[str, Any] | None:
    """What the manifest says of the environment for evaluations, as `_recipe` says it of the one for training."""
    if env is None:
        return None
    reference = _references.get(id(env), (env, None))[1]
    return {"config": describe(env), "recipe": _env_as_data(env), "reference": reference}


def with_eval_env(recorded: Manifest, env: Any) -> Options:
    """The recorded options with the environment for evaluations: the given one, or that of the recorded recipe.

    Raises:
        UsageError: it is a custom one and missing, or not the recorded one.
    """
    if recorded.eval_env is None:
        if env is not None:
            raise UsageError("This run was evaluated in the environment that it trains in: leave eval_env out.")
        return recorded.options
    if env is None and recorded.eval_env["recipe"] is not None:
        env = _env(recorded.eval_env["recipe"])
    if env is None:
        raise UsageError(
            "This run is evaluated in a custom environment, which its folder does not hold: "
            "pass it as eval_env= (--eval-env custom.py:env)."
        )
    check_unchanged(recorded.eval_env["config"], env, "eval_env")
    return dataclasses.replace(recorded.options, eval_env=env)


def is_custom(recorded: Manifest) -> bool:
    """True if the environment that a run is evaluated in is a custom one, which its folder does not hold."""
    return (recorded.recipe["env"] if recorded.eval_env is None else recorded.eval_env["recipe"]) is None


def reference_of(recorded: Manifest) -> list[str] | None:
    """Where the command line imported that environment from, and what it changed; None if it is not known."""
    references, evaluated = recorded.recipe["references"], recorded.eval_env
    found = references.get("env") if evaluated is None else evaluated.get("reference")
    return None if found is None else list(found)


def env_of(recorded: Manifest, configuration: int = 0, env: Env | None = None) -> Env:
    """The environment that a configuration is evaluated in, made without its algorithm.

    Args:
        recorded: the run's manifest.
        configuration: its number in the sweep.
        env: that environment, if it is a custom one.

    Raises:
        UsageError: it is a custom one and missing, or not the recorded one, or it cannot be made.
    """
    if recorded.eval_env is not None:
        made = with_eval_env(recorded, env).eval_env
        assert isinstance(made, Env)
        return made
    values: dict[str, Any] = {} if recorded.sweep is None else recorded.sweep[configuration]
    if "env" in values:
        objects = recorded.recipe.get("objects")
        made = envs.make((values if objects is None else _with_objects(values, objects[configuration]))["env"])
    elif env is not None:
        check_unchanged(recorded.config["env"], env, "environment")
        made = env
    elif recorded.recipe["env"] is not None:
        made = _env(recorded.recipe["env"])
    else:
        raise UsageError("This run's environment is a custom one, which its folder does not hold: pass it as env=.")
    params = {path.removeprefix("env."): _tuple(value) for path, value in values.items() if path.startswith("env.")}
    return with_values(made, params) if params else made


def check_unchanged(recorded: Any, given: Any, what: str = "config", where: str = "") -> None:
    """Refuse a config, or the values of a sweep's point, that differs from the recorded one, naming the difference."""
    described = json.loads(files.as_json(describe(given)))
    for field, was, now in _differences("", recorded, described):
        raise UsageError(
            f"The {what} is not the one that this run began with: {field}{where} was {was!r} and is {now!r}."
        )


def points_of(manifest: Manifest, config: Any, sweep: Mapping[str, Any] | None) -> list[sweeps.Point]:
    """The configurations of a run.

    Args:
        manifest: of the run.
        config: for the fields that are not swept.
        sweep: the one given to `rljax.run`, if it has objects as values; it is checked against the recorded values.
    """
    recorded = manifest.sweep
    if manifest.space is not None:
        if sweep is not None:
            raise UsageError("This run is a search, and its folder has what it chooses from: leave sweep= out.")
        assert manifest.options.samples is not None
        return sweeps.space_of(config, manifest.space).points(recorded or [], manifest.options.samples)
    if recorded is None:
        if sweep is not None:
            raise UsageError("This run has no sweep: leave sweep= out.")
        return [sweeps.Point({}, config)]
    if sweep is not None:
        made = sweeps.points(config, sweep, manifest.options.samples, manifest.options.seed)
        if len(made) != len(recorded):
            raise UsageError(
                f"The sweep is not the one that this run began with: it had {len(recorded)} configurations "
                f"and has {len(made)}."
            )
        for i, (values, point) in enumerate(zip(recorded, made, strict=True)):
            check_unchanged(values, point.values, "sweep", f" of configuration {i}")
        return made
    objects = manifest.recipe.get("objects") or [{}] * len(recorded)
    return [sweeps.point(config, _with_objects(*both)) for both in zip(recorded, objects, strict=True)]


def _objects(points: Sequence[sweeps.Point]) -> list[dict[str, Any]] | None:
    """The values of each point that are not plain data, from `_env_as_data`; None if all are."""
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
    """A point's recorded values, with those that are not plain data rebuilt."""
    made = dict(values)
    for path in values.keys() & objects.keys():
        if objects[path] is None:
            raise UsageError(
                f"This run's sweep of {path} contains custom objects, which are not saved in its folder: "
                "pass the sweep= given to rljax.run."
            )
        made[path] = _env(objects[path])
    return made


def _is_plain(value: Any) -> bool:
    """True if a sweep's value survives a round trip through JSON."""
    if isinstance(value, schedules.Schedule):  # recorded as a string
        return True
    return bool(np.isfinite(value).all()) if isinstance(value, np.ndarray) else is_data(_tuple(value))


def _env_as_data(env: Env) -> dict[str, Any] | None:
    """An environment's recipe and the leaves of its params; None if these do not make the same one."""
    if env.recipe[0] is None or not is_data(env.recipe):
        return None
    for most in (LARGE, np.inf):  # a recipe makes its tables again, unless they were replaced
        params = [None if np.size(leaf) > most else np.asarray(leaf).tolist() for leaf in jax.tree.leaves(env.params)]
        part = json.loads(files.as_json({"recipe": env.recipe, "params": params}))
        with contextlib.suppress(UsageError, AttributeError, TypeError, ValueError):
            if same(_env(part), env):
                return part
    return None


def _env(part: dict[str, Any]) -> Env:
    env = remake(part["recipe"])
    leaves, structure = jax.tree.flatten(env.params)
    if len(leaves) != len(part["params"]):
        raise UsageError(f"{env.name} has different params in the version that wrote this run: use that version.")
    filled = [_like(leaf, value) for leaf, value in zip(leaves, part["params"], strict=True)]
    return env.replace(params=jax.tree.unflatten(structure, filled))


def _like(leaf: Any, value: Any) -> Any:
    return leaf if value is None else value if isinstance(leaf, bool | int | float) else jnp.asarray(value, leaf.dtype)


def _config(algorithm: Any, env: Env, fields: dict[str, Any]) -> Any:
    return algorithm.Config(env=env, **{name: _tuple(value) for name, value in fields.items()})


def _tuple(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_tuple, value)) if isinstance(value, list | tuple) else value


def _differences(path: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in {**was, **now}:
            yield from _differences(f"{path}.{name}".lstrip("."), was.get(name), now.get(name))
    elif was != now:
        yield path, was, now
