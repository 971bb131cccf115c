"""Run a policy that `rljax export` has written as numpy or safetensors; this file needs only NumPy.

act, metadata = load("policy.npz")
actions = act({"obs": np.zeros((10, 4), np.float32)})["action"]  # of 10 observations
"""

import json
from typing import Any

import numpy as np


def load(path: str) -> tuple[Any, dict[str, Any]]:
    """Load a policy: a function from its inputs by name to its outputs by name, and what is known of it."""
    with open(path, "rb") as file:
        data = file.read()
    arrays: dict[str, Any] = dict(np.load(path)) if data[:4] == b"PK\3\4" else {}  # a .npz is a zip file
    size = 8 + int.from_bytes(data[:8], "little")  # of a .safetensors' header
    header = {} if arrays else json.loads(data[8:size])
    metadata = json.loads(str(arrays.pop("metadata")) if arrays else header.pop("__metadata__")["rljax"])
    program = metadata.pop("program")
    for name, x in header.items():
        start, end = x["data_offsets"]
        part = data[size + start : size + end]
        arrays[name] = np.frombuffer(part, program["dtypes"][name]).reshape(x["shape"])

    def act(inputs: dict[str, Any]) -> dict[str, Any]:
        values = {**arrays, **{name: np.asarray(inputs[name]) for name in program["inputs"]}}
        values["batch"] = len(values[program["inputs"][0]])
        for name, function, arguments, options in program["calls"]:
            call = _EXTRA.get(function) or getattr(np, function)
            values[name] = call(*_found(values, arguments), **{key: _found(values, x) for key, x in options.items()})
        return {name: values[name] for name in program["outputs"]}

    return act, metadata


def _found(values: dict[str, Any], x: Any) -> Any:
    return tuple(_found(values, y) for y in x) if isinstance(x, list) else values.get(x, x) if isinstance(x, str) else x


def _windows(x: Any, size: Any, strides: Any, padding: Any, fill: float) -> Any:
    x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))[:, :: strides[0], :: strides[1]]


_EXTRA: dict[str, Any] = {
    "astype": lambda x, dtype: np.asarray(x).astype(dtype),
    "slice": lambda x, parts: x[tuple(slice(*part) for part in parts)],
    "einsum": lambda *arguments: np.einsum(*arguments, optimize=True),
    "conv": lambda x, kernel, strides, padding: np.einsum(
        "bhwcij,ijco->bhwo", _windows(x, kernel.shape[:2], strides, padding, 0.0), kernel, optimize=True
    ),
    "max_pool": lambda x, size, strides, padding: _windows(x, size, strides, padding, -np.inf).max((-2, -1)),
}
