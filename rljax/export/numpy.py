"""NumPy: arrays in a .npz file, and a loader next to it that needs only NumPy."""

import json
import pathlib
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.export import exportable, loader, lowering
from rljax.report import files

LOADER = "rljax_policy.py"


def write(path: pathlib.Path, policy: exportable.Exportable, metadata: dict[str, Any]) -> list[pathlib.Path]:
    """Write the arrays, with the program and the metadata as JSON in `metadata`; return the files."""
    arrays, text = described(policy, metadata)

    def save(part: pathlib.Path) -> None:
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, metadata=np.array(text), **arrays)

    files.replace(path, save)
    return [path, write_loader(path)]


def described(policy: exportable.Exportable, metadata: dict[str, Any]) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a policy's program by name, and the program and the metadata as JSON."""
    program = lowering.lower(*exportable.traced(policy), list(policy.inputs), policy.outputs)
    calls = {"inputs": program.inputs, "outputs": program.outputs, "calls": program.calls}
    calls["dtypes"] = {name: x.dtype.name for name, x in program.arrays.items()}
    return program.arrays, json.dumps(files.plain({**metadata, "program": calls}), allow_nan=False)


def write_loader(path: pathlib.Path) -> pathlib.Path:
    """Write the loader next to a file.

    Raises:
        UsageError: another file has its name.
    """
    code = pathlib.Path(loader.__file__).read_text(encoding="utf-8")
    place = path.with_name(LOADER)
    if place.exists() and code.splitlines()[0] not in place.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(f"{place} is another file than the loader of policies: write to another folder.")
    files.write_text(place, code)
    return place
