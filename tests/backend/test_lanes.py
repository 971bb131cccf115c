"""Which runs have diverged: by parameters, states, running statistics and metrics."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from rljax import running_statistics
from rljax.backend import lanes


class State(NamedTuple):
    params: Any
    moments: Any = running_statistics.init_moments()
    env_state: Any = ()


class Table(NamedTuple):
    table: Any


SPOILED = running_statistics.update_moments(running_statistics.init_moments(), jnp.array([1.0, np.nan]))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State({"w": jnp.ones(2), "count": jnp.int32(3)}), True),
        (State({"w": jnp.array([1.0, np.nan])}), False),
        (State({"w": jnp.array([1.0, -np.inf])}), False),
        (State(jnp.ones(1), moments=SPOILED), False),
        (State(jnp.ones(1), env_state=jnp.array(np.nan)), True),  # an environment may use NaN as a placeholder
        (Table(jnp.ones(2)), True),
        (Table(jnp.array([np.nan])), False),
        (Table(jnp.array([np.inf])), True),  # a custom algorithm may start a minimum at infinity
    ],
)
def test_finite_states(state, expected):
    assert lanes.finite(state) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "must_be_finite"),
    [
        ("loss", True), ("policy_loss", True), ("gradient_norm", True), ("grad_norm", True), ("td_error", True),
        ("action_value", True), ("target", True), ("Loss/critic", True), ("episode_return", False),
        ("episode_length", False), ("explained_variance", False), ("success_rate", False), ("glossary", False),
    ],
)  # fmt: skip
def test_finite_metrics(name, must_be_finite, value):
    assert lanes.finite_metrics(
        {name: jnp.float32(value), "loss": jnp.float32(1.0)} | {name: value * jnp.ones(())}
    ) == (not must_be_finite)
    assert lanes.finite_metrics({"critic": {name: jnp.float32(value)}, "updates": jnp.int32(1)}) == (not must_be_finite)
