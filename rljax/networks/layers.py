"""Layers of the default networks: linear ones, noisy ones, and their activations."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.backend.matmul import product
from rljax.errors import UsageError

Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: dict[str, Activation] = dict(tanh=jnp.tanh, relu=nn.relu, elu=nn.elu, gelu=nn.gelu, silu=nn.silu)


def activation(name: str) -> Activation:
    """The activation function of that name; an unknown name is a `UsageError`."""
    if name not in ACTIVATIONS:
        raise UsageError(f"There is no activation {name!r}: choose from {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


_NARROW = range(2, 7)  # output sizes of layers that multiply column by column


def dense(
    features: int, scale: float = math.sqrt(2), name: str | None = None, mixed_precision: bool = False
) -> nn.Dense:
    """A linear layer with orthogonal weights of gain `scale` and zero biases (Saxe et al. 2014).

    With mixed precision it multiplies as in `rljax.backend.matmul`; its parameters and output stay float32.
    """
    multiply: Any = _multiply_by_columns if features in _NARROW else partial(product, mixed_precision=mixed_precision)
    if features == 1:  # the kernel is a vector, which Flax's default multiplies well
        multiply = None
    return nn.Dense(features, kernel_init=nn.initializers.orthogonal(scale), name=name, dot_general=multiply)


def _multiply_by_columns(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`x @ kernel` as one matrix-vector product per column.

    On CPUs, XLA takes four times as long for the gradient of a narrow kernel as for that of a single column.
    """
    return jnp.stack([x @ kernel[:, i] for i in range(kernel.shape[1])], axis=-1)


class NoisyDense(nn.Module):
    r"""A linear layer with factorised noise on its weights (Fortunato et al. 2018, equations 9 to 11).

    $y = (\mu + \sigma \odot f(\epsilon_{in}) f(\epsilon_{out})^T)^T x + b_\mu + b_\sigma \odot f(\epsilon_{out})$ with
    $f(x) = \mathrm{sign}(x) \sqrt{|x|}$, drawn once per call. Without an rng stream "noise" only means are used.
    """

    features: int
    mixed_precision: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1]
        limit = 1.0 / math.sqrt(inputs)
        uniform = partial(jax.random.uniform, dtype=jnp.float32, minval=-limit, maxval=limit)
        kernel = self.param("kernel", uniform, (inputs, self.features))
        bias = self.param("bias", uniform, (self.features,))
        constant = nn.initializers.constant(0.5 * limit, jnp.float32)
        kernel_sigma = self.param("kernel_sigma", constant, (inputs, self.features))
        bias_sigma = self.param("bias_sigma", constant, (self.features,))
        if self.has_rng("noise"):
            noise = jax.random.normal(self.make_rng("noise"), (inputs + self.features,), jnp.float32)
            noise = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))
            noise_in, noise_out = noise[:inputs], noise[inputs:]
            kernel = kernel + kernel_sigma * noise_in[:, None] * noise_out
            bias = bias + bias_sigma * noise_out
        return product(x, kernel, mixed_precision=self.mixed_precision) + bias
