"""The software versions on which a run's bits depend."""

import functools
import importlib.metadata
import platform


@functools.cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which a run's bits depend."""
    names = {"rljax": "rljax-engine"} | {name: name for name in ("jax", "jaxlib", "flax", "optax", "gymnax")}
    return {"python": platform.python_version()} | {name: _version(package) for name, package in names.items()}


def _version(package: str) -> str:
    """A package's version, or "not installed" if it has no metadata."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
