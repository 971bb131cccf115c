r"""Adam with gradients clipped by their global norm, computed with one division per parameter.

With the moments $m \leftarrow \beta_1 m + (1 - \beta_1) g$ and $v \leftarrow \beta_2 v + (1 - \beta_2) g^2$ the update
of step t is

$$ -\alpha_t \frac{m}{\sqrt v + \hat\epsilon_t}, \qquad
   \alpha_t = \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}, \qquad
   \hat\epsilon_t = \epsilon \sqrt{1 - \beta_2^t} $$

(Kingma and Ba 2015, end of section 2). It equals Optax's `clip_by_global_norm` and `adam` to rounding. Those take four
divisions per parameter, which are slow on CPUs.
"""

import jax
import jax.numpy as jnp
import optax

from rljax.types import Scalar

_FIRST_DECAY, _SECOND_DECAY = 0.9, 0.999


@jax.custom_jvp
def _root(x: jax.Array) -> jax.Array:
    """The square root, with derivative 0 at 0.

    With the true derivative, a gradient through training would be NaN as soon as one unit is dead.
    """
    return jnp.sqrt(x)


@_root.defjvp
def _root_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    root = jnp.sqrt(primals[0])
    return root, jnp.where(root > 0, tangents[0] / (2.0 * jnp.where(root > 0, root, 1.0)), 0.0)


def adam(learning_rate: Scalar, eps: float = 1e-8, max_grad_norm: Scalar | None = None) -> optax.GradientTransformation:
    r"""Adam with Optax's interface and `ScaleByAdamState`.

    Args:
        learning_rate: $\alpha$, `[]`.
        eps: $\epsilon$.
        max_grad_norm: gradients of a larger global norm are scaled down to it; None for no clipping.
    """

    def init(params: optax.Params) -> optax.OptState:
        return optax.ScaleByAdamState(jnp.int32(0), optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        assert isinstance(state, optax.ScaleByAdamState)
        if max_grad_norm is not None:
            norm = optax.tree.norm(gradient)
            scale = jnp.where(norm < max_grad_norm, 1.0, max_grad_norm / norm)
            gradient = optax.tree.scale(scale, gradient)
        count = optax.safe_increment(state.count)
        first = optax.tree.update_moment(gradient, state.mu, _FIRST_DECAY, 1)
        second = optax.tree.update_moment(gradient, state.nu, _SECOND_DECAY, 2)
        correction = jnp.sqrt(1.0 - _SECOND_DECAY**count)
        size = -learning_rate * correction / (1.0 - _FIRST_DECAY**count)
        updates = jax.tree.map(lambda m, v: size * m / (_root(v) + eps * correction), first, second)
        return updates, optax.ScaleByAdamState(count, first, second)

    return optax.GradientTransformation(init, update)
