"""The versions that a run's bits depend on."""

import functools
import importlib.metadata
import platform


@functools.cache
def versions() -> dict[str, str]:
    """Of what a run's bits depend on."""
    names = {"rljax": "rljax-engine"} | {name: name for name in ("jax", "jaxlib", "flax", "optax", "gymnax")}
    return {"python": platform.python_version()} | {name: _version(package) for name, package in names.items()}


def _version(package: str) -> str:
    """A package's version; of one that is on the path but not installed nobody knows it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
