"""A layer's product against NumPy's, its derivatives against JAX's own of a plain product, mapped in every way."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import optimized

from rljax.backend.matmul import product

X = np.random.default_rng(0).normal(size=(3, 5, 7, 4)).astype(np.float32)
KERNELS = np.random.default_rng(1).normal(size=(3, 4, 6)).astype(np.float32)


def both(of_product, *arguments):
    """What a function of a product gives with ours and with the plain one."""
    ours, plain = of_product(product)(*arguments), of_product(jnp.matmul)(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, plain)
    return ours


@pytest.mark.parametrize("inputs", [1, 4, 8, 9])
@pytest.mark.parametrize("batch", [(), (7,), (5, 7), (0,)])
def test_product_equals_numpy_for_any_leading_axes(batch, inputs):
    x, kernel = np.resize(X, (*batch, inputs)), np.resize(KERNELS, (inputs, 6))
    np.testing.assert_allclose(product(x, kernel), x @ kernel, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "kernel", "maps"),
    [
        ((3, 7, 4), (3, 4, 6), [(0, 0)]),
        ((3, 7, 4), (4, 6), [(0, None)]),
        ((7, 3, 4), (4, 6), [(1, None)]),
        ((7, 4), (3, 4, 6), [(None, 0)]),
        ((2, 7, 3, 4), (2, 4, 6), [(1, None), (0, 0)]),
        ((7, 3, 4), (2, 4, 6), [(1, None), (None, 0)]),
        ((2, 7, 4), (3, 4, 6), [(None, 0), (0, None)]),
        ((2, 3, 7, 4), (4, 6), [(0, None), (0, None)]),
        ((2, 3, 7, 4), (4, 2, 3, 6), [(0, 1), (0, 1)]),
    ],
)
@pytest.mark.parametrize("inputs", [4, 12])
def test_gradients_are_correct_under_vmap(x, kernel, maps, inputs):
    """Shapes, and the axes of maps from the innermost outwards; few inputs and more, instead of the shapes' 4."""
    rng = np.random.default_rng(0)
    shapes = ([inputs if side == 4 else side for side in shape] for shape in (x, kernel))
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in shapes)

    def mapped(multiply):
        function = jax.grad(lambda x, kernel: jnp.sin(multiply(x, kernel)).sum(), (0, 1))
        for axes in maps:
            function = jax.vmap(function, axes)
        return jax.jit(function)

    of_x, of_kernel = both(mapped, x, kernel)
    assert np.abs(of_x).max() > 0.1
    assert np.abs(of_kernel).max() > 0.1


def test_forward_mode_and_second_derivatives_are_correct():
    def tangent(multiply):
        return lambda x, kernel: jax.jvp(multiply, (x[0], kernel[0]), (x[1], kernel[1]))

    def curvature(multiply):
        return jax.hessian(lambda kernel: jnp.sin(multiply(X[0], kernel)).sum())

    both(tangent, X, KERNELS)
    assert np.abs(both(curvature, KERNELS[0])).max() > 0.1


def test_a_gradient_transposes_its_input_instead_of_reading_columns():
    lowered = jax.jit(lambda x, g: jax.vjp(lambda kernel: product(x, kernel), KERNELS[0])[1](g)).lower(
        X[0, 0], np.ones((7, 6), np.float32)
    )
    products = [line for line in lowered.compile().as_text().splitlines() if " dot(" in line]
    assert len(products) == 1
    assert "lhs_contracting_dims={1}, rhs_contracting_dims={0}" in products[0]


LARGE = {
    "x": np.random.default_rng(2).normal(size=(3, 32, 48)).astype(np.float32),
    "kernel": np.random.default_rng(3).normal(size=(3, 48, 16)).astype(np.float32),
    "gradient": np.random.default_rng(4).normal(size=(3, 32, 16)).astype(np.float32),
}


def mixed(x, kernel, gradient):
    """The product in mixed precision and its gradients."""
    out, back = jax.vjp(functools.partial(product, mixed_precision=True), x, kernel)
    return out, *back(gradient)


def of_rounded(x, kernel, gradient):
    """The same as sums of 64 bits over operands of eight bits of mantissa."""
    x, kernel, gradient = (part.astype(jnp.bfloat16).astype(np.float64) for part in (x, kernel, gradient))
    return x @ kernel, gradient @ kernel.mT, x.mT @ gradient


@pytest.mark.parametrize("mapped", [False, True])
def test_mixed_precision_rounds_only_the_factors(mapped):
    parts = {name: part if mapped else part[0] for name, part in LARGE.items()}
    found = (jax.vmap(mixed) if mapped else mixed)(**parts)
    for ours, expected in zip(found, of_rounded(**parts), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    unrounded = LARGE["x"] @ LARGE["kernel"]
    assert np.abs(found[0] - (unrounded if mapped else unrounded[0])).max() > 1e-3


@pytest.mark.parametrize("sides", [(15, 48, 16), (32, 15, 16), (32, 48, 15)])
def test_mixed_precision_leaves_narrow_matrices_in_float32(sides):
    rows, inputs, outputs = sides
    parts = LARGE["x"][0, :rows, :inputs], LARGE["kernel"][0, :inputs, :outputs], LARGE["gradient"][0, :rows, :outputs]
    _, back = jax.vjp(product, *parts[:2])
    jax.tree.map(np.testing.assert_array_equal, mixed(*parts), (product(*parts[:2]), *back(parts[2])))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends choose their products' operands themselves")
def test_the_compiled_program_multiplies_bfloat16():
    with optimized():
        text = jax.jit(mixed).lower(**{name: part[0] for name, part in LARGE.items()}).compile().as_text()
    multiplying = [part for part in text.split("\n\n") if " dot(" in part]
    assert len(multiplying) == 3
    for part in multiplying:
        assert re.findall(r"= (\w+)\[\S* parameter\(", part) == ["bf16", "bf16"]


@pytest.mark.parametrize("mixed", [False, True])
def test_other_dtypes_fall_back_to_jax(mixed):
    for x, kernel in (
        (jnp.ones((3, 0)), jnp.ones((0, 4))),
        (jnp.ones((3, 9), int), jnp.ones((9, 4))),
        (jnp.ones((3, 2), bool), jnp.ones((2, 4))),
        (jnp.ones((3, 9), jnp.bfloat16), jnp.ones((9, 4))),
    ):
        given = jax.jit(lambda x, kernel: product(x, kernel, mixed_precision=mixed))(x, kernel)
        assert given.dtype == (x @ kernel).dtype
        np.testing.assert_array_equal(given, x @ kernel)
    with pytest.raises(TypeError, match="contracting"):
        product(jnp.ones((2, 3)), jnp.ones((2, 4)), mixed_precision=mixed)
