"""Configs, environments and their fields as plain data, for `config.json`."""

import dataclasses
import re
import zlib
from typing import Any

import jax
import numpy as np

from rljax import references, schedules
from rljax.envs import Env
from rljax.networks import custom

LARGE = 100  # entries of an environment's table, which is described by its checksum if it has more


def describe(value: Any) -> Any:
    """Describe a config, an environment or one of their fields as plain data."""
    if isinstance(value, Env):
        params = jax.tree.map(_short, value.params)
        parts = {"name": value.name, "label": value.label, "params": params, "recipe": value.recipe}
        return describe({**parts, "wrappers": value.wrappers})
    if isinstance(value, schedules.Schedule | custom.Frozen):
        return repr(value)
    if isinstance(value, custom.Nnx):
        return describe(value.make)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return np.asarray(value).tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if (reference := references.of(value)) is not None:
        return reference
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an address means nothing in another process


def _short(leaf: Any) -> Any:
    """A leaf of params, or a few words for a large table, which a recipe makes again."""
    if np.size(leaf) <= LARGE:
        return leaf
    array = np.ascontiguousarray(leaf)
    return f"{array.dtype.name}{list(array.shape)}, checksum {zlib.crc32(array.tobytes()):08x}"
