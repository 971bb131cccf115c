"""Where compiled programs are kept, so that a later process need not compile them again."""

import os
import pathlib

import jax

_chosen = False


def cache(folder: str | os.PathLike[str] | None) -> None:
    """Keep compiled programs in a folder, or, with None, in none.

    Without a call, `rljax.run` and the command line use the folder in the environment variable `RLJAX_CACHE`, none if
    that is "off", and `~/.cache/rljax` if it is not set. JAX's own setting (`jax_compilation_cache_dir`) comes first.
    Deleting the folder is safe.
    """
    global _chosen  # noqa: PLW0603 - JAX's setting is global, too
    _chosen = True
    jax.config.update("jax_compilation_cache_dir", None if folder is None else os.path.expanduser(folder))


def use_default() -> None:
    """Choose the folder that `cache` documents, unless one is chosen."""
    if _chosen or jax.config.jax_compilation_cache_dir is not None:
        return
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = os.environ.get("RLJAX_CACHE") or str(home / "rljax")
    if folder != "off":
        cache(folder)
