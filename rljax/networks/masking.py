"""Networks of the engine's observations, which are `Masked` if an environment declares its legal actions."""

import dataclasses
from typing import Any

import jax

from rljax.envs import Env
from rljax.envs.masks import plain, where_legal


@dataclasses.dataclass(frozen=True)
class Unmasked:
    """A network of the environment's observations as one of `Masked` ones.

    With `masks_outputs`, its first output are a policy's logits, and those of illegal actions become -inf: their
    probability is exactly 0, and no gradient passes through them.
    """

    network: Any
    masks_outputs: bool

    def __getattr__(self, name: str) -> Any:
        """The `initial_hidden_state` of a recurrent network."""
        if name != "initial_hidden_state":
            raise AttributeError(name)
        return getattr(self.network, name)

    def init(self, key: jax.Array, obs: Any, /, *inputs: Any) -> Any:
        """The network's fresh parameters."""
        return self.network.init(key, plain(obs), *inputs)

    def apply(self, params: Any, obs: Any, /, *inputs: Any, **options: Any) -> Any:
        """The network's outputs."""
        outputs = self.network.apply(params, plain(obs), *inputs, **options)
        if not self.masks_outputs:
            return outputs
        if not isinstance(outputs, tuple):
            return where_legal(outputs, obs)
        logits, *rest = outputs
        return (where_legal(logits, obs), *rest)


def unmasked(network: Any, env: Env) -> Any:
    """A network of values for the engine's observations of an environment; unchanged if there are no masks."""
    return network if env.legal_actions is None else Unmasked(network, masks_outputs=False)


def masked_policy(network: Any, env: Env) -> Any:
    """A network whose first output is a policy's, for the engine's observations; unchanged if there are no masks."""
    return network if env.legal_actions is None else Unmasked(network, masks_outputs=True)
