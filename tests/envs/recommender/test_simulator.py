"""The simulated user, next to an independent one in NumPy, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.envs import recommender


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def as_numpy(tree):
    return jax.tree.map(lambda x: np.asarray(x, bool if np.asarray(x).dtype == bool else np.float64), tree)


def chances_of(state, slate, p):
    """Probabilities of a click on each place of a slate, in plain NumPy."""
    c = p.catalogue
    taste = state.taste + p.context_weight * c.contexts[int(state.context)]
    weights = []
    for place, item in enumerate(slate):
        if item in slate[:place]:
            weights.append(0.0)
            continue
        logit = p.base + p.sharpness * (c.embeddings[item] @ taste) + c.appeal[item]
        weights.append(np.exp(logit - p.boredom * state.boredom[int(c.categories[item])]))
    return np.array(weights) / (1 + sum(weights))


def enjoyment_of(state, item, p):
    taste = state.taste + p.context_weight * p.catalogue.contexts[int(state.context)]
    return sigmoid(p.sharpness * (p.catalogue.embeddings[item] @ taste) + p.catalogue.quality[item])


def diversity_of(state, slate, p):
    c, n = p.catalogue, len(p.catalogue.appeal)
    past = [int(i) for i in state.history.items if i < n]
    unit = c.embeddings / np.linalg.norm(c.embeddings, axis=1, keepdims=True)
    pairs = [(1 - unit[i] @ unit[j]) / 2 for i in slate for j in past]
    return float(np.mean(pairs)) if pairs else 0.0


def novelty_of(slate, p):
    popularity = p.catalogue.popularity
    return float(np.mean([-np.log(popularity[i]) / np.log(len(popularity)) for i in slate]))


FEED = {
    "slate": 3, "history": 4, "drift": 0.2, "walk": 0.0, "boredom": 1.5, "rating_chance": 0.7, "watch_weight": 0.1,
    "rating_weight": 0.3, "diversity_weight": 0.4, "novelty_weight": 0.2, "context_change": 0.0, "leave": 0.2,
    "clickbait": 0.6, "dimensions": 4, "categories": 5,
}  # fmt: skip


def several_steps(env, slates, keys):
    """The states, and the results and states that follow, of a sequence of slates for many sessions."""
    _, state = jax.vmap(env.reset, (0, None))(keys[0], env.params)
    reset = state
    for slate, key in zip(slates[:-1], keys[1:-1], strict=True):
        _, state = jax.vmap(env.step, (0, 0, None, None))(key, state, slate, env.params)
    result, after = jax.vmap(env.step, (0, 0, None, None))(keys[-1], state, slates[-1], env.params)
    return reset, state, result, after


def test_a_step_is_that_of_an_independent_simulation():
    env = rljax.make("recommender/feed-12", **FEED)
    slates = jnp.array([[3, 4, 5], [0, 7, 3], [7, 2, 7]])
    keys = jax.random.split(jax.random.key(0), (4, 64))
    _, before, result, after = as_numpy(jax.jit(lambda keys: several_steps(env, slates, keys))(keys))
    p, slate = as_numpy(env.params), [7, 2, 7]
    clicks = 0
    for i in range(64):
        state, info = jax.tree.map(lambda x, i=i: x[i], (before, result.info))
        following = jax.tree.map(lambda x, i=i: x[i], after)
        is_click = info["clicks"] == 1
        place = int(np.argmax(following.history.clicks[:3])) if is_click else None
        item = None if place is None else slate[place]
        joy = enjoyment_of(state, item, p) if is_click else 0.0
        minutes = p.catalogue.minutes[item] * joy if is_click else 0.0
        reward = float(is_click) + 0.1 * minutes + 0.3 * info["stars"]
        reward += 0.4 * diversity_of(state, slate, p) + 0.2 * novelty_of(slate, p)
        assert result.reward[i] == pytest.approx(reward, rel=1e-4)
        assert info["minutes"] == pytest.approx(minutes, rel=1e-4)
        assert info["diversity"] == pytest.approx(diversity_of(state, slate, p), rel=1e-4)
        assert info["novelty"] == pytest.approx(novelty_of(slate, p), rel=1e-4)
        assert (1 <= info["stars"] <= 5) if info["ratings"] else info["stars"] == 0
        assert is_click or not info["ratings"]
        taste = state.taste + (0.2 * (p.catalogue.embeddings[item] - state.taste) if is_click else 0.0)
        np.testing.assert_allclose(following.taste, taste, rtol=1e-4, atol=1e-6)
        shown = np.bincount([int(p.catalogue.categories[j]) for j in slate], minlength=5) / 3
        np.testing.assert_allclose(following.boredom, state.boredom + 0.2 * (shown - state.boredom), rtol=1e-4)
        assert following.satisfaction == pytest.approx(state.satisfaction + 0.3 * (joy - state.satisfaction), rel=1e-4)
        assert info["satisfaction"] == pytest.approx(following.satisfaction)
        assert following.history.items.tolist() == [7, 2, 7, 0, 7, 3, 3, 4, 5, 12, 12, 12]
        np.testing.assert_array_equal(following.history.clicks[3:], state.history.clicks[:9])
        assert following.history.ratings[:3].sum() == info["stars"]
        np.testing.assert_array_equal(result.obs["items"][i], following.history.items)
        np.testing.assert_allclose(result.obs["features"][i][0], p.catalogue.features[7], rtol=1e-6)
        assert not result.obs["features"][i][9:].any()
        clicks += is_click
    assert 10 < clicks < 60


def test_clicks_ratings_ends_and_contexts_have_their_probabilities():
    env = rljax.make("recommender/feed-12", **{**FEED, "context_change": 0.4, "walk": 0.2})
    _, state = env.reset(jax.random.key(3), env.params)
    state = state._replace(boredom=jnp.linspace(0, 1, 5), satisfaction=jnp.float32(0.7))
    n, slate = 40_000, jnp.array([7, 2, 4])
    keys = jax.random.split(jax.random.key(1), n)
    result, after = jax.jit(jax.vmap(env.step, (0, None, None, None)))(keys, state, slate, env.params)
    p, before = as_numpy(env.params), as_numpy(state)
    chances = chances_of(before, [7, 2, 4], p)
    clicks = np.asarray(after.history.clicks[:, :3])
    np.testing.assert_allclose(clicks.mean(axis=0), chances, atol=4 * 0.5 / np.sqrt(n))
    rated = np.asarray(result.info["ratings"]) == 1
    assert rated.mean() == pytest.approx(0.7 * chances.sum(), abs=0.01)
    for place, item in enumerate((7, 2, 4)):
        joy = enjoyment_of(before, item, p)
        stars = np.asarray(result.info["stars"])[rated & (clicks[:, place] == 1)]
        spread = 2 * np.sqrt(joy * (1 - joy) / len(stars))
        assert stars.mean() == pytest.approx(1 + 4 * joy, abs=4 * spread)
        variance = 4 * joy * (1 - joy)
        error = np.sqrt((2 * variance**2 + variance * (1 - 6 * joy * (1 - joy))) / len(stars))  # by its fourth moment
        assert stars.var() == pytest.approx(variance, abs=4 * error)
    ends = 0.2 * (1 - 0.8 * np.asarray(after.satisfaction))
    assert np.asarray(result.terminated).mean() == pytest.approx(ends.mean(), abs=0.008)
    assert not result.truncated.any()
    assert np.mean(np.asarray(after.context) != int(state.context)) == pytest.approx(0.4 * 2 / 3, abs=0.01)
    none = clicks.sum(axis=1) == 0
    np.testing.assert_allclose(np.std(np.asarray(after.taste)[none], axis=0), 0.2, rtol=0.05)


def test_sessions_and_clicks_of_a_world_without_memory_have_closed_forms():
    env = rljax.make("recommender/small", drift=0.0)
    found = rljax.play(jax.random.key(0), env, lambda key, obs: jnp.zeros(len(obs["context"]), jnp.int32), 4000)
    chance = sigmoid(-1 + 2 * 0.5)
    assert np.mean(found.measures["length"]) == pytest.approx(20, abs=1.3)  # geometric
    assert np.mean(found.returns) == pytest.approx(20 * chance, abs=0.7)
    np.testing.assert_array_equal(found.returns, found.measures["clicks"])
    assert np.mean(found.measures["satisfaction"]) == pytest.approx(chance * sigmoid(1), abs=0.02)


def test_expected_rewards_are_means_of_rewards():
    env = rljax.make("recommender/drift-6", dimensions=2, watch_weight=0.2, rating_weight=0.5, novelty_weight=0.3)
    obs, state = recommender.revealed(env).reset(jax.random.key(0), env.params)
    n = 10_000
    keys = jax.random.split(jax.random.key(1), (6, n))
    rewards = jax.jit(
        jax.vmap(jax.vmap(lambda key, item: env.step(key, state, item, env.params)[0].reward, (0, None)))
    )(keys, jnp.arange(6))
    error = np.asarray(rewards).std(axis=1) / np.sqrt(n)
    assert np.all(np.abs(np.asarray(rewards).mean(axis=1) - np.asarray(obs)) < 4.5 * error)


def test_a_warm_session_begins_with_a_history_and_a_cold_one_without():
    env = rljax.make("recommender/drift-9", warm=0.5)
    obs, _ = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 500), env.params)
    known = np.asarray(obs["items"]) < 9
    assert set(known.sum(axis=1)) == {0, 10}
    assert known.all(axis=1).mean() == pytest.approx(0.5, abs=0.08)
    assert 0.2 < np.asarray(obs["clicks"])[known].mean() < 0.8
    assert np.all(np.asarray(obs["clicks"])[np.asarray(obs["ratings"]) > 0] == 1)


def test_of_a_new_item_only_the_category_is_known():
    items = rljax.make("recommender/drift-20", new_items=0.2, categories=4).params.catalogue
    np.testing.assert_array_equal(items.features[:16], items.embeddings[:16])
    alike = np.asarray(items.embeddings)[:16][np.asarray(items.categories)[:16] == int(items.categories[17])]
    np.testing.assert_allclose(items.features[17], alike.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_candidates_are_of_browsed_categories():
    env = rljax.make("recommender/drift-20", candidates="category", categories=4)
    _, states = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 300), env.params)
    allowed, categories = np.asarray(states.allowed), np.arange(20) % 4
    for row, browsed in zip(allowed, np.asarray(states.filter), strict=True):
        np.testing.assert_array_equal(row, browsed[categories])
    assert allowed.any(axis=1).all()
    assert np.asarray(states.filter).mean() == pytest.approx(0.5 + 0.5 / 4, abs=0.06)


def test_candidates_are_neighbours_of_what_was_clicked():
    env = rljax.make("recommender/drift-30", candidates="neighbours", num_candidates=5, base=20.0)
    _, state = env.reset(jax.random.key(0), env.params)
    assert state.allowed.all()
    for item in (4, 7):  # a base of 20 makes clicks all but certain
        _, state = env.step(jax.random.key(item), state, jnp.int32(item), env.params)
    features = np.asarray(env.params.catalogue.features)
    profile = (features[7] + 0.9 * features[4]) / 1.9
    nearest = np.argsort(np.sum((features - profile) ** 2, axis=1))[:5]
    assert set(np.flatnonzero(state.allowed)) == set(nearest)
    slates = rljax.make("recommender/feed-30", candidates="neighbours", num_candidates=5)
    policy = recommender.most_popular(slates)
    masked = rljax.envs.masks.masked(slates)
    obs, state = masked.reset(jax.random.key(0), masked.params)
    best = np.argsort(-np.asarray(slates.params.catalogue.popularity))[:4]
    assert policy(None, jax.tree.map(lambda x: x[None], obs)).tolist() == [best.tolist()]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("recommender/small", {}),
        pytest.param("recommender/feed-10", {"candidates": "neighbours", "num_candidates": 5}, marks=pytest.mark.slow),
        pytest.param("recommender/static-10", {"candidates": "category"}, marks=pytest.mark.slow),
    ],
)
def test_recommenders_keep_the_contract_of_environments(name, settings):
    assert rljax.envs.check(rljax.make(name, **settings), num_steps=8) == []


def test_ids_and_settings():
    assert set(recommender.registered()) <= set(rljax.envs.registered())
    env = rljax.make("recommender/drift-7", boredom=2.0, categories=3)
    assert env.label == "recommender/drift-7(categories=3, boredom=2.0)"
    assert env.action_space.n == 7
    assert rljax.make("recommender/feed").action_space.nvec == (100,) * 4
    for name, settings, text in [
        ("recommender/drfit-10", {}, "did you mean recommender/drift"),
        ("recommender/drift-1", {}, "2 items or more"),
        ("recommender/small-3", {}, "no environment"),
        ("recommender/drift-7", {"bordom": 1}, "did you mean boredom"),
        ("recommender/drift-7", {"boredom": "high"}, "boredom of recommender/drift-7 must be a number"),
        ("recommender/drift-7", {"slate": 9}, r"slate must be an integer in \[1, 7\]"),
        ("recommender/drift-7", {"candidates": "near"}, "'category' or 'neighbours'"),
        ("recommender/drift-7", {"candidates": "neighbours", "num_candidates": 9}, "at most the number of items, 7"),
        ("recommender/drift-7", {"clickbait": 2}, r"clickbait must be a finite number in \[0, 1\]"),
        ("recommender/small", {"dimensions": 2}, "has no setting 'dimensions'"),
    ]:
        with pytest.raises(rljax.UsageError, match=text):
            rljax.make(name, **settings)
    with pytest.raises(rljax.UsageError, match=r"categories must be finite numbers \[2\], got shape \(3,\)"):
        recommender.of_items(np.zeros((2, 1)), np.zeros(3, int), tastes=np.zeros((1, 1)))
    with pytest.raises(rljax.UsageError, match="is not a recommender"):
        recommender.revealed(rljax.make("CartPole-v1"))
    with pytest.raises(rljax.UsageError, match="slate=1"):
        recommender.as_bandit(rljax.make("recommender/feed-10"))


def test_an_item_that_is_in_a_slate_twice_counts_once():
    logits = recommender.simulator.slate_logits(jnp.array([2, 0, 2]), jnp.array([0.5, 1.0, 1.5]))
    np.testing.assert_array_equal(logits, [0.0, 1.5, 0.5, -np.inf])
