"""Import custom algorithms and environments from files and modules."""

import importlib
import importlib.util
import os
import pathlib
import sys
from typing import Any

from rljax import algos
from rljax.errors import UsageError, located


def algorithm(name: str) -> Any:
    """The algorithm of a listed name, a file or a module."""
    if not is_custom(name):
        return algos.algorithm(name)
    found = _load(name)
    for needed in ("Config", "init", "update", "act"):
        if not hasattr(found, needed):
            raise UsageError(f"{name} is not an algorithm: it has no {needed}.")
    return found


def env(reference: str) -> Any:
    """The environment of a listed id, or of a reference to a custom one."""
    place, colon, attribute = reference.partition(":")
    if (colon or place.endswith(".py")) and not attribute:
        raise UsageError(f"Name the environment in {place}: --env {place}:name.")
    return _load(reference) if colon else reference


def absolute(reference: str) -> str:
    """A reference that holds in any folder: a file's with its whole path."""
    place, colon, attribute = reference.partition(":")
    return f"{os.path.abspath(place)}{colon}{attribute}" if place.endswith(".py") else reference


def is_custom(name: str) -> bool:
    """True if a name is that of a user's file or module."""
    return "." in name or os.sep in name


def _load(reference: str) -> Any:
    """A user's module `file.py` or `package.module`, or with `:name` an attribute of it."""
    place, _, attribute = reference.partition(":")
    if not place.endswith(".py") and (not place or place.startswith(".") or os.sep in place):
        raise UsageError(f"{reference!r} names neither a file (custom.py) nor a module (package.custom).")
    module = _import(place)
    if not attribute:
        return module
    if not hasattr(module, attribute):
        raise UsageError(f"{place} has no {attribute!r}.")
    return getattr(module, attribute)


def _import(place: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if not pathlib.Path(place).is_file():
            raise UsageError(f"There is no file {place}.")
        spec = importlib.util.spec_from_file_location(pathlib.Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    except UsageError:
        raise
    except Exception as error:  # a user's file can raise anything
        # The messages of these two have the line.
        what = " ".join(str(error).split()) if isinstance(error, ImportError | SyntaxError) else located(error)
        raise UsageError(f"{place} could not be imported: {what}.") from error
    finally:
        sys.path.pop(0)
