"""Export the greedy policy of a run, with all that it needs to act on raw observations."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from rljax.backend import versions
from rljax.envs import spaces
from rljax.errors import UsageError, shown
from rljax.experiment import loading, naming
from rljax.experiment.results import Result
from rljax.export import exportable, numpy, onnx, safetensors, stablehlo
from rljax.report import files

FORMATS = {"stablehlo": stablehlo, "onnx": onnx, "safetensors": safetensors, "numpy": numpy}


def export_policy(
    run: str | os.PathLike[str] | Result,
    out: str | os.PathLike[str],
    format: str,
    *,
    seed: int | None = None,
    checkpoint: str | int = "last",
    configuration: int | None = None,
    algorithm: Any = None,
    config: Any = None,
    env: Any = None,
    sweep: Mapping[str, Any] | None = None,
) -> list[pathlib.Path]:
    """Export the greedy policy of a seed to a file that runs without rljax.

    The file takes raw observations `[B, ...]` of any number B, and returns actions of the environment: standardizing
    by the running statistics, squashing, scaling to the bounds and action masks are inside. Its metadata has the
    spaces, the algorithm, the versions, and of a sweep the configuration with its values.

    Args:
        run: the folder of a run, or a `Result`.
        out: the file to write.
        format: "stablehlo", for `jax.export.deserialize`; "onnx"; or "safetensors" or "numpy", which the file
            `rljax_policy.py` next to them runs with NumPy only.
        seed: its number; None for the seed with the highest final return.
        checkpoint: as for `Result.policy`.
        configuration, algorithm, config, env, sweep: as for `load`, of a folder.

    Returns:
        the files written.

    Raises:
        UsageError: an argument is invalid, there is no such policy, the format cannot express it, a package is missing,
            or the file cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, got {shown(format)}.")
    path = files.destination(out, "policy")
    of_folder = {"configuration": configuration, "algorithm": algorithm, "config": config, "env": env, "sweep": sweep}
    if isinstance(run, Result):
        if extra := [name for name, value in of_folder.items() if value is not None]:
            raise UsageError(f"export_policy() takes {extra[0]} for the folder of a run, and this is a Result.")
        result = run
    else:
        result = loading.result_of(run, **of_folder)
    number = result.best_seed if seed is None else seed
    policy = exportable.of_policy(result.policy(number, checkpoint), result.config.env)
    return FORMATS[format].write(path, policy, _metadata(result, number, checkpoint, policy))


def _metadata(result: Result, seed: int, checkpoint: str | int, policy: exportable.Exportable) -> dict[str, Any]:
    """What is known of the policy, as plain data."""
    env = result.config.env
    swept: dict[str, Any] = {
        name: result.summary[name] for name in ("configuration", "values") if name in result.summary
    }
    return {
        "algorithm": naming.name_of(result.algorithm),
        "environment": env.label,
        "seed": int(seed),
        "checkpoint": checkpoint,
        **swept,
        "observation_space": _of_space(env.observation_space),
        "action_space": _of_space(env.action_space),
        "inputs": {name: [x.dtype.name, *x.shape] for name, x in policy.inputs.items()},
        "outputs": policy.outputs,
        "initial_hidden_state": {name: x.tolist() for name, x in policy.initial_hidden_state.items()},
        "versions": versions.versions(),
    }


def _of_space(space: Any) -> Any:
    """A space as plain data."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {name: _of_space(part) for name, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [_of_space(part) for part in space.spaces]}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": list(space.nvec)}
    bounds = {"low": space.low, "high": space.high}
    shown = {name: _bound(x) for name, x in bounds.items()}
    return {"type": "Box", "shape": list(space.shape), "dtype": np.dtype(space.dtype).name, **shown}


def _bound(bound: np.ndarray) -> Any:
    """A number if all are equal, and None for infinity, which JSON does not have."""
    same = bound.size and (bound == bound.flat[0]).all()
    return files.plain(bound.flat[0].item() if same else bound)
