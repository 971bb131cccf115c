"""Networks that users bring: Flax nnx modules with the interface of linen's, and parts whose parameters stay fixed."""

import dataclasses
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rljax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Nnx:
    """The `init` and `apply` of nnx modules made by a function of `rngs`; each seed's parameters are its own."""

    make: Callable[..., Any]

    def init(self, key: jax.Array, /, *inputs: Any) -> Any:
        """Fresh parameters, as nested dicts."""
        from flax import nnx

        _, params, *rest = nnx.split(self.make(rngs=nnx.Rngs(key)), nnx.Param, ...)
        if jax.tree.leaves(rest):
            raise UsageError(
                "An nnx network may only have parameters, and this one has other state: leave out batch statistics and "
                "dropout."
            )
        return _with_text_keys(nnx.to_pure_dict(params))

    def apply(self, params: Any, /, *inputs: Any) -> Any:
        """The module's outputs with these parameters."""
        from flax import nnx

        structure, state = nnx.split(nnx.eval_shape(lambda: self.make(rngs=nnx.Rngs(0))))
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(structure, state)(*inputs)


def _with_text_keys(params: Any) -> Any:
    """Nested dicts whose keys are strings, as linen's are: nnx numbers the items of lists."""
    return {str(key): _with_text_keys(x) for key, x in params.items()} if isinstance(params, dict) else params


def adapted(network: Any) -> Any:
    """The network that a config's value stands for: a class or function that makes nnx modules is wrapped.

    Raises:
        UsageError: an nnx module, all of whose seeds would start with the same parameters.
    """
    if isinstance(network, tuple) and hasattr(network, "_fields"):  # actor and critics
        return type(network)(*map(adapted, network))
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(network, nnx.Module):
        raise UsageError(
            "network must be a function that makes the nnx module, so that each seed has its own parameters: "
            "network=lambda rngs: Model(rngs=rngs)."
        )
    has_both = callable(getattr(network, "init", None)) and callable(getattr(network, "apply", None))
    is_linen = isinstance(network, type) and has_both  # a class that should have been an instance
    return network if has_both or is_linen or not callable(network) else Nnx(network)


class Frozen:
    """A network some of whose parameters are constants: no gradient, no optimiser and no seed changes them."""

    def __init__(self, network: Any, params: Mapping[str, Any]) -> None:
        self.network, self.params = adapted(network), dict(params)

    def __repr__(self) -> str:
        """The network, and the names and checksums of what is frozen, which identify it in `config.json`."""
        sums = {name: zlib.crc32(b"".join(map(_bytes, jax.tree.leaves(part)))) for name, part in self.params.items()}
        return f"frozen({self.network!r}, {', '.join(f'{name}={checksum:08x}' for name, checksum in sums.items())})"

    def __getattr__(self, name: str) -> Any:
        """The `initial_hidden_state` of a recurrent network."""
        if name != "initial_hidden_state":
            raise AttributeError(name)
        return getattr(self.network, name)

    def init(self, key: jax.Array, /, *inputs: Any) -> Any:
        """Fresh parameters of all other parts."""
        variables = self.network.init(key, *inputs)
        params = _params(variables)
        for name, part in self.params.items():
            shapes = jax.tree.map(lambda x: x.shape, (params.get(name), part))
            if shapes[0] != shapes[1]:
                raise UsageError(f"The frozen part {name!r} does not fit the network, which has {', '.join(params)}.")
        return _with_params(variables, {name: part for name, part in params.items() if name not in self.params})

    def apply(self, variables: Any, /, *inputs: Any, **options: Any) -> Any:
        """The network's outputs with the frozen parameters and these."""
        params = {**_params(variables), **self.params}
        return self.network.apply(_with_params(variables, params), *inputs, **options)


def _bytes(x: Any) -> bytes:
    return np.asarray(x).tobytes()


def _params(variables: Any) -> Any:
    """The parameters: linen has them below "params", nnx at the top."""
    return variables.get("params", variables)


def _with_params(variables: Any, params: Any) -> Any:
    return {**variables, "params": params} if "params" in variables else params


def frozen(network: Any, params: Mapping[str, Any]) -> Any:
    """A network with parts that stay as they are, such as a pretrained torso.

    Args:
        network: a linen module, or a function that makes nnx modules.
        params: the parameters of the parts by their names, `{"torso": pretrained["params"]["torso"]}`. They are
            constants of the compiled program, the same for all seeds; a state's `params` holds only the others.
    """
    return Frozen(network, params)
