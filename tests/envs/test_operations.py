"""The auction and the heated room: optima from an independent recursion, planning, and a learner that reaches them."""

import functools

import jax
import numpy as np
import pytest

import rljax
from rljax import planning, q_learning, schedules
from rljax.envs import operations


def optimum_of_the_auction(impressions=12, budget=8, highest=4, cheap=0.6):
    """By recursion over (impressions left, budget left), in plain Python."""
    others = np.array([cheap**m for m in range(highest + 1)])
    others /= others.sum()

    @functools.cache
    def value(left, money):
        if left == 0:
            return 0.0
        return max(
            sum(p * ((bid > m) + value(left - 1, money - m * (bid > m))) for m, p in enumerate(others))
            for bid in range(min(highest, money) + 1)
        )  # fmt: skip

    return value(impressions, budget)


def optimum_of_the_room(comfort=0.1):
    @functools.cache
    def value(period, degrees):
        if period == 12:
            return 0.0
        cost = comfort * (degrees - 21) ** 2 if 3 <= period < 11 else 0.0
        found = []
        for units in range(3):
            mean = min(max(degrees + 2 * units - 0.1 * (degrees - 5), 15), 23)
            low = int(np.floor(mean))
            up = mean - low
            after = (1 - up) * value(period + 1, low) + (up * value(period + 1, low + 1) if up else 0.0)
            found.append(after - cost - operations.PRICES[period] * units)
        return max(found)

    return value(0, 18)


def planned(name, **settings):
    model = rljax.envs.tabular_model(rljax.make(name, **settings))
    return model, float(planning.value_iteration(model, 1.0).values @ model.start)


@pytest.mark.parametrize("settings", [{}, {"impressions": 5, "budget": 3, "cheap": 1.0}])
def test_planning_finds_the_optimum_of_the_auction(settings):
    assert planned("operations/auction", **settings)[1] == pytest.approx(optimum_of_the_auction(**settings), abs=1e-4)


def test_planning_finds_the_optimum_of_the_room():
    for comfort in (0.1, 0.02):
        best = planned("operations/heating", comfort=comfort)[1]
        assert best == pytest.approx(optimum_of_the_room(comfort), abs=1e-4)


def test_a_scarce_budget_is_kept_for_cheap_impressions():
    """Bidding the highest at once wins less than the optimum, and with a budget for all it is optimal."""
    for budget, is_scarce in ((8, True), (48, False)):
        model, best = planned("operations/auction", budget=budget)
        highest = np.eye(5)[np.full(len(model.start), 4)]
        value = float(planning.policy_values(model, highest, 1.0) @ model.start)
        assert value <= best + 1e-4
        assert (value < best - 1e-2) == is_scarce


def test_ids_and_settings():
    for name, settings, text in [
        ("operations/auktion", {}, "did you mean operations/auction"),
        ("operations/auction", {"money": 3}, "has no setting 'money'"),
        ("operations/auction", {"budget": -1}, "budget must be"),
    ]:
        with pytest.raises(rljax.UsageError, match=text):
            rljax.make(name, **settings)
    assert rljax.make("operations/auction", budget=3).label == "operations/auction(budget=3)"


@pytest.mark.slow
@pytest.mark.parametrize("name", operations.registered())
def test_q_learning_reaches_the_optimum(name):
    config = rljax.preset("q_learning", name)
    model, best = planned(name)
    keys = jax.random.split(jax.random.key(0), 10)
    states, _ = jax.jit(jax.vmap(q_learning.train, (0, None)))(keys, config)
    policies = jax.vmap(planning.greedy)(states.tables.action_values[:, 0])
    values = np.array([float(planning.policy_values(model, policy, 1.0) @ model.start) for policy in policies])
    print(name, best, values)
    assert values.min() > best - 0.02 * abs(best)
    assert values.max() <= best + 1e-4
    assert config.discount == 1.0
    assert isinstance(config.epsilon, schedules.Schedule)
