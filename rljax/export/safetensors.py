"""Safetensors: arrays that open everywhere, and a loader next to it that needs only NumPy."""

import pathlib
from typing import Any

import numpy as np

from rljax.export import exportable, extra, numpy
from rljax.report import files


def write(path: pathlib.Path, policy: exportable.Exportable, metadata: dict[str, Any]) -> list[pathlib.Path]:
    """Write the arrays, with the program and the metadata as JSON in the header's entry `rljax`; return the files."""
    package = extra.imported("safetensors.numpy")
    arrays, text = numpy.described(policy, metadata)
    data = package.save({name: np.ascontiguousarray(x).reshape(x.shape) for name, x in arrays.items()}, {"rljax": text})
    files.replace(path, lambda part: part.write_bytes(data))
    return [path, numpy.write_loader(path)]
