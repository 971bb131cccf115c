r"""Optimisers by name, and our own Adam and RAdam, which are differentiable where gradients are exactly zero.

With the moments $m \leftarrow \beta_1 m + (1 - \beta_1) g$ and $v \leftarrow \beta_2 v + (1 - \beta_2) g^2$ the update
of Adam's step t is

$$ -\alpha_t \frac{m}{\sqrt v + \hat\epsilon_t}, \qquad
   \alpha_t = \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}, \qquad
   \hat\epsilon_t = \epsilon \sqrt{1 - \beta_2^t} $$

(Kingma and Ba 2015, end of section 2). It equals Optax's `clip_by_global_norm` and `adam` to rounding. Those take four
divisions per parameter, which are slow on CPUs.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from rljax.backend.rounding import root
from rljax.errors import UsageError, shown, suggest
from rljax.types import Scalar

NAMES = (
    *("adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad"),
    *("fromage", "lamb", "lars", "lion", "muon", "nadam", "nadamw", "novograd", "radam", "rmsprop", "sgd", "sign_sgd"),
    *("signum", "yogi"),
)
"""Optimisers that a config's `optimizer` can name, as Optax has them."""

_FIRST_DECAY, _SECOND_DECAY = 0.9, 0.999
_MAX_LENGTH = 2.0 / (1.0 - _SECOND_DECAY) - 1.0  # rho at infinity (Liu et al. 2020, equation 4)


class Optimizer(Protocol):
    """A function from the learning rate `[]`, which may be traced, to a transformation; `optax.adamw` is one."""

    def __call__(self, learning_rate: Scalar, /) -> optax.GradientTransformation:
        """The transformation of gradients to updates."""


def check(name: str) -> str:
    """Return the name of an optimiser; raise a `UsageError` for an unknown one."""
    if name not in NAMES:
        raise UsageError(f"There is no optimizer {name!r}: {suggest(name, NAMES)}")
    return name


def build(
    optimizer: str | Optimizer, learning_rate: Scalar, eps: float = 1e-8, max_grad_norm: Scalar | None = None
) -> optax.GradientTransformation:
    """The transformation of gradients that a config's `optimizer` stands for.

    Args:
        optimizer: one of `NAMES`, with Optax's defaults after clipping; or a function of the learning rate, whose
            transformation is used unchanged, without clipping.
        learning_rate: the step size `[]`.
        eps: of Adam's denominator. Optax's default is 1e-8.
        max_grad_norm: gradients of a larger global norm are scaled down to it first; None for no clipping.

    Raises:
        UsageError: the function returns something else.
    """
    if not isinstance(optimizer, str):
        transformation = optimizer(learning_rate)
        if not isinstance(transformation, optax.GradientTransformation):
            raise UsageError(f"optimizer must return an optax.GradientTransformation, got {shown(transformation)}.")
        return transformation
    if optimizer == "adam":
        return adam(learning_rate, eps, max_grad_norm)
    make = radam if optimizer == "radam" else getattr(optax, optimizer, None) or getattr(optax.contrib, optimizer)
    return make(learning_rate) if max_grad_norm is None else clipped(max_grad_norm, make(learning_rate))


def clipped(max_grad_norm: Scalar, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser after `clip_by_global_norm`."""
    return optax.chain(clip_by_global_norm(max_grad_norm), optimizer)


def global_norm(gradient: optax.Updates) -> jax.Array:
    """The Euclidean norm `[]` of all leaves together, with derivative 0 at 0."""
    return root(optax.tree.norm(gradient, squared=True))


def clip_by_global_norm(max_norm: Scalar) -> optax.GradientTransformation:
    """Optax's transformation of that name, with a derivative where the gradient is zero."""

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        norm = global_norm(gradient)
        is_small = norm < max_norm
        divisor = jnp.where(is_small, 1.0, norm)
        return jax.tree.map(lambda g: jnp.where(is_small, g, g / divisor * max_norm), gradient), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def adam(learning_rate: Scalar, eps: float = 1e-8, max_grad_norm: Scalar | None = None) -> optax.GradientTransformation:
    r"""Adam with Optax's interface and `ScaleByAdamState`.

    Args:
        learning_rate: $\alpha$, `[]`.
        eps: $\epsilon$.
        max_grad_norm: gradients of a larger global norm are scaled down to it; None for no clipping.
    """

    def step(count: jax.Array, first: optax.Updates, second: optax.Updates) -> optax.Updates:
        correction = jnp.sqrt(1.0 - _SECOND_DECAY**count)
        size = -learning_rate * correction / (1.0 - _FIRST_DECAY**count)
        return jax.tree.map(lambda m, v: size * m / (root(v) + eps * correction), first, second)

    def clip(gradient: optax.Updates) -> optax.Updates:
        if max_grad_norm is None:
            return gradient
        norm = global_norm(gradient)
        is_small = norm < max_grad_norm
        return optax.tree.scale(jnp.where(is_small, 1.0, max_grad_norm / jnp.where(is_small, 1.0, norm)), gradient)

    return _with_moments(clip, step)


def radam(learning_rate: Scalar, eps: float = 1e-8) -> optax.GradientTransformation:
    """Optax's `radam` (Liu et al. 2020, algorithm 2), with a derivative where gradients are zero."""

    def step(count: jax.Array, first: optax.Updates, second: optax.Updates) -> optax.Updates:
        decay = _SECOND_DECAY**count
        length = _MAX_LENGTH - 2 * count * decay / (1 - decay)
        rectified = length >= 5.0
        safe = jnp.where(rectified, length, 5.0)  # without it, the branch that is not taken gives NaN
        rate = jnp.sqrt((safe - 4.0) * (safe - 2.0) * _MAX_LENGTH / ((_MAX_LENGTH - 4.0) * (_MAX_LENGTH - 2.0) * safe))
        first = optax.tree.bias_correction(first, _FIRST_DECAY, count)
        second = optax.tree.bias_correction(second, _SECOND_DECAY, count)

        def scaled(m: jax.Array, v: jax.Array) -> jax.Array:
            return -learning_rate * jnp.where(rectified, rate * m / (root(v) + eps), m)

        return jax.tree.map(scaled, first, second)

    return _with_moments(lambda gradient: gradient, step)


def _with_moments(
    clip: Callable[[optax.Updates], optax.Updates],
    step: Callable[[jax.Array, optax.Updates, optax.Updates], optax.Updates],
) -> optax.GradientTransformation:
    """A transformation with Adam's moments of clipped gradients, and `(count, m, v) -> updates`."""

    def init(params: optax.Params) -> optax.OptState:
        return optax.ScaleByAdamState(jnp.int32(0), optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        gradient = clip(gradient)
        count = optax.safe_increment(state.count)
        first = optax.tree.update_moment(gradient, state.mu, _FIRST_DECAY, 1)
        second = optax.tree.update_moment(gradient, state.nu, _SECOND_DECAY, 2)
        return step(count, first, second), optax.ScaleByAdamState(count, first, second)

    return optax.GradientTransformation(init, update)
