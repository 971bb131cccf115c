"""Adam against Optax's own, which divides where ours multiplies: equal to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rljax
from rljax import optimizers

SHAPES = {"kernel": (5, 3), "bias": (3,)}


def gradients(scale: float, count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}
        for _ in range(count)
    ]


@pytest.mark.parametrize("eps", [1e-8, 1e-5, 0.1])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 2.5])
def test_adam_equals_optax_to_rounding(eps: float, max_grad_norm: float | None) -> None:
    # Norms of some 2.8, so that 0.5 scales down all gradients and 2.5 some of them.
    ours = optimizers.adam(3e-3, eps=eps, max_grad_norm=max_grad_norm)
    clip = optax.identity() if max_grad_norm is None else optax.clip_by_global_norm(max_grad_norm)
    theirs = optax.chain(clip, optax.adam(3e-3, eps=eps))
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    mine, other = ours.init(params), theirs.init(params)
    norms = []
    for gradient in gradients(0.67, 200):
        norms.append(float(optax.tree.norm(gradient)))
        got, mine = ours.update(gradient, mine, params=params)
        want, other = theirs.update(gradient, other)
        for name in SHAPES:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-9)
    assert min(norms) < 2.5 < max(norms)
    assert int(mine.count) == 200
    for name in SHAPES:
        np.testing.assert_allclose(mine.mu[name], other[1][0].mu[name], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(mine.nu[name], other[1][0].nu[name], rtol=1e-5)


def test_first_step_of_a_lone_parameter_is_the_learning_rate() -> None:
    adam = optimizers.adam(0.1, eps=0.0)
    updates, _ = adam.update({"w": jnp.float32(-1e-3)}, adam.init({"w": jnp.float32(0.0)}))
    assert float(updates["w"]) == pytest.approx(0.1, rel=1e-4)
    adam = optimizers.adam(0.1)  # by default half of it for a gradient of 1e-8
    updates, _ = adam.update({"w": jnp.float32(-1e-8)}, adam.init({"w": jnp.float32(0.0)}))
    assert float(updates["w"]) == pytest.approx(0.05, rel=1e-3)


def test_a_gradient_of_zeros_moves_nothing_and_nan_is_not_hidden() -> None:
    adam = optimizers.adam(0.1, max_grad_norm=1.0)
    start = adam.init({"w": jnp.zeros(2)})
    updates, _ = adam.update({"w": jnp.zeros(2)}, start)
    np.testing.assert_array_equal(updates["w"], 0.0)
    updates, state = adam.update({"w": jnp.array([1.0, np.nan])}, start)
    assert np.isnan(updates["w"]).all()  # the norm is not a number, so nothing can be scaled by it
    assert np.isnan(state.mu["w"]).all()


def test_rates_of_many_runs_are_mapped_over() -> None:
    rates = jnp.array([1e-3, 1e-2])
    params = {"w": jnp.zeros(3)}
    gradient = {"w": jnp.array([1.0, -2.0, 3.0])}

    def step(rate: jax.Array) -> jax.Array:
        adam = optimizers.adam(rate, max_grad_norm=0.5)
        return adam.update(gradient, adam.init(params))[0]["w"]

    steps = jax.vmap(step)(rates)
    np.testing.assert_allclose(steps[1], 10.0 * steps[0], rtol=1e-6)
    np.testing.assert_allclose(steps[0], [-1e-3, 1e-3, -1e-3], rtol=1e-4)


def test_a_gradient_that_is_always_zero_does_not_spoil_a_derivative():
    """Of parameters after three steps by the learning rate: minus one a step for the first, nothing for the second."""

    def trained(learning_rate):
        optimizer = optimizers.adam(learning_rate)
        params = jnp.array([1.0, 2.0])
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(jnp.array([0.5, 0.0]), state)
            params = optax.apply_updates(params, updates)
        return params

    def moved(scale):
        optimizer = optimizers.adam(0.1)
        gradient = scale * jnp.array([0.5, 0.0])
        return optimizer.update(gradient, optimizer.init(gradient))[0]

    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(derivative(trained)(0.1), [-3.0, 0.0], rtol=1e-4)
        np.testing.assert_allclose(derivative(moved)(1.0), [0.0, 0.0], atol=1e-6)  # Adam does not see a scale


def test_radam_and_clipping_are_optaxs():
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    ours = optax.chain(optimizers.clip_by_global_norm(2.5), optimizers.radam(3e-3))
    theirs = optax.chain(optax.clip_by_global_norm(2.5), optax.radam(3e-3))

    def moved(optimizer):
        def step(state, gradient):
            updates, state = optimizer.update(gradient, state)
            return state, updates

        return jax.lax.scan(step, optimizer.init(params), jax.tree.map(lambda *x: jnp.stack(x), *gradients(0.67, 30)))

    (_, got), (_, want) = jax.jit(moved, static_argnums=0)(ours), jax.jit(moved, static_argnums=0)(theirs)
    for name in SHAPES:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)


OPTIMIZERS = {
    "adam": lambda rate: optimizers.adam(rate, max_grad_norm=0.5),
    "radam": lambda rate: optax.chain(optimizers.clip_by_global_norm(0.5), optimizers.radam(rate)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_derivatives_are_finite_where_gradients_are_zero(name):
    """Of a few steps by the scale of the gradients, which are zero for one parameter, and in one step for both."""

    def trained(scale):
        optimizer = OPTIMIZERS[name](0.1)
        params = jnp.array([1.0, 2.0])
        state = optimizer.init(params)
        for gradient in ([0.0, 0.0], [0.3, 0.0], [0.9, 0.0], [0.0, 0.0], *[[0.2, 0.0]] * 4):
            updates, state = optimizer.update(scale * jnp.array(gradient), state)
            params = optax.apply_updates(params, updates)
        return params.sum()

    first = jax.jacfwd(trained)
    for reverse, forward in ((jax.grad(trained), first), (jax.grad(jax.grad(trained)), jax.jacfwd(first))):
        assert np.isfinite(forward(0.8))
        np.testing.assert_allclose(reverse(0.8), forward(0.8), rtol=1e-3, atol=1e-5)
        assert np.isfinite(reverse(0.0))  # every gradient is zero


def test_names_move_parameters_by_their_learning_rates():
    names = ("adamw", "rmsprop", "sgd", "lion", "muon")
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3), "scale": jnp.float32(1.0)}

    @jax.jit
    @jax.vmap
    def moved(rate):
        made = {name: optimizers.build(name, rate, max_grad_norm=0.5) for name in names}
        return {name: optimizer.update(params, optimizer.init(params), params)[0] for name, optimizer in made.items()}

    small, large = (jax.tree.map(lambda x, i=i: x[i], moved(jnp.array([1e-3, 1e-2]))) for i in (0, 1))
    for name in names:
        steps = optimizers.global_norm(small[name]), optimizers.global_norm(large[name])
        assert 0.0 < steps[0] < steps[1] < np.inf, name
    assert all(isinstance(optimizers.build(name, 0.1), optax.GradientTransformation) for name in optimizers.NAMES)
    clipped = {name: -1e-3 * 0.5 / 4.0 * x for name, x in params.items()}  # 16 ones have norm 4
    for name, x in clipped.items():
        np.testing.assert_allclose(small["sgd"][name], x, rtol=1e-5)


def test_a_function_is_used_without_clipping():
    optimizer = optimizers.build(lambda rate: optax.chain(optax.scale(2.0), optax.sgd(rate)), 0.1, max_grad_norm=0.5)
    updates, _ = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init({"w": jnp.zeros(2)}))
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)
    with pytest.raises(rljax.UsageError, match="must return"):
        optimizers.build(lambda rate: rate, 0.1)
