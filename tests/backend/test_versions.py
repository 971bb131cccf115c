"""Versions of the packages that a run depends on."""

import importlib.metadata

from rljax.backend import versions


def test_a_package_without_metadata_is_reported_as_not_installed(monkeypatch):
    def version(package):
        if package == "rljax-engine":  # on the path, as a clone is
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions.versions.__wrapped__()
    assert (found["rljax"], found["jax"]) == ("not installed", "1.2.3")
