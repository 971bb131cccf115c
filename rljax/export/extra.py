"""Packages that only some formats need."""

import importlib
from typing import Any

from rljax.errors import UsageError


def imported(name: str) -> Any:
    """A module of the extra `export`.

    Raises:
        UsageError: its package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise UsageError(
            f"{package} is not installed: install rljax with the extra `export`, pip install -e '.[export]'."
        ) from None
