"""The small recommender: planning says by how much looking ahead beats the myopic policy, and simulation agrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import planning, schedules
from rljax.envs import recommender
from rljax.networks import history_encoder


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def values(model):
    """The best and the myopic policy's expected return from the start."""
    best = planning.value_iteration(model, 1.0).values @ model.start
    myopic = planning.policy_values(model, planning.greedy(model.rewards), 1.0) @ model.start
    return float(best), float(myopic)


def recursion(drift, loyalty, pace, points=(41, 9)):
    """The same two values by interpolation on a grid of (taste, satisfaction), in plain NumPy."""
    u, s = np.meshgrid(np.linspace(-1, 1, points[0]), np.linspace(0, 1, points[1]), indexing="ij")
    places = (np.linspace(-1, 1, points[0]), np.linspace(0, 1, points[1]))

    def at(v, x, y):
        i = np.clip(np.searchsorted(places[0], x, side="right") - 1, 0, points[0] - 2)
        j = np.clip(np.searchsorted(places[1], y, side="right") - 1, 0, points[1] - 2)
        a = (x - places[0][i]) / (places[0][1] - places[0][0])
        b = (y - places[1][j]) / (places[1][1] - places[1][0])
        low = (1 - a) * v[i, j] + a * v[i + 1, j]
        return (1 - b) * low + b * ((1 - a) * v[i, j + 1] + a * v[i + 1, j + 1])

    def backup(v, item):
        embedding, appeal = ((-1.0, 0.0), (1.0, 1.5))[item]
        affinity = 2 * embedding * u
        click, joy = sigmoid(-1 + affinity + appeal), sigmoid(affinity)
        satisfied, bored = s + pace * (joy - s), s - pace * s
        stays = at(v, u + drift * (embedding - u), satisfied) * (1 - 0.05 * (1 - loyalty * satisfied))
        leaves = at(v, u, bored) * (1 - 0.05 * (1 - loyalty * bored))
        return click, click * (1 + stays) + (1 - click) * leaves

    best, myopic = np.zeros(points), np.zeros(points)
    for _ in range(1500):
        best = np.maximum(backup(best, 0)[1], backup(best, 1)[1])
        (first, a), (second, b) = backup(myopic, 0), backup(myopic, 1)
        myopic = np.where(first >= second, a, b)
    return tuple(float(at(v, np.array([-0.5]), np.array([0.5]))[0]) for v in (best, myopic))


@pytest.mark.parametrize(("drift", "loyalty", "pace"), [(0.3, 0.0, 0.3), (0.2, 0.6, 0.5)])
def test_the_model_is_that_of_an_independent_recursion(drift, loyalty, pace):
    env = rljax.make("recommender/small", drift=drift, loyalty=loyalty, pace=pace)
    found = values(recommender.tabular_model(env))
    np.testing.assert_allclose(found, recursion(drift, loyalty, pace), rtol=1e-4)


def test_looking_ahead_pays_only_where_recommendations_move_the_taste():
    best, myopic = values(recommender.tabular_model(rljax.make("recommender/small")))
    assert best / myopic - 1 == pytest.approx(0.195, abs=0.01)
    for settings in ({"drift": 0.0}, {"drift": 0.0, "walk": 0.1}):
        best, myopic = values(recommender.tabular_model(rljax.make("recommender/small", **settings)))
        assert best == pytest.approx(myopic, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"walk": 0.05, "drift": 0.1}, pytest.param({"boredom": 1.0, "leave": 0.2, "tiring": 0.5}, marks=pytest.mark.slow)],
)
def test_the_models_policies_earn_their_values_in_the_simulator(settings):
    """The myopic policy, and a constant one."""
    env = rljax.make("recommender/small", **settings)
    model = recommender.tabular_model(env, boredom=9)
    _, myopic = values(model)
    second = planning.policy_values(model, jnp.eye(2)[jnp.ones(len(model.start), int)], 1.0) @ model.start
    always = lambda key, obs: jnp.ones(len(obs["context"]), jnp.int32)  # noqa: E731
    played = [
        rljax.play(jax.random.key(0), recommender.revealed(env), recommender.greedy(env), 4000).returns,
        rljax.play(jax.random.key(1), env, always, 4000).returns,
    ]
    for returns, value in zip(played, (myopic, float(second)), strict=True):
        error = float(np.std(returns)) / np.sqrt(4000)
        assert np.mean(returns) == pytest.approx(value, abs=4 * error + 0.01 * value)


def test_a_model_needs_one_dimension_and_one_item_at_a_time():
    for name, settings in (
        ("recommender/drift-5", {}),
        ("recommender/small", {"slate": 2}),
        ("recommender/small", {"diversity_weight": 0.1}),
    ):
        with pytest.raises(rljax.UsageError, match="needs one dimension of taste"):
            recommender.tabular_model(rljax.make(name, **settings))
    with pytest.raises(rljax.UsageError, match="more than 6000"):
        recommender.tabular_model(rljax.make("recommender/small", boredom=1.0), boredom=20)


@pytest.mark.slow
def test_a_learner_beats_the_myopic_policy_by_the_planned_margin_only_where_drift_makes_it_pay():
    """Stated beforehand: by half of the planned gain, and by nothing where nothing is planned."""
    for drift in (0.3, 0.0):
        env = rljax.make("recommender/small", drift=drift)
        best, myopic = values(recommender.tabular_model(env))
        config = rljax.a2c.Config(
            env=env, total_steps=100_000, num_envs=16, num_steps=16, optimizer="adam", gae_lambda=0.95,
            learning_rate=schedules.linear(3e-3, 0), normalize_advantages=True, encoder=history_encoder("mean"),
        )  # fmt: skip
        state, _ = jax.jit(rljax.a2c.train)(jax.random.key(0), config)
        returns = rljax.play(jax.random.key(1), env, rljax.a2c.act(state, config), 4000).returns
        error = float(np.std(returns)) / np.sqrt(4000)
        if drift:
            assert np.mean(returns) > myopic + (best - myopic) / 2
        assert np.mean(returns) == pytest.approx(best, abs=0.03 * best + 3 * error)
