"""Environments made from transition tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from toys import check_key_reuse

import rljax
from rljax import envs
from rljax.backend import random_bits


def test_an_environment_of_a_model_follows_its_probabilities():
    env = envs.random_mdp(jax.random.key(3), 5, 2)
    model = envs.tabular_model(env)
    assert model is env.params
    np.testing.assert_allclose(model.transitions.sum(-1), 1.0, atol=1e-6)
    keys = jax.random.split(jax.random.key(0), 20_000)
    first, state = jax.vmap(env.reset, (0, None))(keys, env.params)
    np.testing.assert_allclose(np.bincount(first, minlength=5) / 20_000, 0.2, atol=0.02)
    step_keys = jax.random.split(jax.random.key(1), 20_000)
    result, _ = jax.vmap(env.step, (0, 0, None, None))(step_keys, state, 1, env.params)
    np.testing.assert_array_equal(result.reward, model.rewards[first, 1])
    for start in range(5):
        seen = np.asarray(result.next_obs)[np.asarray(first) == start]
        np.testing.assert_allclose(np.bincount(seen, minlength=5) / len(seen), model.transitions[start, 1], atol=0.035)
    envs.check(env)


def test_a_random_process_has_its_distribution():
    """Rows uniform over the simplex have E[p^2] = 2 / (n (n + 1)) for n states."""
    model = envs.random_mdp(jax.random.key(0), 40, 5).params
    assert float(jnp.square(model.transitions).mean()) * 40 * 41 == pytest.approx(2.0, rel=0.05)
    assert scipy.stats.kstest(np.ravel(model.rewards), "uniform").pvalue > 1e-3
    np.testing.assert_allclose(model.start, 1 / 40)
    assert not model.terminated.any()
    check_key_reuse(lambda key: envs.random_mdp(key, 3, 2).params, jax.random.key(0))


def test_rows_that_sum_to_almost_one_are_drawn_within_their_sum():
    start = jnp.array([0.5, 0.49992])
    one = jnp.ones((2, 1, 2)) / 2
    env = envs.from_model(envs.Model(one, jnp.zeros((2, 1)), jnp.zeros((2, 1, 2), bool), start))
    first, _ = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 100_000), env.params)
    assert set(np.unique(first)) == {0, 1}


def test_a_draw_on_the_edge_of_a_state_skips_those_of_probability_zero():
    key = jax.random.key(5)
    edge = float(random_bits.uniforms(random_bits.word(key)))
    for start, expected in (
        ([edge / 2, edge / 2, 0.0, 1 - edge], 3),
        ([edge, 0.0, 1 - edge], 2),
        ([edge, 1 - edge], 1),
    ):
        count = len(start)
        nothing, same = jnp.zeros((count, 1)), jnp.full((count, 1, count), 1 / count)
        env = envs.from_model(envs.Model(same, nothing, same > 1, jnp.array(start)))
        assert int(env.reset(key, env.params)[0]) == expected


def test_rewards_and_ends_are_those_of_the_state_before_the_step():
    """From state 0 to 1 for a reward of 1, and from there back for 2, which ends the episode."""
    model = envs.Model(
        transitions=jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]]),
        rewards=jnp.array([[1.0], [2.0]]),
        terminated=jnp.array([[[False, False]], [[True, False]]]),
        start=jnp.array([1.0, 0.0]),
    )
    env = envs.from_model(model)
    _, state = env.reset(jax.random.key(0), env.params)
    first, state = env.step(jax.random.key(1), state, 0, env.params)
    second, _ = env.step(jax.random.key(2), state, 0, env.params)
    assert (int(first.next_obs), float(first.reward), bool(first.terminated)) == (1, 1.0, False)
    assert (int(second.next_obs), float(second.reward), bool(second.terminated)) == (0, 2.0, True)


def test_a_state_of_probability_zero_is_never_drawn():
    model = envs.Model(
        transitions=jnp.zeros((3, 1, 3)).at[:, :, 1].set(1.0),
        rewards=jnp.zeros((3, 1)),
        terminated=jnp.zeros((3, 1, 3), bool),
        start=jnp.array([0.0, 0.0, 1.0]),
    )
    env = envs.from_model(model)
    keys = jax.random.split(jax.random.key(0), 1_000)
    first, state = jax.vmap(env.reset, (0, None))(keys, env.params)
    result, _ = jax.vmap(env.step, (0, 0, None, None))(keys, state, 0, env.params)
    assert set(np.asarray(first)) == {2}
    assert set(np.asarray(result.next_obs)) == {1}


@pytest.mark.parametrize("states", [1, 2, 3, 4, 5, 9, 10, 17, 50])
def test_a_draw_inverts_the_cumulative_sums_for_any_number_of_states(states):
    """Squares, numbers next to squares, and rows with zeros in them, against NumPy's search."""
    rng = np.random.default_rng(states)
    transitions = rng.random((states, 2, states)) * (rng.random((states, 2, states)) < 0.6)
    transitions[..., rng.integers(states)] += 0.1  # no row without any
    transitions /= transitions.sum(-1, keepdims=True)
    nothing = np.zeros((states, 2))
    model = envs.Model(transitions, nothing, np.zeros(transitions.shape, bool), np.full(states, 1.0 / states))
    env = envs.from_model(model)
    keys = jax.random.split(jax.random.key(0), 4_000)
    first, state = jax.vmap(env.reset, (0, None))(keys, env.params)
    uniform = np.asarray(random_bits.uniforms(jax.vmap(random_bits.word)(keys)))
    off = np.abs(uniform * states - np.round(uniform * states)) > 1e-4  # where rounding does not decide
    assert off.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(first)[off], (uniform * states)[off].astype(int))
    step_keys = jax.random.split(jax.random.key(1), 4_000)
    uniform = np.asarray(random_bits.uniforms(jax.vmap(random_bits.word)(step_keys)))
    result, _ = jax.vmap(env.step, (0, 0, None, None))(step_keys, state, 1, env.params)
    sums = transitions[np.asarray(first), 1].cumsum(-1)
    following = (sums <= uniform[:, None] * sums[:, -1:]).sum(-1)
    clear = np.abs(sums - uniform[:, None]).min(-1) > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(np.asarray(result.next_obs)[clear], following[clear])


def test_environments_without_a_model_are_refused():
    with pytest.raises(rljax.UsageError, match="CartPole-v1 has no tabular model"):
        envs.tabular_model("CartPole-v1")
    with pytest.raises(rljax.UsageError, match="wrapped environment"):
        envs.tabular_model(envs.time_limit(rljax.make("Taxi-v3"), 10))
    with pytest.raises(rljax.UsageError, match="number of states of at least 1"):
        envs.random_mdp(jax.random.key(0), 0, 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"transitions": jnp.ones((2, 2, 3)) / 3}, r"needs transitions \(2, 2, 2\), got \(2, 2, 3\)"),
        ({"transitions": jnp.ones((2, 2, 2))}, "transitions must be probabilities"),
        ({"start": jnp.array([1.5, -0.5])}, "start must be probabilities"),
        ({"terminated": jnp.zeros(2, bool)}, "needs terminated"),
        ({"rewards": jnp.zeros((2, 2, 2))}, r"rewards must be a table \[S, A\]"),
    ],
)
def test_an_inconsistent_model_is_refused(change, sentence):
    model = envs.random_mdp(jax.random.key(0), 2, 2).params
    with pytest.raises(rljax.UsageError, match=sentence):
        envs.from_model(model._replace(**change))
    with pytest.raises(rljax.UsageError, match="from_model needs an"):
        envs.from_model(envs.from_model(model))


def test_a_model_can_be_made_of_lists_and_inside_a_traced_function():
    env = envs.from_model(envs.Model([[[1.0]]], [[2]], [[[False]]], [1]))
    assert env.params.rewards.dtype == jnp.float32
    result, _ = jax.vmap(env.step, (0, None, None, None))(
        jax.random.split(jax.random.key(0), 2), env.reset(jax.random.key(0), env.params)[1], 0, env.params
    )
    np.testing.assert_array_equal(result.reward, [2.0, 2.0])

    @jax.jit
    def inside(scale):
        return scale * envs.tabular_model("GridWorld-misc").transitions.sum()

    assert inside(2.0) == 2 * 54 * 4
