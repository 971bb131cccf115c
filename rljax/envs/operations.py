"""Small models of two tasks of operations: bidding with a budget, and heating a room while the price of energy changes.

Both are tabular, so that planning gives the exact optimum, and environments: `rljax.make("operations/auction")` and
`rljax.make("operations/heating")`. An episode is one campaign, or one day; use a discount of 1.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Env
from rljax.envs.mdp import Model, from_model
from rljax.errors import UsageError, number, suggest

PREFIX = "operations/"
PERIODS = 12  # of two hours, from midnight
PRICES = (0.1, 0.1, 0.1, 0.3, 0.4, 0.2, 0.2, 0.2, 0.4, 0.5, 0.3, 0.1)  # of one unit of energy, by period
LOWEST = 15  # degrees


def auction_model(impressions: int = 12, budget: int = 8, highest: int = 4, cheap: float = 0.6) -> Model:
    r"""Bid for impressions one after the other, until they or the budget are used up.

    The state is (impressions left, budget left), numbered as `left * (budget + 1) + money`; the bid is 0 to `highest`,
    at most the budget left. The highest other bid m is 0 to `highest` with probabilities proportional to $c^m$. A bid
    above it wins and pays m, as in an auction at the second price; every win is worth 1. (The setting of Cai et al.
    2017, Real-time bidding by reinforcement learning.)

    Args:
        impressions: in a campaign.
        budget: in units of bids.
        highest: bid.
        cheap: c; low for little competition.
    """
    impressions = number("impressions", impressions, integer=True, minimum=1, maximum=100)
    budget = number("budget", budget, integer=True, minimum=0, maximum=100)
    highest = number("highest", highest, integer=True, minimum=1, maximum=100)
    others = number("cheap", cheap, minimum=1e-6) ** np.arange(highest + 1)
    others = others / others.sum()
    states, actions = (impressions + 1) * (budget + 1), highest + 1
    transitions = np.zeros((states, actions, states))
    rewards = np.zeros((states, actions))
    terminated = np.zeros((states, actions, states), bool)
    for left in range(impressions + 1):
        for money in range(budget + 1):
            state, after = left * (budget + 1) + money, max(left - 1, 0) * (budget + 1)
            for action in range(actions):
                bid = min(action, money) if left else 0
                for m, probability in enumerate(others):
                    wins = bid > m
                    transitions[state, action, after + money - wins * m] += probability
                    rewards[state, action] += probability * wins
            terminated[state, :, :] = left <= 1
    start = np.arange(states) == impressions * (budget + 1) + budget
    return Model(*map(jnp.asarray, (transitions, rewards, terminated, start.astype(float))))


def heating_model(comfort: float = 0.1, outside: float = 5.0, loss: float = 0.1, power: float = 2.0) -> Model:
    r"""Heat a room for a day, 12 periods, while energy is cheap at night and expensive in the morning and evening.

    The state is (period, temperature from 15 to 23 degrees), numbered as `period * 9 + degrees - 15`; the action is 0,
    1 or 2 units of heat. The next temperature is $T + p a - l (T - T_\text{outside})$, rounded up or down at random
    with that mean and kept within bounds. The reward is minus the price of the energy, and minus `comfort` times the
    squared distance from 21 degrees between 6 and 22 o'clock.

    Args:
        comfort: cost of a squared degree in a period.
        outside: temperature.
        loss: l, the part of the difference to outside that is lost in a period.
        power: p, degrees for a unit of heat.
    """
    numbers = {"comfort": comfort, "outside": outside, "loss": loss, "power": power}
    comfort, outside, loss, power = (number(name, value) for name, value in numbers.items())
    degrees = np.arange(LOWEST, LOWEST + 9)
    states, actions = PERIODS * len(degrees), 3
    transitions = np.zeros((states, actions, states))
    rewards = np.zeros((states, actions))
    terminated = np.zeros((states, actions, states), bool)
    for period in range(PERIODS):
        for level, temperature in enumerate(degrees):
            state, after = period * len(degrees) + level, (period + 1) % PERIODS * len(degrees)
            for action in range(actions):
                following = temperature + power * action - loss * (temperature - outside) - LOWEST
                following = np.clip(following, 0, len(degrees) - 1)
                below = min(int(following), len(degrees) - 2)
                transitions[state, action, after + below] = below + 1 - following
                transitions[state, action, after + below + 1] = following - below
                discomfort = comfort * (temperature - 21.0) ** 2 if 3 <= period < 11 else 0.0
                rewards[state, action] = -PRICES[period] * action - discomfort
            terminated[state, :, :] = period == PERIODS - 1
    start = np.arange(states) == 3  # 18 degrees at midnight
    return Model(*map(jnp.asarray, (transitions, rewards, terminated, start.astype(float))))


_MODELS = {"auction": auction_model, "heating": heating_model}


def registered() -> list[str]:
    """The ids."""
    return [f"{PREFIX}{name}" for name in _MODELS]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make one by id; settings are the arguments of its model.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    if name not in registered():
        raise UsageError(f"There is no environment {name!r}: {suggest(name, registered())}")
    build = _MODELS[name.removeprefix(PREFIX)]
    known = list(build.__annotations__)[:-1]
    if unknown := [setting for setting in settings if setting not in known]:
        raise UsageError(f"{name} has no setting {unknown[0]!r}: {suggest(unknown[0], known)}")
    model: Model = build(**settings)
    return from_model(model, name).replace(recipe=((name, tuple(settings.items())),))
