"""`--config FILE`: a run from another run's `config.json`, or from YAML with the options of the command line."""

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    places = [i for i, argument in enumerate(arguments) if argument.partition("=")[0] == "--config"]
    if not places:
        return RunFile()
    _, equals, path = arguments[places[-1]].partition("=")
    if not equals:
        path = next(iter(arguments[places[-1] + 1 :]), "")
    file = pathlib.Path(path)
    if not path or path.startswith("--"):
        raise UsageError("--config needs a file: config.json of a run, or YAML.")
    if file.is_dir():
        file = file / manifest.FILE
    if file.suffix == ".json":
        recorded = manifest.read(file.parent)
        if recorded.sweep is not None:
            raise UsageError(f"{file} is of a sweep: write its options as YAML, or give them on the command line.")
        reference = recorded.recipe["references"].get("algorithm")
        return RunFile(reference[0] if reference else recorded.algo, manifest=recorded)
    return _from_yaml(file)


def _from_yaml(file: pathlib.Path) -> RunFile:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
