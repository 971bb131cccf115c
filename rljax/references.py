"""References "package.module:name" to functions and classes that can be imported, with which files record them."""

import importlib
import os
import sys
from typing import Any

from rljax.errors import UsageError, located


def imported(what: str, reference: str) -> Any:
    """What a reference, given for `what`, imports, also from the current folder.

    Raises:
        UsageError: it cannot be imported.
    """
    module, _, name = reference.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except Exception as error:  # a user's module can raise anything
        raise UsageError(f"{what}={reference!r} cannot be imported: {located(error)}.") from error
    finally:
        sys.path.pop(0)
    return value


def of(value: Any) -> str | None:
    """The reference of a function or class; None if nothing imports it in another process."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    found = None if module == "__main__" else sys.modules.get(str(module))
    for part in str(name).split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value and value is not None else None
