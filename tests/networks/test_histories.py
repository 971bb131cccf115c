"""Encoders of histories: what each of them sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.networks import history_encoder

SPACE = rljax.make("recommender/drift-6", dimensions=2, history=3).observation_space


def observed(items, clicks, ratings=(0, 0, 0), context=1):
    features = np.concatenate([np.arange(12.0).reshape(6, 2) / 10, np.zeros((1, 2))])
    return {
        "items": jnp.array(items),
        "features": jnp.array(features[list(items)], jnp.float32),
        "clicks": jnp.array(clicks, jnp.float32),
        "ratings": jnp.array(ratings, jnp.float32),
        "context": jnp.int32(context),
    }


def encode(kind, *observations):
    module = history_encoder(kind, size=4)(SPACE)
    batch = jax.tree.map(lambda *x: jnp.stack(x), *observations)
    params = module.init(jax.random.key(0), batch)
    return np.asarray(module.apply(params, batch))


def test_without_state_only_the_context_counts():
    found = encode(
        "none", observed((1, 2, 6), (1, 0, 0)), observed((3, 3, 3), (1, 1, 1)), observed((6,) * 3, (0,) * 3, context=2)
    )
    np.testing.assert_array_equal(found, [[0, 1, 0], [0, 1, 0], [0, 0, 1]])


def test_one_hot_counts_what_was_shown_and_clicked():
    (found,) = encode("one_hot", observed((1, 4, 1), (1, 0, 1)))
    np.testing.assert_array_equal(found, [0, 2, 0, 0, 1, 0, *[0, 2, 0, 0, 0, 0], *[0, 1, 0]])
    (found,) = encode("one_hot", observed((4, 6, 6), (0, 0, 0)))
    np.testing.assert_array_equal(found[:12], np.eye(12)[4])


def test_recency_weighted_means():
    (found,) = encode("mean", observed((1, 4, 6), (0, 1, 0), (0, 5, 0)))
    first, second = np.array([0.2, 0.3, 1, 0, 0]), np.array([0.8, 0.9, 1, 1, 1])
    shown = (first + 0.9 * second) / 1.9
    np.testing.assert_allclose(found, [*shown, *second, 0, 1, 0], rtol=1e-5)
    (found,) = encode("mean", observed((6, 6, 6), (0, 0, 0)))
    np.testing.assert_array_equal(found, [0] * 10 + [0, 1, 0])


@pytest.mark.parametrize("kind", ["gru", "attention"])
def test_order_clicks_and_ratings_count(kind):
    found = encode(
        kind,
        observed((1, 4, 2), (1, 0, 1)),
        observed((4, 1, 2), (0, 1, 1)),
        observed((1, 4, 2), (0, 0, 1)),
        observed((1, 4, 2), (1, 0, 1), (4, 0, 0)),
    )
    assert found.shape == (4, 4 + 3)
    assert all(np.abs(found[0] - other).max() > 1e-6 for other in found[1:])


def test_a_gru_reads_from_the_oldest_entry_to_the_newest():
    import flax.linen as nn

    module = history_encoder("gru", size=4)(SPACE)
    obs = observed((1, 4, 2), (1, 0, 1), (3, 0, 0))
    variables = module.init(jax.random.key(0), obs)
    cell, state = nn.GRUCell(4), jnp.zeros(4)
    for place in (2, 1, 0):
        numbers = jnp.array([1.0, obs["clicks"][place], obs["ratings"][place] / 5])
        inputs = jnp.concatenate([obs["features"][place], numbers])
        state, _ = cell.apply({"params": variables["params"]["GRUCell_0"]}, state, inputs)
    np.testing.assert_allclose(module.apply(variables, obs)[:4], state, rtol=1e-4, atol=1e-6)


def test_attention_ignores_places_where_nothing_was_shown():
    module = history_encoder("attention", size=4)(SPACE)
    obs = observed((1, 6, 6), (1, 0, 0))
    params = module.init(jax.random.key(0), obs)
    moved = jax.tree.map(jnp.asarray, params)
    moved["params"]["places"] = params["params"]["places"].at[1:].add(3.0)
    np.testing.assert_array_equal(module.apply(params, obs), module.apply(moved, obs))
    assert np.isfinite(module.apply(params, observed((6, 6, 6), (0, 0, 0)))).all()


def test_unknown_kinds_and_other_spaces_are_refused():
    with pytest.raises(rljax.UsageError, match="did you mean attention"):
        history_encoder("atention")
    with pytest.raises(rljax.UsageError, match="size must be even"):
        history_encoder("gru", size=3)
    with pytest.raises(rljax.UsageError, match="needs a recommender's observations"):
        rljax.ppo.Config(env="CartPole-v1", encoder="history_gru")
    with pytest.raises(rljax.UsageError, match="no encoder of images 'history_gru'"):
        rljax.networks.encoder("history_gru")


@pytest.mark.parametrize("algo", ["reinforce", pytest.param("ppo", marks=pytest.mark.slow)])
def test_learners_train_with_an_encoder_of_histories(algo):
    values = {"total_steps": 64, "num_envs": 4, "num_steps": 8}
    config = rljax.preset(algo, "recommender/drift-100", encoder="history_mean", **values)
    _, metrics = jax.jit(getattr(rljax, algo).train)(jax.random.key(0), config)
    assert np.isfinite(metrics["loss"]).all()
    assert {"episode_clicks", "episode_satisfaction"} <= set(metrics)
