"""The torso of the default networks: an encoder of observations, and hidden layers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.envs import Leaf, Space, leaves_of
from rljax.errors import UsageError
from rljax.networks.encoders import DEFAULT, Encoder, EncoderOf, encode_leaf
from rljax.networks.histories import HISTORY_ENCODERS
from rljax.networks.layers import activation, dense


class Torso(nn.Module):
    """Map observations, a pytree `[..., *shape]`, to features `[..., hidden_sizes[-1]]`.

    An encoder comes first; `extra_inputs`, such as actions `[..., D]`, are appended to its features. It is the name of
    one, which encodes each leaf by its space as `Encoder` describes, or a function from the space to a linen module.
    """

    space: Space
    hidden_sizes: Sequence[int]
    activation: str = "tanh"
    layer_norm: bool = False  # after every linear layer
    mixed_precision: bool = False
    encoder: str | EncoderOf = DEFAULT

    @nn.compact
    def __call__(self, obs: Any, *extra_inputs: jax.Array) -> jax.Array:
        act, linear = activation(self.activation), partial(dense, mixed_precision=self.mixed_precision)
        x = self._encoded(obs)
        x = jnp.concatenate([x, *extra_inputs], axis=-1) if extra_inputs else x
        for size in self.hidden_sizes:
            x = linear(size)(x)
            x = act(nn.LayerNorm()(x) if self.layer_norm else x)
        return x

    def _encoded(self, obs: Any) -> jax.Array:
        options = (self.activation, self.layer_norm, self.mixed_precision)
        if isinstance(self.space, Leaf) and self.encoder == DEFAULT:
            return encode_leaf(self.space, obs, "", DEFAULT, None, *options)
        named = HISTORY_ENCODERS.get(self.encoder, self.encoder) if isinstance(self.encoder, str) else self.encoder
        if isinstance(named, str):
            return Encoder(self.space, named, None, *options, name="encoder")(obs)
        module = named(self.space)
        if not isinstance(module, nn.Module):
            raise UsageError(f"encoder must be a function from a space to a linen module, got {type(module).__name__}.")
        x = module.clone(parent=self, name="encoder")(obs)
        first, space = jax.tree.leaves(obs)[0], jax.tree.leaves(leaves_of(self.space))[0]
        batch = first.shape[: first.ndim - len(space.shape)]
        if x.shape[:-1] != batch:
            raise UsageError(
                f"The encoder must give {(*batch, 'F')} for observations {(*batch, '...')}, but gives {x.shape}."
            )
        return x
