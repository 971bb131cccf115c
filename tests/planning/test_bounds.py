"""Planning in 32 bits: optimal values within their error bounds, compared with float64, and invalid arguments."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import envs, planning

SOLVERS = (planning.value_iteration, planning.policy_iteration)


def optimum(models, discount):
    """Optimal values `[N, S]` of stacked models, by policy iteration in float64."""
    continuing = np.where(models.terminated, 0.0, np.asarray(models.transitions, np.float64))
    rewards = np.asarray(models.rewards, np.float64)
    count, states, actions = rewards.shape
    policy = np.full((count, states, actions), 1.0 / actions)
    for _ in range(100):
        matrix = np.eye(states) - discount * np.einsum("nsa,nsat->nst", policy, continuing)
        values = np.linalg.solve(matrix, (policy * rewards).sum(-1)[..., None])[..., 0]
        action_values = rewards + discount * np.einsum("nsat,nt->nsa", continuing, values)
        better = action_values.max(-1) > (policy * action_values).sum(-1) + 1e-11 * (1 + np.abs(values))
        if not better.any():
            return values
        policy = np.where(better[..., None], np.eye(actions)[action_values.argmax(-1)], policy)
    raise AssertionError("policy iteration did not end")


@functools.cache
def random_models(states, actions, ending):
    """1,000 models; those that end have rewards of both signs and of magnitudes between 0.001 and 1,000."""
    keys = jax.random.split(jax.random.key(states), 1_000)
    models = jax.vmap(lambda key: envs.random_mdp(key, states, actions).params)(keys)
    if not ending:
        return models
    rng = np.random.default_rng(states)
    terminated = rng.random(models.terminated.shape) < 0.2
    terminated[..., 0] = True
    scale = 10.0 ** rng.uniform(-3, 3, (1_000, 1, 1))
    rewards = (np.asarray(models.rewards) - rng.choice([0.0, 0.5, 1.0], (1_000, 1, 1))) * scale
    return models._replace(terminated=jnp.asarray(terminated), rewards=jnp.asarray(rewards, jnp.float32))


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize(("discount", "ending"), [(0.5, False), (0.99, False), (0.9999, True), (1.0, True)])
def test_the_error_bound_holds_on_a_thousand_models(solve, discount, ending):
    for states, actions in ((2, 2), (5, 3)):
        models = random_models(states, actions, ending)
        solution = jax.jit(jax.vmap(solve, (0, None)))(models, discount)
        exact = optimum(models, discount)
        errors = np.abs(np.asarray(solution.values, np.float64) - exact).max(1)
        assert np.isfinite(solution.error_bound).all()
        assert (errors <= np.asarray(solution.error_bound)).all()
        relative = 2e-5 if solve is planning.policy_iteration else 1e-3  # small steps vanish in 32 bits
        assert (errors <= relative * np.abs(exact).max(1) + 1.1e-6).all()


def test_policy_iteration_does_not_stop_at_rounding_of_large_values():
    """At a discount of 0.999, a gain of 0.006 a step is 6 in the values, and 1e-5 of them."""
    models = random_models(2, 2, False)
    solution = jax.jit(jax.vmap(planning.policy_iteration, (0, None)))(models, 0.999)
    np.testing.assert_allclose(solution.values, optimum(models, 0.999), rtol=1e-4)
    taken = np.asarray(planning.greedy(solution.action_values))
    values = jax.jit(jax.vmap(planning.policy_values, (0, 0, None)))(models, taken, 0.999)
    np.testing.assert_allclose(values, solution.values, rtol=2e-4)


@pytest.mark.parametrize("states", [11, 101])
def test_the_error_bound_of_a_random_walk_holds_without_a_discount(states):
    """A walk between two ends that costs 1 a step: s (states - 1 - s) steps are left from state s."""
    transitions, terminated = np.zeros((states, 1, states)), np.zeros((states, 1, states), bool)
    for s in range(1, states - 1):
        transitions[s, 0, [s - 1, s + 1]] = 0.5
    transitions[0, 0, 0] = transitions[-1, 0, -1] = 1.0
    terminated[:, :, [0, -1]] = True
    rewards = np.full((states, 1), -1.0)
    rewards[[0, -1]] = 0.0
    params = envs.from_model(envs.Model(transitions, rewards, terminated, np.full(states, 1 / states))).params
    exact = -np.arange(states) * (states - 1 - np.arange(states))
    policy = jnp.ones((states, 1))
    for solution in (
        *(solve(params, 1.0) for solve in SOLVERS),
        planning.iterate_policy_values(params, policy, 1.0),
        planning.value_iteration(params, 1.0, max_iterations=5),
    ):
        error = np.abs(np.asarray(solution.values) - exact).max()
        assert error <= solution.error_bound
        assert solution.error_bound < 1_000 * error + 1e-2 * states**2
    np.testing.assert_allclose(planning.policy_values(params, policy, 1.0), exact, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["FrozenLake-misc", pytest.param("Taxi-v3", marks=pytest.mark.slow), "CliffWalking-v1", "GridWorld-misc"]
)
def test_the_error_bound_of_named_worlds_holds(name):
    with jax.enable_x64(True):
        exact = envs.tabular_model(name)
        exact = {discount: planning.value_iteration(exact, discount, tolerance=1e-12) for discount in (0.99, 1.0)}
    model = envs.tabular_model(name)
    for discount, reference in exact.items():
        for solve in SOLVERS:
            solution = solve(model, discount)
            error = np.abs(np.asarray(solution.values) - np.asarray(reference.values)).max()
            assert error <= min(float(solution.error_bound), 1e-5)
            # On the lake one may walk in circles at no cost, so that a bound cannot be proved without a discount.
            assert solution.error_bound < 1e-2 or (name, discount) == ("FrozenLake-misc", 1.0)
    soft = planning.value_iteration(model, 1.0, epsilon=0.1)
    policy = planning.epsilon_greedy(soft.action_values, 0.1)
    assert np.abs(planning.policy_values(model, policy, 1.0) - soft.values).max() <= soft.error_bound + 1e-3


def small(rewards, terminated=False, start=(1.0, 0.0)):
    """Two states: action 0 stays, action 1 goes to the other state."""
    transitions = [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]
    return envs.from_model(envs.Model(transitions, rewards, np.full((2, 2, 2), terminated), start)).params


def test_a_forbidden_action_is_never_taken():
    model = small([[1.0, -np.inf], [-np.inf, 3.0]])
    for solve in SOLVERS:
        np.testing.assert_allclose(solve(model, 0.5).values, [2.0, 4.0], atol=1e-6)
        assert np.isfinite(solve(model, 0.5).error_bound)
    values, _ = planning.finite_horizon(model, 3)
    np.testing.assert_allclose(values, [[0, 0], [1, 3], [2, 4], [3, 5]])
    policy = planning.greedy(planning.policy_iteration(model, 0.5).action_values)
    np.testing.assert_allclose(planning.policy_values(model, policy, 0.5), [2.0, 4.0])
    np.testing.assert_allclose(planning.finite_horizon_policy_values(model, policy, 3), [3.0, 5.0])
    for call in (
        lambda: planning.policy_values(model, jnp.full((2, 2), 0.5), 0.5),
        lambda: planning.expected_return(model, jnp.full((2, 2), 0.5), 3),
    ):
        with pytest.raises(rljax.UsageError, match="takes a forbidden action"):
            call()
    # A random action is one of the allowed, here the only one.
    np.testing.assert_allclose(planning.value_iteration(model, 0.5, epsilon=0.1).values, [2.0, 4.0], atol=1e-6)
    with pytest.raises(rljax.UsageError, match="Every action is forbidden in state 1"):
        planning.value_iteration(model._replace(rewards=jnp.array([[1.0, 1.0], [-jnp.inf, -jnp.inf]])), 0.5)


def test_an_endless_process_is_refused_without_a_discount():
    model = small([[1.0, 1.0], [2.0, 2.0]])
    uniform = jnp.full((2, 2), 0.5)
    for call in (
        lambda: planning.value_iteration(model, 1.0),
        lambda: planning.policy_iteration(model, 1.0),
        lambda: planning.policy_values(model, uniform, 1.0),
        lambda: planning.iterate_policy_values(model, uniform, 1.0),
        lambda: planning.expected_return(model, uniform),
    ):
        with pytest.raises(rljax.UsageError, match="collects rewards forever from state 0"):
            call()
    assert planning.expected_return(model, uniform, horizon=2) == 2.5
    assert np.isnan(jax.jit(planning.policy_values)(model, uniform, 1.0)).all()


def test_a_state_without_rewards_needs_no_termination():
    """Leaving state 0 pays 2; state 1, which never pays, is the end though nothing terminates."""
    transitions = [[[1, 0], [0, 1]], [[0, 1], [0, 1]]]
    model = envs.from_model(envs.Model(transitions, [[-1, 2], [0, 0]], np.zeros((2, 2, 2), bool), [1, 0])).params
    for solve in SOLVERS:
        solution = solve(model, 1.0)
        np.testing.assert_allclose(solution.values, [2.0, 0.0])
        assert solution.error_bound < 1e-5
    np.testing.assert_allclose(planning.policy_values(model, jnp.full((2, 2), 0.5), 1.0), [1.0, 0.0])


MODEL = small([[1.0, 0.0], [0.0, 2.0]])
POLICY = jnp.full((2, 2), 0.5)


@pytest.mark.parametrize("discount", [np.nan, np.inf, -0.1, 1.1, 2, "0.9", None, True, jnp.array([0.9, 0.8])])
def test_an_invalid_discount_is_refused(discount):
    for call in (
        lambda: planning.value_iteration(MODEL, discount),
        lambda: planning.policy_iteration(MODEL, discount),
        lambda: planning.policy_values(MODEL, POLICY, discount),
        lambda: planning.iterate_policy_values(MODEL, POLICY, discount),
        lambda: planning.finite_horizon(MODEL, 2, discount),
        lambda: planning.finite_horizon_policy_values(MODEL, POLICY, 2, discount),
        lambda: planning.expected_return(MODEL, POLICY, 2, discount),
        lambda: planning.action_values(MODEL, jnp.zeros(2), discount),
        lambda: planning.grid_value_iteration(lambda s, a: (s, a, False), [jnp.arange(3.0)], POLICY, 2, discount),
    ):
        with pytest.raises(rljax.UsageError, match=r"discount must be a finite number in \[0, 1\]"):
            call()


@pytest.mark.parametrize(
    "policy", [POLICY * 2, -POLICY, POLICY * np.nan, POLICY * 0.9, jnp.array([[1.5, -0.5], [0.5, 0.5]]), jnp.ones(2)]
)
def test_an_invalid_policy_is_refused(policy):
    for call in (
        lambda: planning.policy_values(MODEL, policy, 0.9),
        lambda: planning.iterate_policy_values(MODEL, policy, 0.9),
        lambda: planning.finite_horizon_policy_values(MODEL, policy, 2),
        lambda: planning.expected_return(MODEL, policy, 2),
    ):
        with pytest.raises(rljax.UsageError, match="A policy must be"):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": np.nan}, "tolerance must be a finite number of at least 0"),
        ({"tolerance": -1}, "tolerance must be"),
        ({"tolerance": np.inf}, "tolerance must be"),
        ({"max_iterations": -1}, "max_iterations must be an integer"),
        ({"max_iterations": 1.5}, "max_iterations must be an integer"),
        ({"max_iterations": np.nan}, "max_iterations must be an integer"),
        ({"epsilon": 1.5}, "epsilon must be a finite number in [0, 1]"),
        ({"epsilon": np.nan}, "epsilon must be"),
    ],
)
def test_invalid_options_are_refused(options, words):
    calls = [lambda: planning.value_iteration(MODEL, 0.9, **options)]
    if "epsilon" in options:
        calls.append(lambda: planning.epsilon_greedy(jnp.zeros((2, 2)), **options))
    else:
        calls.append(lambda: planning.iterate_policy_values(MODEL, POLICY, 0.9, **options))
    if "max_iterations" in options:
        calls.append(lambda: planning.policy_iteration(MODEL, 0.9, **options))
    for call in calls:
        with pytest.raises(rljax.UsageError, match=re.escape(words)):
            call()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transitions": MODEL.transitions * 0.9}, "transitions must be probabilities"),
        ({"transitions": MODEL.transitions * jnp.nan}, "transitions must be probabilities"),
        ({"transitions": MODEL.transitions[:, :1]}, "needs transitions"),
        ({"rewards": MODEL.rewards * jnp.nan}, "rewards must be numbers below infinity"),
        ({"rewards": MODEL.rewards + jnp.inf}, "rewards must be numbers below infinity"),
        ({"start": jnp.array([0.5, 0.6])}, "start must be probabilities"),
    ],
)
def test_an_invalid_model_is_refused(change, words):
    for solve in SOLVERS:
        with pytest.raises(rljax.UsageError, match=words):
            solve(MODEL._replace(**change), 0.9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axes": []}, "axes must be a list"),
        ({"axes": [jnp.zeros(3)]}, "increasing and evenly spaced"),
        ({"axes": [jnp.array([0.0, 1.0, 3.0])]}, "increasing and evenly spaced"),
        ({"axes": [jnp.array([2.0, 1.0, 0.0])]}, "increasing and evenly spaced"),
        ({"axes": [jnp.zeros((2, 2))]}, "must be a vector of coordinates"),
        ({"iterations": -1}, "iterations must be an integer"),
        ({"iterations": 2.5}, "iterations must be an integer"),
    ],
)
def test_an_invalid_grid_is_refused(change, words):
    given = {"axes": [jnp.arange(3.0)], "actions": jnp.arange(2.0), "iterations": 3, **change}
    with pytest.raises(rljax.UsageError, match=words):
        planning.grid_value_iteration(lambda state, action: (state, action, jnp.bool_(False)), **given)
