"""Distributional heads against plain loops, and against distributions whose quantiles are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from rljax import value_heads


def projected_by_loops(support, rewards, discounts, probabilities):
    """Bellemare et al. 2017, algorithm 1, line by line."""
    atoms, low, high = len(support), support[0], support[-1]
    spacing = (high - low) / (atoms - 1)
    result = np.zeros((len(rewards), atoms))
    for row, (reward, discount) in enumerate(zip(rewards, discounts, strict=True)):
        for atom in range(atoms):
            moved = np.clip(reward + discount * support[atom], low, high)
            place = (moved - low) / spacing
            below, above = int(np.floor(place)), int(np.ceil(place))
            if below == above:
                result[row, below] += probabilities[row, atom]
            else:
                result[row, below] += probabilities[row, atom] * (above - place)
                result[row, above] += probabilities[row, atom] * (place - below)
    return result


def test_the_projection_equals_the_papers_algorithm():
    random = np.random.default_rng(0)
    support = np.linspace(-3.0, 5.0, 17)
    rewards, discounts = random.normal(size=40) * 4, random.choice([0.0, 0.9, 1.0], 40)
    rewards[:3], discounts[:3] = 0.0, 1.0  # falls on the support's own points
    probabilities = random.dirichlet(np.ones(17), 40)
    moved = jnp.asarray(rewards[:, None] + discounts[:, None] * support)
    projected = value_heads.project(jnp.asarray(support), moved, jnp.asarray(probabilities))
    np.testing.assert_allclose(projected, projected_by_loops(support, rewards, discounts, probabilities), atol=2e-6)
    np.testing.assert_allclose(projected.sum(axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(projected[:3], probabilities[:3], atol=1e-6)


def test_the_projection_keeps_the_mean_where_nothing_is_clipped():
    support = jnp.linspace(-10.0, 10.0, 41)
    probabilities = jnp.zeros((1, 41)).at[0, 18:23].set(0.2)
    projected = value_heads.project(support, 1.3 + 0.77 * support[None], probabilities)
    assert projected @ support == pytest.approx(1.3 + 0.77 * float(probabilities[0] @ support), abs=1e-4)


def test_the_categorical_loss_and_error():
    head = value_heads.categorical(11, -1.0, 1.0)
    random = np.random.default_rng(1)
    outputs, following = random.normal(size=(2, 6, 11))
    reward, discount = random.normal(size=6), np.array([0.9] * 5 + [0.0])
    losses, errors = head.loss(*map(jnp.asarray, (outputs, following, reward, discount)))
    support = np.linspace(-1, 1, 11)
    target = projected_by_loops(support, reward, discount, scipy.special.softmax(following, axis=-1))
    log_probs = scipy.special.log_softmax(outputs, axis=-1)
    np.testing.assert_allclose(losses, -(target * log_probs).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(errors, scipy.stats.entropy(target, np.exp(log_probs), axis=-1), rtol=1e-4)
    values = head.values(jnp.asarray(outputs))
    np.testing.assert_allclose(values, np.exp(log_probs) @ support, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kappa", [None, 0.5, 1.0])
def test_the_quantile_loss_by_loops(kappa):
    head = value_heads.quantile(5, kappa)
    random = np.random.default_rng(2)
    outputs, following = random.normal(size=(2, 4, 5))
    reward, discount = random.normal(size=4), np.array([0.9, 0.9, 0.9, 0.0])
    expected = np.zeros(4)
    for row in range(4):
        for i in range(5):
            for j in range(5):
                u = reward[row] + discount[row] * following[row, j] - outputs[row, i]
                if kappa is None:
                    size = abs(u)
                else:
                    size = (0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)) / kappa
                expected[row] += abs((i + 0.5) / 5 - (u < 0)) * size / 5
    losses, errors = head.loss(*map(jnp.asarray, (outputs, following, reward, discount)))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    means = reward + discount * following.mean(-1) - outputs.mean(-1)
    np.testing.assert_allclose(errors, np.abs(means), rtol=1e-5, atol=1e-6)


def test_the_quantile_loss_is_least_at_the_quantiles():
    """Rewards are exponential; the quantiles learned from samples are those of the closed form."""
    head = value_heads.quantile(8, None)
    rewards = jax.random.exponential(jax.random.key(0), (20_000,))
    zeros = jnp.zeros((len(rewards), 8))

    def loss(quantiles):
        return head.loss(jnp.broadcast_to(quantiles, zeros.shape), zeros, rewards, jnp.zeros(len(rewards)))[0].mean()

    optimizer = optax.adam(0.05)

    def step(carry, _):
        quantiles, state = carry
        updates, state = optimizer.update(jax.grad(loss)(quantiles), state)
        return (optax.apply_updates(quantiles, updates), state), None

    start = jnp.ones(8)
    (quantiles, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), length=300))()
    np.testing.assert_allclose(quantiles, scipy.stats.expon.ppf((np.arange(8) + 0.5) / 8), atol=0.08)


@pytest.mark.parametrize("delta", [None, 1.0])
def test_the_expected_head(delta):
    head = value_heads.expected(delta)
    losses, errors = head.loss(
        jnp.array([[1.0], [2.0]]), jnp.array([[10.0], [9.0]]), jnp.ones(2), jnp.array([0.5, 0.0])
    )
    np.testing.assert_allclose(errors, [5.0, 1.0])
    np.testing.assert_allclose(losses, [12.5, 0.5] if delta is None else [4.5, 0.5])
    assert head.values(jnp.ones((3, 2, 1))).shape == (3, 2)


HEADS = {
    "expected": value_heads.expected(None),
    "expected, huber": value_heads.expected(1.0),
    "categorical": value_heads.categorical(5, -1.0, 1.0),
    "quantile": value_heads.quantile(5, None),
    "quantile, huber": value_heads.quantile(5, 1.0),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
def test_the_loss_does_not_read_terminal_outputs(head, spoiled):
    random = np.random.default_rng(3)
    outputs, following = random.normal(size=(2, 4, head.num_outputs)).astype(np.float32)
    reward, discount = random.normal(size=4).astype(np.float32), np.float32([0.9, 0.0, 0.0, 0.9])
    dirty = np.where(discount[:, None] == 0.0, np.float32(spoiled), following)
    for clean, got in zip(
        head.loss(outputs, following, reward, discount), head.loss(outputs, dirty, reward, discount), strict=True
    ):
        np.testing.assert_allclose(got, clean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("atoms", [2, 51, 201])
@pytest.mark.parametrize(
    ("low", "high"),
    [(-10, 10), (99, 101), (9990, 10010), (1e4, 1e4 + 1), (1e6, 1e6 + 1), (-1e6 - 1, -1e6), (1e8, 1e8 + 1), (0, 1e-20),
     (1e30, 2e30)],
)  # fmt: skip
def test_the_projection_keeps_all_probability(low, high, atoms):
    """Also on supports that are narrow next to their distance from zero, even if float32 cannot tell atoms apart."""
    random = np.random.default_rng(0)
    support = jnp.linspace(jnp.float32(low), jnp.float32(high), atoms)
    probabilities = random.dirichlet(np.ones(atoms), 64).astype(np.float32)
    middle = np.float32(low / 2 + high / 2)
    for discount, reward in ((0.99, 0.01 * middle), (1.0, 0.0), (0.0, middle), (0.0, 2.0 * high), (1.0, high - low)):
        shifted = jnp.float32(reward) + jnp.float32(discount) * jnp.broadcast_to(support, (64, atoms))
        projected = np.asarray(value_heads.project(support, shifted, probabilities))
        assert projected.min() >= 0.0
        np.testing.assert_allclose(projected.sum(-1), 1.0, atol=2e-6)
        width, wide = np.float64(support[-1]) - np.float64(support[0]), np.asarray(shifted, np.float64)
        if width > 0:
            position = np.clip((wide - np.float64(support[0])) / width, 0.0, 1.0) * (atoms - 1)
            np.testing.assert_allclose(
                projected @ np.arange(atoms), (position * probabilities).sum(-1), rtol=1e-5, atol=1e-4
            )


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_reward_that_is_not_finite_shows_in_the_loss(head, spoiled):
    outputs = np.random.default_rng(4).normal(size=(3, head.num_outputs)).astype(np.float32)
    losses, _ = head.loss(outputs, outputs, np.float32([0.0, spoiled, 1.0]), np.float32([0.9, 0.9, 0.0]))
    np.testing.assert_array_equal(np.isfinite(losses), [True, False, True])
