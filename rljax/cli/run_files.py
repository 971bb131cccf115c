"""`--config FILE`: a run from another run's `config.json`, or from YAML with the options of the command line."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from rljax import algos, envs
from rljax.cli import user_code
from rljax.cli.parsing import text_after
from rljax.errors import UsageError, shown
from rljax.experiment import manifest
from rljax.experiment.manifest import Manifest


class RunFile(NamedTuple):
    """What a file says of a run."""

    algorithm: str = ""
    arguments: tuple[str, ...] = ()  # of YAML, as the command line has them
    manifest: Manifest | None = None  # of JSON


def read(arguments: list[str]) -> RunFile:
    """Read the file that `--config` names, if it is given.

    Raises:
        UsageError: the file cannot be read, or is no mapping of options.
    """
    path = text_after("--config", arguments)
    if path is None:
        return RunFile()
    file = pathlib.Path(path)
    if not path or path.startswith("--") or "\0" in path:
        raise UsageError("--config needs a file: config.json of a run, or YAML.")
    if os.path.isdir(file):
        file = file / manifest.FILE
    if file.suffix == ".json":
        recorded = manifest.read(file.parent)
        if recorded.sweep is not None:
            raise UsageError(f"{file} is of a sweep: write its options as YAML, or give them on the command line.")
        return RunFile(_algorithm_of(recorded), manifest=recorded)
    return _from_yaml(file)


def _algorithm_of(recorded: Manifest) -> str:
    """What the command line calls a run's algorithm: a variant's name, a module's, or a custom one's place."""
    if reference := recorded.recipe["references"].get("algorithm"):
        return str(reference[0])
    return recorded.algo if recorded.algo in algos.algorithms() else str(recorded.recipe["algorithm"] or "")


def is_of(file: RunFile, algorithm: Any) -> bool:
    """True if the file is of a run of this algorithm."""
    assert file.manifest is not None
    return algos.name_of(algorithm) == file.manifest.recipe["algorithm"]


def eval_env(file: RunFile, reference: str | None) -> Any:
    """The environment for evaluations that an option names, or else the file; None for the one to train in."""
    recorded = file.manifest
    if reference is None and recorded is not None and recorded.eval_env is not None:
        if recorded.eval_env["reference"] is None:
            return manifest.with_eval_env(recorded, None).eval_env
        (reference,) = recorded.eval_env["reference"]
    if reference is None:
        return None
    env = envs.make(user_code.env(reference))
    if ":" in reference:
        manifest.remember(env, user_code.absolute(reference))
    return env


def _from_yaml(file: pathlib.Path) -> RunFile:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also of its encoding, numbers and dates
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} must map options to values, such as `env: CartPole-v1`, got {shown(found)}.")
    algorithm = str(found.pop("algorithm", ""))
    return RunFile(algorithm, tuple(token for name, value in found.items() for token in _tokens(str(name), value)))


def _tokens(name: str, value: Any) -> Iterator[str]:
    """An option and its value as the command line has them."""
    flag = "--" + name.replace("_", "-") if not name.startswith("env.") else f"--{name}"
    if isinstance(value, bool):
        yield flag if value else flag.replace("--", "--no-", 1)
    elif name in ("log", "wrap"):
        for one in value if isinstance(value, list) else [value]:
            yield from (flag, str(one))
    elif name == "sweep" and isinstance(value, dict):
        for field, swept in value.items():
            listed = ",".join(map(_literal, swept)) if isinstance(swept, list) else str(swept)
            yield from (flag, f"{field}={listed}")
    elif name == "keep" and isinstance(value, list):
        yield from (flag, ",".join(map(str, value)))
    elif isinstance(value, list):
        yield from (flag, *map(str, value))
    else:
        yield from (flag, "none" if value is None else str(value))


def _literal(value: Any) -> str:
    return f"({','.join(map(str, value))},)" if isinstance(value, list) else str(value)
