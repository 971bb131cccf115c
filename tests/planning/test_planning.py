"""Exact solutions: published and closed-form values, and one method against another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.classic_control import mountain_car, pendulum

import rljax
from rljax import envs, planning


@pytest.fixture
def in_64_bits():
    with jax.enable_x64(True):
        yield


def optimum(model, discount):
    return planning.value_iteration(model, discount, tolerance=1e-10)


@pytest.mark.usefixtures("in_64_bits")
class TestTheExactTable:
    def lake(self, **settings):
        return envs.tabular_model(rljax.make("FrozenLake-misc", **settings))

    def test_frozen_lake_4x4(self):
        model = self.lake()
        values, _ = planning.finite_horizon(model, 200)
        assert model.start @ values[100] == pytest.approx(0.744190, abs=5e-7)
        assert model.start @ values[200] == pytest.approx(0.8167, abs=5e-5)
        assert model.start @ optimum(model, 1.0).values == pytest.approx(0.8235, abs=5e-5)
        solution = optimum(model, 0.99)
        assert model.start @ solution.values == pytest.approx(0.542026, abs=5e-7)
        greedy = planning.greedy(solution.action_values)
        assert planning.expected_return(model, greedy, 100) == pytest.approx(0.7402, abs=5e-5)
        for discount in (0.9, 0.95):
            greedy = planning.greedy(optimum(model, discount).action_values)
            assert planning.expected_return(model, greedy, 100) == pytest.approx(0.7298, abs=5e-5)
        uniform = jnp.full((16, 4), 0.25)
        assert planning.expected_return(model, uniform, 100) == pytest.approx(0.0139, abs=5e-5)

    def test_frozen_lake_8x8(self):
        model = self.lake(map_name="8x8")
        values, _ = planning.finite_horizon(model, 200)
        assert model.start @ values[200] == pytest.approx(0.9132, abs=5e-5)
        for discount, expected in ((0.99, 0.8630), (0.999, 0.8857)):
            greedy = planning.greedy(optimum(model, discount).action_values)
            assert planning.expected_return(model, greedy, 200) == pytest.approx(expected, abs=5e-5)

    @pytest.mark.parametrize(("map_name", "expected"), [("4x4", 0.950990), ("8x8", 0.877521)])
    def test_frozen_lake_without_slipping(self, map_name, expected):
        model = self.lake(map_name=map_name, is_slippery=False)
        solution = optimum(model, 0.99)
        assert model.start @ solution.values == pytest.approx(expected, abs=5e-7)
        assert planning.expected_return(model, planning.greedy(solution.action_values), 100) == 1.0

    def test_taxi(self):
        model = envs.tabular_model("Taxi-v3")
        values = np.asarray(optimum(model, 1.0).values)[np.asarray(model.start) > 0]
        assert len(values) == 300
        assert values.mean() == pytest.approx(7.930, abs=5e-4)
        assert values.std() == pytest.approx(2.59, abs=5e-3)
        assert (values.min(), values.max()) == (3.0, 15.0)

    def test_cliff_walking(self):
        model = envs.tabular_model("CliffWalking-v1")
        solution = optimum(model, 1.0)
        assert model.start @ solution.values == -13.0
        careless = planning.epsilon_greedy(solution.action_values, 0.1)
        assert planning.expected_return(model, careless) == pytest.approx(-45.8, abs=5e-2)
        soft = planning.value_iteration(model, 1.0, epsilon=0.1)
        careful = planning.epsilon_greedy(soft.action_values, 0.1)
        assert model.start @ soft.values == pytest.approx(-20.7, abs=5e-2)
        assert planning.expected_return(model, careful) == pytest.approx(float(model.start @ soft.values), abs=1e-4)


def on_grid(env, step, axes, actions, state_of):
    _, policy = planning.grid_value_iteration(step, axes, actions, 200)
    act = jax.vmap(lambda obs: jnp.reshape(policy(state_of(obs)), env.action_space.shape))
    return rljax.evaluate(jax.random.key(1), env, lambda _, obs: act(obs), 1000)


def test_mountain_car_on_a_grid():
    env = rljax.make("MountainCar-v0")

    def step(state, action):
        at = mountain_car.EnvState(time=0, position=state[0], velocity=state[1])
        result, after = env.step(jax.random.key(0), at, action, env.params)
        return jnp.stack([after.position, after.velocity]), result.reward, result.terminated

    axes = (jnp.linspace(-1.2, 0.6, 201), jnp.linspace(-0.07, 0.07, 201))
    returns = jax.jit(lambda: on_grid(env, step, axes, jnp.arange(3), lambda obs: obs))()
    assert returns.mean() == pytest.approx(-97.7, abs=0.7)  # three standard errors
    assert returns.std() == pytest.approx(7.3, abs=0.5)


@pytest.mark.slow
def test_pendulum_on_a_grid():
    env = rljax.make("Pendulum-v1")

    def step(state, torque):
        at = pendulum.EnvState(time=0, theta=state[0], theta_dot=state[1], last_u=jnp.float32(0))
        result, after = env.step(jax.random.key(0), at, torque[None], env.params)
        angle = (after.theta + jnp.pi) % (2 * jnp.pi) - jnp.pi
        return jnp.stack([angle, after.theta_dot]), result.reward, result.terminated

    axes = (jnp.linspace(-jnp.pi, jnp.pi, 201), jnp.linspace(-8.0, 8.0, 201))
    torques = jnp.linspace(-2.0, 2.0, 15)

    def state_of(obs):
        return jnp.stack([jnp.arctan2(obs[1], obs[0]), obs[2]])

    returns = jax.jit(lambda: on_grid(env, step, axes, torques, state_of))()
    assert returns.mean() == pytest.approx(-139, abs=3 * 76 / 1000**0.5)
    assert returns.std() == pytest.approx(76, abs=5)


def limit_with_rounding(tolerance, models, solution, discount):
    """The most that a solution's bound may be once it has stopped: the tolerance, and a backup's rounding for ever."""
    states, actions = models.rewards.shape[1:]
    largest = np.abs(models.rewards).max((1, 2)) + np.abs(solution.values).max(-1)
    unit = float(jnp.finfo(solution.values.dtype).eps) / 2
    return (tolerance + (states + actions + 6) * unit * largest / (1 - np.asarray(discount))) * (1 + 10 * unit)


def random_models(count, states=6, actions=3):
    keys = jax.random.split(jax.random.key(7), count)
    return jax.vmap(lambda key: envs.random_mdp(key, states, actions).params)(keys)


@pytest.mark.usefixtures("in_64_bits")
def test_value_and_policy_iteration_agree_on_many_models_at_once():
    models = random_models(50)
    discounts = jnp.linspace(0.0, 0.99, 50)
    by_values = jax.jit(jax.vmap(planning.value_iteration))(models, discounts)
    by_policies = jax.jit(jax.vmap(planning.policy_iteration))(models, discounts)
    np.testing.assert_allclose(by_values.values, by_policies.values, rtol=2e-5)
    np.testing.assert_allclose(by_values.action_values, by_policies.action_values, rtol=2e-5)
    assert (by_policies.iterations < 20).all()
    residual = np.abs(by_values.action_values.max(-1) - by_values.values).max()
    assert residual < 2e-5


@pytest.mark.parametrize("tolerance", [1.0, 1e-2])
@pytest.mark.usefixtures("in_64_bits")
def test_the_error_bound_holds_and_is_kept(tolerance):
    models = random_models(50)
    discounts = jnp.linspace(0.5, 0.95, 50)
    exact = jax.vmap(planning.policy_iteration)(models, discounts)
    rough = jax.vmap(functools.partial(planning.value_iteration, tolerance=tolerance))(models, discounts)
    error = np.abs(rough.values - exact.values).max(-1)
    assert (error <= rough.error_bound + 1e-12).all()
    assert (rough.error_bound <= limit_with_rounding(tolerance, models, rough, discounts)).all()
    assert (rough.error_bound > tolerance / 10).all()  # it stops as soon as it may
    assert (np.asarray(exact.error_bound) < 1e-9).all()


def test_the_error_bound_holds_in_32_bits_where_rounding_is_more_than_the_tolerance():
    discounts = jnp.array([0.9, 0.99, 0.999])
    models = random_models(50, states=20, actions=4)
    solutions = [
        jax.vmap(lambda model, solve=solve: jax.vmap(solve, (None, 0))(model, discounts))(models)
        for solve in (planning.value_iteration, planning.policy_iteration)
    ]
    with jax.enable_x64(True):
        models = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float64), models)
        exact = jax.vmap(lambda model: jax.vmap(planning.policy_iteration, (None, 0))(model, discounts))(models)
    for solution in solutions:
        error = np.abs(np.asarray(solution.values, np.float64) - np.asarray(exact.values)).max(-1)
        assert (error <= np.asarray(solution.error_bound)).all()
        assert (error.max(axis=0) > 1e-6).all()  # so a bound of zero, or of the tolerance, would be wrong
    # By policies it may be more: an improvement of less than 100 roundings is none.
    for i, discount in enumerate(np.asarray(discounts)):
        by_values = jax.tree.map(lambda x, i=i: x[:, i], solutions[0])
        assert (by_values.error_bound <= limit_with_rounding(1e-6, models, by_values, discount)).all()


def test_a_limit_on_iterations_shows_in_the_bound():
    model = jax.tree.map(lambda x: x[0], random_models(1))
    solution = planning.value_iteration(model, 0.99, max_iterations=3)
    assert solution.iterations == 3
    assert solution.error_bound > 1.0


def test_evaluation_by_solve_by_iteration_and_by_a_long_horizon_agree():
    models = random_models(20)
    policies = jax.nn.softmax(jax.random.normal(jax.random.key(1), models.rewards.shape))
    solved = jax.vmap(planning.policy_values, (0, 0, None))(models, policies, 0.9)
    iterated = jax.vmap(planning.iterate_policy_values, (0, 0, None))(models, policies, 0.9)
    horizon = functools.partial(planning.finite_horizon_policy_values, horizon=300, discount=0.9)
    cut = jax.vmap(horizon)(models, policies)
    np.testing.assert_allclose(solved, iterated.values, rtol=1e-5)
    np.testing.assert_allclose(solved, cut, rtol=1e-5)
    assert (iterated.error_bound <= limit_with_rounding(1e-6, models, iterated, 0.9)).all()


def test_a_chain_in_closed_form():
    """Two states: action 0 stays for a reward of 1, action 1 ends for a reward of 3."""
    model = envs.Model(
        transitions=jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]),
        rewards=jnp.array([[1.0, 3.0], [0.0, 0.0]]),
        terminated=jnp.array([[[False, False], [False, True]], [[True, True], [True, True]]]),
        start=jnp.array([1.0, 0.0]),
    )
    for discount in (0.5, 0.9):
        value = max(3.0, 1.0 / (1.0 - discount))
        assert planning.value_iteration(model, discount).values[0] == pytest.approx(value, rel=1e-5)
        assert planning.policy_iteration(model, discount).values[0] == pytest.approx(value, rel=1e-5)
    # The greedy policy at 0.5 ends at once; with epsilon of half it stays one time in four.
    policy = planning.epsilon_greedy(planning.value_iteration(model, 0.5).action_values, 0.5)
    np.testing.assert_allclose(policy[0], [0.25, 0.75])
    value = (0.25 * 1.0 + 0.75 * 3.0) / (1.0 - 0.25 * 0.9)
    assert planning.policy_values(model, policy, 0.9)[0] == pytest.approx(value, rel=1e-6)
    assert planning.expected_return(model, policy, horizon=1) == pytest.approx(2.5)
    values, action_values = planning.finite_horizon(model, 4)
    np.testing.assert_allclose(values[:, 0], [0.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(action_values[:, 0].argmax(-1), [1, 0, 0, 0])


def test_the_best_soft_policy_beats_every_other_soft_policy():
    model = envs.tabular_model("CliffWalking-v1")
    soft = planning.value_iteration(model, 0.95, epsilon=0.2)
    best = planning.policy_values(model, planning.epsilon_greedy(soft.action_values, 0.2), 0.95)
    np.testing.assert_allclose(best, soft.values, atol=1e-3)
    greedy = planning.value_iteration(model, 0.95)
    other = planning.policy_values(model, planning.epsilon_greedy(greedy.action_values, 0.2), 0.95)
    assert (np.asarray(best) >= np.asarray(other) - 1e-3).all()
    assert best[36] > other[36] + 1.0


def test_bounds_without_a_discount():
    model = envs.tabular_model("GridWorld-misc")
    assert planning.value_iteration(model, 1.0).error_bound < 1e-3
    assert planning.value_iteration(model, 1.0, max_iterations=3).error_bound == np.inf
    solution = planning.policy_iteration(model, 0.95)
    assert np.isfinite(solution.error_bound)
    assert solution.values[18] == pytest.approx(-(1 - 0.95**14) / 0.05, rel=1e-4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model: planning.value_iteration("Taxi-v3", 0.9), "planning needs a Model, got str"),
        (
            lambda model: planning.policy_values(model, jnp.zeros(6, int), 0.9),
            "A policy must be a table of probabilities",
        ),
        (lambda model: planning.finite_horizon(model, -1), "horizon must be an integer in"),
        (lambda model: planning.expected_return(model, jnp.ones((6, 3)) / 3, 2.5), "horizon must be an integer"),
    ],
)
def test_invalid_arguments_raise_one_sentence(call, sentence):
    model = jax.tree.map(lambda x: x[0], random_models(1))
    with pytest.raises(rljax.UsageError, match=sentence):
        call(model)


def test_an_axis_of_one_point_is_not_a_dimension():
    """A state that stays where it is earns the same at each of three steps: 3 (s + 1), s being the sum of the state."""

    def step(state, action):
        return state, jnp.sum(state) + action, jnp.bool_(False)

    axes, actions = [np.arange(3), np.array([5])], np.array([-1.0, 0.0, 1.0])
    values, policy = planning.grid_value_iteration(step, axes, actions, 3)
    np.testing.assert_allclose(values, [[18.0], [21.0], [24.0]])
    np.testing.assert_allclose(jax.jit(policy)(jnp.array([1.5, 7.0])), 1.0)


def test_numpy_numbers_are_accepted_and_stacked_models_refused():
    model = envs.tabular_model("FrozenLake-misc")
    policy = planning.greedy(planning.value_iteration(model, 0.99).action_values)
    returns = [planning.expected_return(model, policy, horizon) for horizon in (100, np.int64(100))]
    assert returns[0] == returns[1]
    whole = model._replace(rewards=model.rewards.astype(int))
    for solve in (planning.value_iteration, planning.policy_iteration):
        with pytest.raises(rljax.UsageError, match=r"rewards must be floats, got int.*: rljax\.envs\.from_model"):
            solve(whole, 0.9)
