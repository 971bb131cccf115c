"""Distributions against scipy, and the heads that choose one for a space."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from rljax import Box, Discrete, MultiDiscrete, UsageError
from rljax.distributions import (
    Categorical,
    DiagonalGaussian,
    SquashedGaussian,
    TanhGaussian,
    policy_head,
    squashed_head,
)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def log_prob(distribution, action):
    return np.asarray(_log_prob(distribution, action))


_log_prob = jax.jit(lambda distribution, action: distribution.log_prob(action))
_slope = jax.jit(jax.grad(lambda distribution, action: distribution.log_prob(action).sum()))
entropy = jax.jit(lambda distribution: distribution.entropy())


def parameters(seed, size=3, count=50):
    """Means and logarithms of deviations `[count, size]`, float64."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)), rng.uniform(-2, 1, size=(count, size))


def log_slope(raw):
    """The logarithm of tanh's derivative, without cancellation."""
    return 2 * (np.log(2) - np.abs(raw) - np.log1p(np.exp(-2 * np.abs(raw))))


# Categorical


def test_categorical_matches_scipy(x64):
    logits = np.random.default_rng(0).normal(scale=3, size=(40, 5))
    probs = special.softmax(logits, axis=-1)
    distribution = Categorical(jnp.asarray(logits))
    for action in range(5):
        np.testing.assert_allclose(log_prob(distribution, np.full(40, action)), np.log(probs[:, action]), atol=1e-12)
    np.testing.assert_allclose(entropy(distribution), stats.entropy(probs, axis=-1), atol=1e-12)
    np.testing.assert_array_equal(distribution.mode(), logits.argmax(-1))
    assert distribution.mode().dtype == jnp.int32


def test_categorical_is_the_same_for_shifted_and_huge_logits():
    logits = np.array([[0.0, 1.0, 2.0], [1e4, 1e4 + 1, 1e4 + 2], [-1e4, 0.0, 0.0]], np.float32)
    distribution = Categorical(jnp.asarray(logits))
    probs = np.exp([log_prob(distribution, np.full(3, action)) for action in range(3)])
    np.testing.assert_allclose(probs.sum(axis=0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(probs[:, 1], probs[:, 0], rtol=1e-6)
    np.testing.assert_allclose(entropy(distribution)[2], np.log(2), rtol=1e-6)


def test_categorical_samples_have_their_frequencies():
    logits = np.array([0.3, -1.0, 2.0, 0.0], np.float32)
    samples = Categorical(jnp.broadcast_to(logits, (50_000, 4))).sample(jax.random.key(0))
    assert samples.shape == (50_000,)
    assert samples.dtype == jnp.int32
    counts = np.bincount(samples, minlength=4)
    expected = 50_000 * special.softmax(logits.astype(np.float64))
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert stats.chisquare(counts, np.roll(expected, 1)).pvalue < 1e-9


def test_masked_actions_are_never_taken_and_leave_everything_finite():
    logits = jnp.array([0.5, -jnp.inf, 1.5, -jnp.inf])
    distribution = Categorical(logits)
    left = special.softmax([0.5, 1.5])
    np.testing.assert_allclose(entropy(distribution), stats.entropy(left), rtol=1e-6)
    for action, prob in zip((0, 2), left, strict=True):
        np.testing.assert_allclose(log_prob(distribution, jnp.int32(action)), np.log(prob), rtol=1e-6)
    assert log_prob(distribution, jnp.int32(1)) == -np.inf
    samples = Categorical(jnp.broadcast_to(logits, (50_000, 4))).sample(jax.random.key(1))
    assert set(np.unique(samples)) == {0, 2}
    slope = _slope(distribution, jnp.int32(0)).logits
    np.testing.assert_allclose(slope, [1 - left[0], 0, -left[1], 0], atol=1e-6)


def test_entropy_of_masked_actions_has_a_finite_gradient():
    free, masked = np.array([0.5, 1.5], np.float32), np.array([0.5, -np.inf, 1.5, -np.inf], np.float32)
    slope = jax.jit(jax.grad(lambda logits: Categorical(logits).entropy()))
    probs = special.softmax(free)
    expected = -probs * (np.log(probs) + stats.entropy(probs))
    np.testing.assert_allclose(slope(free), expected, atol=1e-6)
    np.testing.assert_allclose(slope(masked), [expected[0], 0, expected[1], 0], atol=1e-6)


def test_one_action_has_no_entropy():
    distribution = Categorical(jnp.zeros((2, 1)))
    np.testing.assert_array_equal(entropy(distribution), 0.0)
    np.testing.assert_array_equal(log_prob(distribution, jnp.zeros(2, jnp.int32)), 0.0)


# DiagonalGaussian


def test_gaussian_matches_scipy(x64):
    mean, log_std = parameters(0)
    actions = np.random.default_rng(1).normal(scale=2, size=mean.shape)
    distribution = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(log_std))
    std = np.exp(log_std)
    np.testing.assert_allclose(
        log_prob(distribution, actions), stats.norm.logpdf(actions, mean, std).sum(-1), rtol=1e-10
    )
    np.testing.assert_allclose(entropy(distribution), stats.norm.entropy(mean, std).sum(-1), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(distribution.mode(), mean)
    slope = _slope(distribution, actions)
    np.testing.assert_allclose(slope.mean, (actions - mean) / std**2, rtol=1e-10)
    np.testing.assert_allclose(slope.log_std, ((actions - mean) / std) ** 2 - 1, rtol=1e-9, atol=1e-12)


def test_gaussian_density_integrates_to_one(x64):
    mean, log_std = parameters(2, size=1, count=20)
    grid = np.linspace(-40, 40, 20_001)
    density = np.exp(
        log_prob(DiagonalGaussian(jnp.asarray(mean[None]), jnp.asarray(log_std[None])), grid[:, None, None])
    )
    np.testing.assert_allclose(integrate.trapezoid(density, grid, axis=0), 1.0, rtol=1e-6)


def test_gaussian_samples_follow_their_normals():
    mean, log_std = jnp.array([1.0, -3.0]), jnp.array([0.5, -1.0])
    many = DiagonalGaussian(jnp.broadcast_to(mean, (20_000, 2)), jnp.broadcast_to(log_std, (20_000, 2)))
    samples = np.asarray(many.sample(jax.random.key(0)))
    for i in range(2):
        normal = stats.norm(mean[i], np.exp(log_std[i]))
        assert stats.kstest(samples[:, i], normal.cdf).pvalue > 1e-3
        assert stats.kstest(samples[:, i], stats.norm(mean[i], 1.1 * np.exp(log_std[i])).cdf).pvalue < 1e-6
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.03


# TanhGaussian


def test_tanh_gaussian_matches_the_change_of_variables(x64):
    mean, log_std = parameters(3)
    raw = mean + np.exp(log_std) * np.random.default_rng(4).normal(size=mean.shape)
    distribution = TanhGaussian(jnp.asarray(mean), jnp.asarray(log_std))
    actions = np.tanh(raw)
    expected = (stats.norm.logpdf(np.arctanh(actions), mean, np.exp(log_std)) - np.log1p(-(actions**2))).sum(-1)
    np.testing.assert_allclose(log_prob(distribution, actions), expected, rtol=1e-6)
    np.testing.assert_allclose(distribution.mode(), np.tanh(mean), rtol=1e-14)


def test_tanh_gaussian_density_integrates_to_one(x64):
    mean, log_std = parameters(5, size=1, count=20)
    # In steps of arctanh(action), since the density may rise steeply towards the edges.
    grid = np.linspace(-16, 16, 20_001)
    distribution = TanhGaussian(jnp.asarray(mean[None]), jnp.asarray(log_std[None]))
    density = np.exp(log_prob(distribution, np.tanh(grid)[:, None, None]) + log_slope(grid)[:, None])
    np.testing.assert_allclose(integrate.trapezoid(density, grid, axis=0), 1.0, rtol=1e-4)


@pytest.mark.parametrize("std", [0.05, 0.5, 1.0, 2.0, np.e**2])
def test_tanh_gaussian_entropy_matches_quadrature(std):
    means = np.array([-10.0, -2.0, 0.0, 0.5, 3.0])
    expected = []
    for mean in means:
        pieces = np.sort(np.clip([-12, -mean / std - 2 / std, -mean / std, -mean / std + 2 / std, 12], -12, 12))
        correction = sum(
            integrate.quad(lambda e, mean=mean: stats.norm.pdf(e) * log_slope(mean + std * e), a, b, limit=200)[0]
            for a, b in itertools.pairwise(pieces)
        )
        expected.append(stats.norm.entropy(mean, std) + correction)
    distribution = TanhGaussian(jnp.float32(means)[:, None], jnp.full((5, 1), np.log(std), jnp.float32))
    np.testing.assert_allclose(entropy(distribution), expected, atol=5e-3)


def test_tanh_gaussian_samples_follow_their_distribution():
    mean, std = 0.7, 0.9
    distribution = TanhGaussian(jnp.full((20_000, 1), mean), jnp.full((20_000, 1), np.log(std)))
    noise = TanhGaussian.noise(jax.random.key(0), (20_000,), 1)
    samples, log_probs = distribution.transform_and_log_prob(noise)
    samples, log_probs = np.asarray(samples)[:, 0], np.asarray(log_probs)
    assert stats.kstest(samples, lambda a: stats.norm.cdf(np.arctanh(a), mean, std)).pvalue > 1e-3
    assert stats.kstest(samples, lambda a: stats.norm.cdf(np.arctanh(a), mean + 0.1, std)).pvalue < 1e-6
    assert abs(np.mean(samples < np.tanh(mean)) - 0.5) < 0.02
    # The mean of -log p is the entropy, by its definition.
    error = log_probs.std() / np.sqrt(len(log_probs))
    assert abs(-log_probs.mean() - entropy(distribution)[0]) < 4 * error
    np.testing.assert_array_equal(samples, np.asarray(distribution.sample(jax.random.key(0)))[:, 0])


@pytest.mark.parametrize("width", [0.1, 3.0])
def test_tanh_gaussian_samples_have_exact_log_probs_far_out(width):
    raw = np.linspace(-20, 20, 41, dtype=np.float32)[:, None]
    log_std = np.full_like(raw, np.log(width))
    distribution = TanhGaussian(jnp.asarray(raw), jnp.asarray(log_std))
    noise = TanhGaussian.noise(jax.random.key(2), (41,), 1)
    action, result = distribution.transform_and_log_prob(noise)
    exact = raw + width * np.asarray(noise, np.float64)
    assert np.abs(exact).max() > 20
    np.testing.assert_allclose(action, np.tanh(exact), atol=1e-6)
    expected = (stats.norm.logpdf(exact, raw, width) - log_slope(exact))[:, 0]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


def test_squashed_actions_have_exact_log_probs_also_where_tanh_rounds_to_one():
    head = policy_head(Box(-2.0, 6.0, (2,)), squash=True)
    distribution = head.distribution(jnp.array([0.5, -1.0, 0.3, -0.2]))
    assert isinstance(distribution, SquashedGaussian)
    raw = np.array([[0.1, -0.4], [12.0, -15.0]])
    normal = stats.norm.logpdf(raw, [0.5, -1.0], np.exp([0.3, -0.2]))
    slopes = np.log(4.0) - 2.0 * (np.abs(raw) + np.log1p(np.exp(-2.0 * np.abs(raw))))  # of tanh, in float64
    np.testing.assert_allclose(distribution.log_prob(jnp.float32(raw)), (normal - slopes).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), distribution.squashed.entropy())
    np.testing.assert_allclose(head.to_action(jnp.float32(raw)), 2.0 + 4.0 * np.tanh(raw), rtol=1e-5)
    noise = head.noise(jax.random.key(0), (3,))
    np.testing.assert_array_equal(jnp.tanh(distribution.transform(noise)), distribution.squashed.transform(noise))
    with pytest.raises(UsageError, match="bounded"):
        policy_head(Box(-1.0, np.inf, (1,)), squash=True)


def test_tanh_gaussian_is_finite_at_the_edges():
    edge = np.array([[-1.0], [np.nextafter(np.float32(-1), np.float32(0))], [0.0], [1.0]], np.float32)
    distribution = TanhGaussian(jnp.zeros((4, 1)), jnp.zeros((4, 1)))
    result = log_prob(distribution, jnp.asarray(edge))
    assert np.all(np.isfinite(result))
    assert result[0] == result[1] == result[3]
    next_inside = np.arctanh(np.float64(edge[1]))
    np.testing.assert_allclose(result[1], stats.norm.logpdf(next_inside) - log_slope(next_inside), rtol=1e-3)
    slopes = jax.jit(jax.grad(lambda d, a: d.log_prob(a).sum(), argnums=(0, 1)))(distribution, jnp.asarray(edge))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_tanh_gaussian_takes_actions_of_numpys_precision():
    distribution = TanhGaussian(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    edge = np.array([[1.0], [-0.99999999999]])
    np.testing.assert_array_equal(distribution.log_prob(edge), distribution.log_prob(jnp.asarray(edge)))
    assert np.all(np.isfinite(distribution.log_prob(edge)))


def test_tanh_gaussian_sample_has_finite_gradients_far_out():
    @jax.jit
    @jax.grad
    def slope(parameters):
        noise = TanhGaussian.noise(jax.random.key(0), (4,), 1)
        action, log_prob = TanhGaussian(*parameters).transform_and_log_prob(noise)
        return log_prob.sum() + action.sum()

    far = jnp.array([-20.0, -5.0, 0.0, 20.0])[:, None]
    mean_slope, log_std_slope = slope((far, jnp.ones((4, 1))))
    assert np.all(np.isfinite(mean_slope))
    assert np.all(np.isfinite(log_std_slope))
    # Far out the log-density grows by 2 for every unit that the raw action moves outwards.
    np.testing.assert_allclose(np.asarray(mean_slope)[[0, 3], 0], [-2.0, 2.0], atol=1e-3)


# What they share


@pytest.mark.parametrize("kind", [Categorical, DiagonalGaussian, TanhGaussian])
def test_sampling_is_transforming_noise_of_the_same_key(kind):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(5, 2, 3)), jnp.float32) for _ in kind._fields]
    distribution, key = kind(*arrays), jax.random.key(7)
    noise = kind.noise(key, (5, 2), 3)
    assert noise.shape == (5, 2, 3)
    np.testing.assert_array_equal(distribution.transform(noise), distribution.sample(key))
    # A rollout's noise is drawn at once and transformed a step at a time.
    step = kind(*(x[2] for x in arrays)).transform(noise[2])
    np.testing.assert_array_equal(step, distribution.transform(noise)[2])
    action = distribution.sample(key)
    assert log_prob(distribution, action).shape == (5, 2)
    assert entropy(distribution).shape == (5, 2)
    assert distribution.mode().shape == action.shape


# policy_head


def test_head_of_a_discrete_space():
    head = policy_head(Discrete(4))
    assert head.num_outputs == 4
    noise = head.noise(jax.random.key(0), (6,))
    assert noise.shape == (6, 4)
    distribution = head.distribution(jnp.zeros((6, 4)))
    action = distribution.transform(noise)
    np.testing.assert_array_equal(head.to_action(action), action)
    np.testing.assert_array_equal(action, np.argmax(noise, axis=-1))
    np.testing.assert_allclose(log_prob(distribution, action), np.log(0.25), rtol=1e-6)


def test_head_of_a_box_keeps_the_log_prob_of_the_unclipped_sample():
    low, high = np.array([-2.0, 0.0, 5.0]), np.array([2.0, 10.0, 6.0])
    head = policy_head(Box(low, high, (3,)))
    assert head.num_outputs == 6
    outputs = np.array([0.5, -0.2, 0.0, 0.3, 1.0, 2.0], np.float32)
    distribution = head.distribution(jnp.asarray(np.tile(outputs, (500, 1))))
    noise = head.noise(jax.random.key(0), (500,))
    assert noise.shape == (500, 3)
    sample = np.asarray(distribution.transform(noise), np.float64)
    np.testing.assert_allclose(sample, outputs[:3] + np.exp(outputs[3:]) * np.asarray(noise), rtol=1e-5, atol=1e-5)
    assert np.mean(np.abs(sample) > 1) > 0.2
    expected = stats.norm.logpdf(sample, outputs[:3], np.exp(outputs[3:])).sum(-1)
    np.testing.assert_allclose(log_prob(distribution, jnp.float32(sample)), expected, rtol=1e-4, atol=1e-4)
    action = np.asarray(head.to_action(jnp.float32(sample)))
    assert np.all((action >= low) & (action <= high))
    np.testing.assert_allclose(action, low + (np.clip(sample, -1, 1) + 1) / 2 * (high - low), rtol=1e-5, atol=1e-5)


def test_head_of_a_box_maps_the_unit_interval_onto_each_dimensions_bounds():
    low = np.arange(6.0).reshape(2, 3)
    space = Box(low, 3 * low + 1, (2, 3))
    head = policy_head(space)
    assert head.num_outputs == 12
    unit = jnp.array([-5.0, -1.0, 0.0, 0.5, 1.0, 5.0])[:, None, None] * jnp.ones((1, 4, 6))
    action = np.asarray(head.to_action(unit))
    assert action.shape == (6, 4, 2, 3)
    for i, share in enumerate([0, 0, 0.5, 0.75, 1, 1]):
        np.testing.assert_allclose(action[i, 0], low + share * (2 * low + 1), rtol=1e-6)
    assert np.all(jax.vmap(jax.vmap(space.contains))(action))


def test_head_of_a_box_passes_unbounded_dimensions_and_shifts_half_bounded_ones():
    """Without bounds nothing changes; -1 becomes a low bound, and 1 a high one."""
    head = policy_head(Box([-np.inf, 0.0, -np.inf], [np.inf, np.inf, 1.0], (3,)))
    samples = jnp.array([[-7.5, -7.5, -7.5], [0.25, 0.25, 0.25], [9.0, 9.0, 9.0]])
    np.testing.assert_array_equal(head.to_action(samples), [[-7.5, 0, -7.5], [0.25, 1.25, 0.25], [9, 10, 1]])
    scalar = policy_head(Box(-2, 2, ()))
    assert scalar.num_outputs == 2
    np.testing.assert_array_equal(scalar.to_action(jnp.array([[0.5], [3.0]])), [1.0, 2.0])


# squashed_head

LOW, HIGH = np.array([[-1.0, 0.0, 5.0], [-3.0, 100.0, -0.1]]), np.array([[1.0, 10.0, 6.0], [7.0, 200.0, 0.1]])


def squashed(outputs):
    """The distribution that outputs `[..., 2 D]` should give, by scipy: means and deviations before the squashing."""
    mean, x = np.split(np.asarray(outputs, np.float64), 2, axis=-1)
    return mean, np.exp(-1.5 + 3.5 * np.tanh(x))


@pytest.mark.parametrize("seed", range(4))
def test_squashed_samples_keep_to_each_dimensions_bounds_and_have_their_densities_at_the_edges(seed):
    """Drawn heads from narrow to far beyond the edges; float64 by scipy from the same noise."""
    head = squashed_head(Box(LOW, HIGH, (2, 3)))
    assert head.num_outputs == 12
    outputs = np.random.default_rng(seed).normal(scale=[6.0] * 6 + [2.0] * 6, size=(200, 12)).astype(np.float32)
    distribution, key = head.distribution(jnp.asarray(outputs)), jax.random.key(seed)
    mean, std = squashed(outputs)
    assert (std >= np.exp(-5) - 1e-9).all()
    assert (std <= np.exp(2) + 1e-9).all()
    noise = np.asarray(head.noise(key, (200,)), np.float64)
    raw = mean + std * noise
    unit, density = distribution.transform_and_log_prob(head.noise(key, (200,)))
    assert np.mean(np.tanh(raw).astype(np.float32) == 1.0) > 0.01  # some of them round to the edge itself
    expected = (stats.norm.logpdf(raw, mean, std) - log_slope(raw)).sum(-1)
    np.testing.assert_allclose(density, expected, rtol=1e-4, atol=1e-3)
    action = np.asarray(head.to_action(unit))
    assert action.shape == (200, 2, 3)
    assert (action >= LOW.astype(np.float32)).all()
    assert (action <= HIGH.astype(np.float32)).all()
    scaled = LOW + (np.tanh(raw).reshape(200, 2, 3) + 1) / 2 * (HIGH - LOW)
    np.testing.assert_allclose(action, scaled, atol=1e-6 * np.abs(HIGH).max())
    for edge, bound in ((1.0, HIGH), (-1.0, LOW)):
        np.testing.assert_array_equal(head.to_action(jnp.full(6, edge)), bound.astype(np.float32))


@pytest.mark.parametrize("outputs", [[0.0, 0.5], [1.5, 0.0], [-4.0, 1.0], [0.3, -3.0], [2.0, 5.0]])
def test_squashed_density_of_a_head_integrates_to_one(x64, outputs):
    distribution = squashed_head(Box(-2, 2, ())).distribution(jnp.asarray(outputs, jnp.float64))
    mean, std = squashed(outputs)
    grid = np.linspace(mean - 9 * std, mean + 9 * std, 20_001)[:, 0]
    spread = type(distribution)(*(jnp.broadcast_to(x, (20_001, 1)) for x in distribution))
    inside = np.abs(grid) < 15  # beyond, tanh is 1 in double precision too
    density = np.exp(log_prob(spread, np.tanh(grid)[:, None]) + log_slope(grid))
    expected = stats.norm.cdf(15, mean, std) - stats.norm.cdf(-15, mean, std)
    total = integrate.trapezoid(np.where(inside, density, 0.0), grid)
    np.testing.assert_allclose(total, expected[0], rtol=2e-3)


def test_squashed_heads_of_scalar_and_discrete_spaces_and_of_unbounded_ones():
    scalar = squashed_head(Box(-2, 6, ()))
    np.testing.assert_allclose(scalar.to_action(jnp.array([[-1.0], [0.0], [1.0]])), [-2.0, 2.0, 6.0])
    assert squashed_head(Discrete(3)).num_outputs == 3
    with pytest.raises(UsageError, match="bounded on both sides"):
        squashed_head(Box([-1.0, 0.0], [1.0, np.inf], (2,)))


def test_a_product_of_categoricals_equals_its_table():
    """Probabilities, log-probabilities, entropy and samples of two integers, against all six combinations."""
    head = policy_head(MultiDiscrete((2, 3)))
    logits = jnp.array([[0.3, -1.0, 0.5, 2.0, -0.7]])
    distribution = head.distribution(logits)
    first, second = (special.softmax(part) for part in (logits[0, :2], logits[0, 2:]))
    table = np.outer(first, second)
    np.testing.assert_allclose(distribution.probs(), table.reshape(1, 6), rtol=1e-5)
    pairs = jnp.array([[[i, j]] for i in range(2) for j in range(3)])
    np.testing.assert_allclose(
        jax.vmap(distribution.log_prob)(pairs)[:, 0], np.log(table).reshape(-1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(distribution.entropy(), [-(table * np.log(table)).sum()], rtol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), [[0, 1]])
    noise = head.noise(jax.random.key(0), (4000, 1))
    samples = np.asarray(jax.vmap(distribution.transform)(noise))[:, 0]
    counts = np.zeros((2, 3))
    np.add.at(counts, tuple(samples.T), 1)
    np.testing.assert_allclose(counts / 4000, table, atol=0.03)
    assert head.num_outputs == 5
    assert distribution.sample(jax.random.key(1)).shape == (1, 2)
