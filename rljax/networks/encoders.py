"""Encoders: from observations of any space to features, leaf by leaf."""

import dataclasses
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend.rounding import narrow
from rljax.envs import Discrete, Leaf, MultiDiscrete, Space, as_features, leaves_of
from rljax.envs.spaces import by_path
from rljax.errors import UsageError, number, suggest
from rljax.networks.histories import HISTORY_ENCODERS
from rljax.networks.layers import activation, dense


class EncoderOf(Protocol):
    """A function that makes the encoder of a space."""

    def __call__(self, space: Any, /) -> Any:
        """A linen module from observations `[..., *shape]` to features `[..., F]`."""


DEFAULT = "minatar"


def is_image(space: Space) -> bool:
    """True if observations, or a leaf of them, have three axes of which the first two fit a 3 x 3 filter."""
    leaves = by_path(leaves_of(space)).values()
    return any(len(leaf.shape) == 3 and min(leaf.shape[:2]) >= 3 for leaf in leaves)


def patches(image: jax.Array) -> jax.Array:
    """Every 3 x 3 patch of images `[..., H, W, C]` as a vector, `[..., H - 2, W - 2, 9 * C]`.

    A dense layer on the patches is a convolution without padding. As a matrix product it stays fast when it is vmapped
    over runs, each with its own kernel; XLA turns a vmapped convolution into a slow grouped one.
    """
    height, width = image.shape[-3] - 2, image.shape[-2] - 2
    shifted = [image[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


class Nature(nn.Module):
    """The convolutions of DQN (Mnih et al. 2015, Methods, "Model architecture"), for images of about 84 x 84."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Features `[..., 512]` of images `[..., H, W, C]`."""
        x = image
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.relu(
                nn.Conv(filters, (size, size), stride, "VALID", kernel_init=nn.initializers.orthogonal(2**0.5))(x)
            )
        return nn.relu(dense(512)(x.reshape(*image.shape[:-3], -1)))


class Impala(nn.Module):
    """The deep residual network of IMPALA (Espeholt et al. 2018, figure 3), for images of any size."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Features `[..., 256]` of images `[..., H, W, C]`."""
        x = image
        convolution = partial(nn.Conv, kernel_size=(3, 3), kernel_init=nn.initializers.orthogonal(2**0.5))
        for filters in (16, 32, 32):
            x = nn.max_pool(convolution(filters)(x), (3, 3), (2, 2), "SAME")
            for _ in range(2):
                inner = convolution(filters)(nn.relu(x))
                x = x + convolution(filters)(nn.relu(inner))
        return nn.relu(dense(256)(nn.relu(x).reshape(*image.shape[:-3], -1)))


_SMALLEST = 36  # height and width that leave one pixel after the convolutions of `Nature`

IMAGE_ENCODERS: dict[str, type[nn.Module] | None] = {DEFAULT: None, "nature": Nature, "impala": Impala}
ENCODERS = (*IMAGE_ENCODERS, *HISTORY_ENCODERS)
"""All names that the field `encoder` of a config takes."""


def encode_leaf(
    space: Leaf,
    obs: jax.Array,
    name: str = "",
    image: str = DEFAULT,
    embedding: int | None = None,
    activation_name: str = "relu",
    layer_norm: bool = False,
    mixed_precision: bool = False,
) -> jax.Array:
    """Features `[..., F]` of observations `[..., *shape]` of one array, to be called in a module's `__call__`.

    `name` precedes the names of the parameters; the other arguments are the fields of `Encoder`.
    """
    batch = obs.shape[: obs.ndim - len(space.shape)]
    if embedding is not None and isinstance(space, Discrete | MultiDiscrete):
        indices = space.index(obs)[..., None] if isinstance(space, Discrete) else obs
        sizes = (space.n,) if isinstance(space, Discrete) else space.nvec
        parts = [nn.Embed(n, embedding, name=f"{name}embedding_{i}")(indices[..., i]) for i, n in enumerate(sizes)]
        return jnp.concatenate(parts, axis=-1)
    x = narrow(as_features(space, obs))
    if not is_image(space):
        return x.reshape(*batch, -1)
    if obs.dtype == np.uint8:
        x = x / np.float32(max(float(space.high.max()), 1.0))  # type: ignore[union-attr]
    if image == DEFAULT:
        x = dense(16, name=f"{name}convolution", mixed_precision=mixed_precision)(patches(x))
        x = activation(activation_name)(nn.LayerNorm()(x) if layer_norm else x)
        return x.reshape(*batch, -1)
    return IMAGE_ENCODERS[image](name=f"{name}{image}")(x)  # type: ignore[misc]


class Encoder(nn.Module):
    """Map observations, a pytree `[..., *shape]`, to features `[..., F]`: each leaf by its space, one after the other.

    Images (three axes) pass through convolutions; integers become one-hot, or are embedded; bools and numbers stay.
    Images of uint8 are divided by their upper bound, 255 unless the space has a smaller one.
    """

    space: Space
    image: str = DEFAULT
    embedding: int | None = None
    activation: str = "relu"
    layer_norm: bool = False
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, obs: Any) -> jax.Array:
        spaces, parts = by_path(leaves_of(self.space)), by_path(obs)
        features = [
            encode_leaf(
                leaf, parts[path], f"{path.replace('.', '_')}_" if path else "", self.image, self.embedding,
                self.activation, self.layer_norm, self.mixed_precision,
            )
            for path, leaf in spaces.items()
        ]  # fmt: skip
        return jnp.concatenate(features, axis=-1)


@dataclasses.dataclass(frozen=True)
class _Encoder:
    image: str
    embedding: int | None

    def __call__(self, space: Space) -> Encoder:
        return Encoder(space, self.image, self.embedding)


def encoder(image: str = DEFAULT, embedding: int | None = None) -> EncoderOf:
    """An encoder for the field `encoder` of a config.

    Args:
        image: the encoder of images: `minatar`, 16 filters of 3 x 3 (Young and Tian 2019); `nature`, for 84 x 84 pixels
            (Mnih et al. 2015); or `impala` (Espeholt et al. 2018).
        embedding: the number of learned features of each integer of a `Discrete` or `MultiDiscrete`; None for one-hot.

    Raises:
        UsageError: the encoder of images is unknown, or `embedding` is not an integer of at least 1.
    """
    if image not in IMAGE_ENCODERS:
        raise UsageError(f"There is no encoder of images {image!r}: {suggest(image, IMAGE_ENCODERS)}")
    return _Encoder(image, embedding and number("embedding", embedding, integer=True, minimum=1))


def check_encoder(value: Any, space: Space | None = None) -> None:
    """Raise a `UsageError` for an unknown name, a module, or images of a space that are too small for the encoder."""
    if isinstance(value, nn.Module):
        raise UsageError("encoder must be a function that makes the module, such as encoder=lambda space: Model().")
    if isinstance(value, str) and value not in ENCODERS:
        raise UsageError(f"There is no encoder {value!r}: {suggest(value, ENCODERS)}")
    if space is not None and isinstance(value, str) and value in HISTORY_ENCODERS:
        HISTORY_ENCODERS[value](space)
    if space is None or (value.image if isinstance(value, _Encoder) else value) != "nature":
        return
    for path, leaf in by_path(leaves_of(space)).items():
        if is_image(leaf) and min(leaf.shape[:2]) < _SMALLEST:
            what = f"images {path!r}" if path else "images"
            raise UsageError(
                f"The encoder nature needs {what} of at least {_SMALLEST} x {_SMALLEST} pixels, got {leaf.shape}: use "
                "minatar or impala, or the wrapper resize."
            )
