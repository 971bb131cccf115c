"""StableHLO, as `jax.export` writes it: `jax.export.deserialize(file.read()).call(obs)`, with any batch size."""

import pathlib
from typing import Any

import jax
import jax.export

from rljax.export import exportable
from rljax.report import files

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: pathlib.Path, policy: exportable.Exportable, metadata: dict[str, Any]) -> list[pathlib.Path]:
    """Write the program, and its metadata as JSON next to it; return the files.

    The program takes the inputs in the metadata's order, and returns a tuple of the outputs.
    """
    exportable.traced(policy)  # it draws no random numbers

    def program(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        return policy.function(jax.random.key(0), *inputs)

    exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*exportable.specs(policy))
    described = path.with_name(f"{path.name}.json")
    data = exported.serialize()
    files.replace(path, lambda part: part.write_bytes(data))
    files.write_json(described, {**metadata, "platforms": list(PLATFORMS)})
    return [path, described]
