"""Tabular learners against a plain NumPy reference on Gymnasium's table, and against exact solutions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from reference import assert_metrics, integers, uniforms

import rljax
from rljax import core, envs, planning, q_learning, schedules
from rljax.backend import random_bits

LIMIT, STEPS, ENVS = 7, 60, 3


def reference(config, state, key):
    """One update, in loops: Gymnasium's table moves the agents, colliding updates are averaged over their orders."""
    table = CliffWalkingEnv().P
    q, visits = np.array(state.tables.action_values, np.float64), np.array(state.tables.visits, np.float64)
    kinds = 2 if config.target in ("sarsa", "double_q_learning") else 1
    words, others = random_bits.pairs(jax.random.split(key)[0], (kinds, STEPS, ENVS))
    explores, actions = uniforms(words[0]), integers(others[0], 4)
    explores_next, actions_next = uniforms(words[-1]), integers(others[-1], 4)  # SARSA's
    which = integers(words[-1], len(q))  # Double's
    places, planned, ages = [36] * ENVS, [-1] * ENVS, [0] * ENVS
    epsilon = 0.4
    returns, running, errors, weights = [], [0.0] * ENVS, [], []
    for time in range(STEPS):
        wanted = {}
        for env in range(ENVS):
            place, mean = places[env], q.mean(axis=0)
            random_action = explores[time, env] < epsilon
            action = actions[time, env] if random_action else int(np.argmax(mean[place]))
            if planned[env] >= 0:
                action = planned[env]
            (_, following, reward, terminated), *_ = table[place][action]
            ages[env] += 1
            truncated = ages[env] >= LIMIT
            one = which[time, env]
            chosen = actions_next[time, env] if explores_next[time, env] < epsilon else int(np.argmax(mean[following]))
            if config.target == "sarsa":
                value, planned[env] = mean[following, chosen], chosen
            elif config.target == "expected_sarsa":
                value = (1 - epsilon) * mean[following].max() + epsilon * mean[following].mean()
            elif config.target == "double_q_learning":
                value = q[1 - one, following, np.argmax(q[one, following])]
            else:
                value = mean[following].max()
            target = reward + (0.0 if terminated else float(config.discount) * value)
            wanted.setdefault((one, place, action), []).append(target)
            places[env] = following
            running[env] += reward
            if terminated or truncated:
                places[env], planned[env], ages[env] = 36, -1, 0
                returns.append(running[env])
                running[env] = 0.0
        for entry, targets in wanted.items():
            gone = min(float(state.step) / config.num_updates / 0.5, 1.0)
            step_size = {
                "constant": lambda: 0.6,
                "linear": lambda gone=gone: 0.6 + gone * (0.1 - 0.6),
                "exponential": lambda gone=gone: 0.6 * (0.1 / 0.6) ** gone,
                "visits": lambda entry=entry: 0.6 / (1 + visits[entry]) ** 0.6,
            }[getattr(config.step_size, "kind", "constant")]()
            weight = 1 - (1 - step_size) ** len(targets)
            errors += [abs(target - q[entry]) for target in targets]
            weights += [weight] * len(targets)
            q[entry] += weight * (np.mean(targets) - q[entry])
            visits[entry] += len(targets)
    return q, visits, returns, {"td_error": np.mean(errors), "step_size": np.mean(weights)}


@pytest.mark.parametrize(
    ("target", "schedule"),
    [(target, schedule) for target in q_learning.TARGETS for schedule in ("constant", "visits")]
    + [("q_learning", "linear"), ("q_learning", "exponential")],
)
def test_one_update_equals_numpy(target, schedule):
    step_sizes = {
        "constant": 0.6,
        "linear": schedules.linear(0.6, 0.1, fraction=0.5),
        "exponential": schedules.exponential(0.6, 0.1, fraction=0.5),
        "visits": schedules.visits(0.6, 0.6),
    }
    env = envs.time_limit(rljax.make("CliffWalking-v1"), LIMIT)
    config = q_learning.Config(
        env=env, total_steps=4 * STEPS * ENVS, target=target, num_envs=ENVS, num_steps=STEPS,
        step_size=step_sizes[schedule], epsilon=schedules.linear(0.6, 0.2, fraction=0.5), discount=0.9,
    )  # fmt: skip
    state = jax.jit(q_learning.init)(jax.random.key(0), config)._replace(step=jnp.int32(1))  # half of the way down
    # Different values for every entry: between equal ones rounding would choose.
    scattered = jax.random.normal(jax.random.key(2), state.tables.action_values.shape)
    state = state._replace(tables=state.tables._replace(action_values=scattered))
    key = jax.random.key(1)
    after, metrics = jax.jit(q_learning.update)(key, state, config)
    q, visits, returns, means = reference(config, state, key)
    np.testing.assert_array_equal(after.tables.visits, visits)
    assert visits.max() > 5 * ENVS
    np.testing.assert_allclose(after.tables.action_values, q, rtol=1e-4, atol=1e-4)
    assert metrics["episode_return"] == pytest.approx(np.mean(returns), rel=1e-5)
    counts = {"episodes": len(returns), "env_steps": 2 * STEPS * ENVS, "epsilon": 0.4}
    episodes = {name: metrics[name] for name in ("episode_return", "episode_length", "reward")}
    change = np.abs(q - np.asarray(scattered, np.float64)).max()
    values = {
        "value_change": change,
        "action_value": q.mean(),
        "action_value_min": q.min(),
        "action_value_max": q.max(),
    }
    assert_metrics(metrics, means | episodes | counts | values)
    greedy = q_learning.act(after, config)(key, jnp.arange(48))
    np.testing.assert_array_equal(greedy, q.mean(axis=0).argmax(-1))


def test_colliding_updates_are_the_mean_over_their_orders():
    """Three environments of different rewards, one entry: the average over all orders of three updates in a row."""

    def reset(key, params):
        return jnp.int32(0), jax.random.uniform(key)

    def step(key, reward, action, params):
        return rljax.timestep(jnp.int32(0), reward, True), reward

    one = rljax.Discrete(1)
    env = rljax.Env(reset=reset, step=step, observation_space=one, action_space=one, name="one")
    config = q_learning.Config(env=env, total_steps=3, num_envs=3, num_steps=1, initial_value=2.0, step_size=0.3)
    state = q_learning.init(jax.random.key(0), config)
    after, _ = q_learning.update(jax.random.key(1), state, config)
    rewards, ends = np.asarray(state.collector.env_state, np.float64), []
    assert np.ptp(rewards) > 0.1
    for order in itertools.permutations(rewards):
        value = 2.0
        for reward in order:
            value += 0.3 * (reward - value)
        ends.append(value)
    assert np.ptp(ends) > 0.01
    assert after.tables.action_values[0, 0, 0] == pytest.approx(np.mean(ends), rel=1e-6)


@pytest.fixture(scope="module")
def errors_by_steps():
    """Errors of Q on 100 random models, after more and more steps: [steps, models]."""
    keys = jax.random.split(jax.random.key(0), 100)
    discount = 0.7

    def errors(key, schedule):
        key_model, key_init, key_train = jax.random.split(key, 3)
        env = envs.random_mdp(key_model, 4, 2)
        config = q_learning.Config(
            env=env, total_steps=32_000, discount=discount, epsilon=1.0,
            step_size=schedules.visits(1.0, 0.8) if schedule == "visits" else 0.5,
        )  # fmt: skip
        exact = planning.policy_iteration(env.params, discount).action_values

        def update(state, key):
            state, metrics = q_learning.update(key, state, config)
            return state, (metrics["env_steps"], jnp.abs(state.tables.action_values[0] - exact).max())

        start = q_learning.init(key_init, config)
        return jax.lax.scan(update, start, jax.random.split(key_train, config.num_updates))[1]

    by_schedule = {}
    for schedule in ("visits", "constant"):
        with toys.optimized():
            steps, error = jax.jit(jax.vmap(lambda key, schedule=schedule: errors(key, schedule)))(keys)
        by_schedule[schedule] = np.stack([error[:, steps[0] == n][:, 0] for n in (2_000, 8_000, 32_000)])
    return by_schedule


@pytest.mark.slow
def test_the_error_shrinks_at_the_rate_of_the_schedule(errors_by_steps):
    """A step size of n ** -0.8 leaves an error of the order n ** -0.4 (Even-Dar and Mansour 2003)."""
    medians = np.median(errors_by_steps["visits"], axis=1)
    rates = np.diff(np.log(medians)) / np.log(4.0)
    assert (rates < -0.3).all(), medians
    assert medians[-1] < 0.05
    assert (errors_by_steps["visits"][-1] < errors_by_steps["visits"][0]).mean() > 0.95


@pytest.mark.slow
def test_a_constant_step_size_does_not_converge(errors_by_steps):
    medians = np.median(errors_by_steps["constant"], axis=1)
    assert medians[-1] > 0.7 * medians[0]
    assert medians[-1] > 5 * np.median(errors_by_steps["visits"][-1])


def learned(env, **values):
    config = q_learning.Config(env=env, **values)
    with toys.optimized():
        states, metrics = jax.jit(jax.vmap(q_learning.train, (0, None)))(jax.random.split(jax.random.key(5), 4), config)
    return states.tables.action_values.mean(axis=1), metrics


def exact_returns(env, action_values, horizon, epsilon=0.0):
    model = envs.tabular_model(env)
    policies = jax.vmap(lambda q: planning.epsilon_greedy(q, epsilon))(action_values)
    return np.asarray(jax.vmap(lambda policy: planning.expected_return(model, policy, horizon))(policies))


@pytest.mark.parametrize(
    ("target", "num_envs"),
    [
        ("q_learning", 1),
        pytest.param("double_q_learning", 8, marks=pytest.mark.slow),
        pytest.param("q_learning", 8, marks=pytest.mark.slow),
        pytest.param("double_q_learning", 1, marks=pytest.mark.slow),
    ],
)
def test_cliff_walking_is_solved(target, num_envs):
    steps = 600_000 if target == "double_q_learning" else 300_000  # each of two tables learns from half of them
    values, _ = learned("CliffWalking-v1", total_steps=steps, target=target, discount=1.0, num_envs=num_envs)
    np.testing.assert_array_equal(exact_returns("CliffWalking-v1", values, 200), -13.0)


@pytest.mark.parametrize("target", ["sarsa", pytest.param("expected_sarsa", marks=pytest.mark.slow)])
def test_on_policy_targets_learn_the_safe_way(target):
    """With epsilon of 0.1 for good, SARSA nears the best soft policy, -20.7, where the optimal one falls to -45.8."""
    values, metrics = learned(
        "CliffWalking-v1", total_steps=300_000, target=target, discount=1.0, epsilon=0.1,
    )  # fmt: skip
    assert exact_returns("CliffWalking-v1", values, 200, 0.1).mean() > -23.0
    late = slice(metrics["episodes"].shape[1] // 2, None)
    episodes = metrics["episodes"][:, late]
    online = np.nansum(metrics["episode_return"][:, late] * episodes, axis=1) / episodes.sum(axis=1)
    assert online.mean() == pytest.approx(-20.7, rel=0.1)


@pytest.mark.slow
@toys.optimized()
def test_taxi_is_learned_and_act_is_greedy():
    config = rljax.preset("q_learning", "Taxi-v3")
    state, _ = jax.jit(q_learning.train)(jax.random.key(3), config)
    returns = rljax.evaluate(jax.random.key(0), config.env, q_learning.act(state, config), num_episodes=500)
    assert exact_returns("Taxi-v3", state.tables.action_values, 200)[0] >= 7.9
    assert returns.mean() == pytest.approx(7.93, abs=5 * 2.59 / 500**0.5)


def test_schedules_follow_their_formulas():
    def epsilons(schedule):
        config = q_learning.Config(env="GridWorld-misc", total_steps=1_000, epsilon=schedule)
        return np.stack([core.scheduled(config, step)[1]["epsilon"] for step in range(config.num_updates)])

    np.testing.assert_allclose(epsilons(0.8), 0.8)
    np.testing.assert_allclose(epsilons("linear(0.8, 0.2)"), 0.8 - 0.6 * np.arange(10) / 10, rtol=1e-6)
    np.testing.assert_allclose(epsilons(schedules.exponential(0.8, 0.2)), 0.8 * 0.25 ** (np.arange(10) / 10), rtol=1e-5)
    halved = 0.8 - 0.6 * np.minimum(np.arange(10) / 5, 1.0)
    np.testing.assert_allclose(epsilons(schedules.linear(0.8, 0.2, fraction=0.5)), halved, rtol=1e-6)
