"""Run a policy that `rljax export` has written as numpy or safetensors; this file needs only NumPy.

act, metadata = load("policy.npz")
actions = act({"obs": np.zeros((10, 4), np.float32)})["action"]  # of 10 observations
"""

import json
from typing import Any

import numpy as np

_DTYPES = {"BOOL": "bool", "F16": "f2", "F32": "f4", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}


def load(path: str) -> tuple[Any, dict[str, Any]]:
    """Load a policy: a function from its inputs by name to its outputs by name, and what is known of it."""
    arrays: dict[str, Any]
    with open(path, "rb") as file:
        if file.read(2) == b"PK":  # a .npz is a zip file
            arrays = dict(np.load(path))
            metadata = json.loads(str(arrays.pop("metadata")))
        else:
            file.seek(0)
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            metadata, data = json.loads(header.pop("__metadata__")["rljax"]), file.read()
            arrays = {
                name: np.frombuffer(data[slice(*x["data_offsets"])], _dtype(x["dtype"])).reshape(x["shape"])
                for name, x in header.items()
            }
    program = metadata.pop("program")

    def act(inputs: dict[str, Any]) -> dict[str, Any]:
        values = {**arrays, **{name: np.asarray(inputs[name]) for name in program["inputs"]}}
        values["batch"] = len(values[program["inputs"][0]])
        for name, function, arguments, options in program["calls"]:
            values[name] = (_EXTRA.get(function) or getattr(np, function))(
                *_found(values, arguments), **_tuples(options)
            )
        return {name: values[name] for name in program["outputs"]}

    return act, metadata


def _dtype(name: str) -> str:
    return _DTYPES.get(name) or name.replace("U", "uint")


def _found(values: dict[str, Any], x: Any) -> Any:
    return [_found(values, one) for one in x] if isinstance(x, list) else values.get(x, x) if isinstance(x, str) else x


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()}


def _windows(x: Any, size: Any, strides: Any, padding: Any, fill: float) -> Any:
    x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))[:, :: strides[0], :: strides[1]]


def _conv(x: Any, kernel: Any, strides: Any, padding: Any) -> Any:
    return np.einsum("bhwcij,ijco->bhwo", _windows(x, kernel.shape[:2], strides, padding, 0.0), kernel, optimize=True)


_EXTRA: dict[str, Any] = {
    "astype": lambda x, dtype: np.asarray(x).astype(dtype),
    "slice": lambda x, parts: x[tuple(slice(*part) for part in parts)],
    "einsum": lambda *arguments: np.einsum(*arguments, optimize=True),
    "conv": _conv,
    "max_pool": lambda x, size, strides, padding: _windows(x, size, strides, padding, -np.inf).max((-2, -1)),
}
