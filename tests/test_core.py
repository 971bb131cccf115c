"""The loops: rollouts, minibatches, training in chunks, evaluation."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax import core, running_statistics
from rljax.types import Metrics


def test_minibatches_visit_every_sample_once_an_epoch():
    indices = np.asarray(core.minibatches(jax.random.key(0), 60, 4, 3))
    assert indices.shape == (12, 15)
    epochs = indices.reshape(3, 60)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(60), (3, 1)))
    assert (epochs[0] != epochs[1]).mean() > 0.8


def test_minibatches_are_uniform():
    """Where sample 0 lands, over many keys: chi-square over 8 places, and independent of where sample 1 lands."""
    from scipy import stats

    keys = jax.random.split(jax.random.key(0), 4000)
    order = np.asarray(jax.jit(jax.vmap(lambda key: core.minibatches(key, 8, 1, 1)[0]))(keys))
    place = np.argsort(order, axis=1)
    assert stats.chisquare(np.bincount(place[:, 0], minlength=8)).pvalue > 1e-3
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (place[:, 0], place[:, 1]), 1)
    assert stats.chisquare(pairs[~np.eye(8, dtype=bool)]).pvalue > 1e-3


def test_metrics_of_gradient_steps_are_means_or_extremes():
    rows = jnp.array([1.0, 2.0, 6.0])
    found = core.over_steps({"loss": rows, "action_value_min": rows, "action_value_max": rows})
    assert found == {"loss": 3.0, "action_value_min": 1.0, "action_value_max": 6.0}


def test_gradient_step_descends_and_reports_the_norm():
    import optax

    optimizer = optax.sgd(0.1)
    params = jnp.array([3.0, 4.0])
    stepped, _, aux, norm = core.gradient_step(
        lambda p, scale: (scale * 0.5 * jnp.sum(p**2), "aux"), params, optimizer, optimizer.init(params), 2.0
    )
    np.testing.assert_allclose(stepped, [2.4, 3.2], rtol=1e-6)
    assert float(norm) == pytest.approx(10.0)
    assert aux == "aux"


# --- training in chunks --------------------------------------------------------------------------------------------


class Branching(NamedTuple):
    """A state whose counter decides between two expensive branches."""

    weights: jax.Array
    step: jax.Array


def branching_init(key: jax.Array, config: Any) -> Branching:
    return Branching(jax.random.normal(key, (16, 16)), jnp.int32(0))


def branching_update(key: jax.Array, state: Branching, config: Any) -> tuple[Branching, Metrics]:
    noise = 0.01 * jax.random.normal(key, (16, 16))
    weights = jax.lax.cond(
        state.step % 3 == 2, lambda w: jnp.linalg.matrix_power(w, 5) / 1e3, lambda w: w + noise, state.weights
    )
    return Branching(weights, state.step + 1), {"sum": weights.sum(), "env_steps": state.step}


@rljax.config.config
class Seven:
    env: Any = rljax.traced(default=())
    scale: float = rljax.traced(default=1.0)

    @property
    def num_updates(self) -> int:
        return 7


def test_chunks_of_any_length_give_the_same_bits():
    key = jax.random.key(0)
    _, key_updates, _ = core.training_keys(key)
    whole, history = jax.jit(lambda key: core.train(branching_init, branching_update, key, Seven()))(key)

    @jax.jit
    def advance(state, first, count):
        return core.advance(branching_update, key_updates, state, Seven(), first, count, 4)

    state = jax.jit(branching_init)(core.training_keys(key)[0], Seven())
    rows = []
    for first, count in ((0, 3), (3, 1), (4, 3)):
        state, metrics = advance(state, first, count)
        rows.append(metrics["sum"][:count])
    np.testing.assert_array_equal(state.weights, whole.weights)
    np.testing.assert_array_equal(np.concatenate(rows), history["sum"])


def test_a_branch_on_the_step_counter_stays_a_branch_under_vmap():
    """A select would run both sides for every seed at every step."""
    keys = jax.random.split(jax.random.key(0), 4)

    def train(key, config):
        return core.train(branching_init, branching_update, key, config)

    program = jax.jit(jax.vmap(train, (0, None))).lower(keys, Seven()).compile().as_text()
    assert re.search(r"\bconditional\(", program)


class Learner(NamedTuple):
    params: Any
    moments: Any = running_statistics.init_moments()
    env_state: Any = ()


class Table(NamedTuple):
    table: Any


SPOILED = running_statistics.update_moments(running_statistics.init_moments(), jnp.array([1.0, np.nan]))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Learner({"w": jnp.ones(2), "count": jnp.int32(3)}), True),
        (Learner({"w": jnp.array([1.0, np.nan])}), False),
        (Learner({"w": jnp.array([1.0, -np.inf])}), False),
        (Learner(jnp.ones(1), moments=SPOILED), False),
        (Learner(jnp.ones(1), env_state=jnp.array(np.nan)), True),  # an environment may use NaN as a placeholder
        (Table(jnp.ones(2)), True),
        (Table(jnp.array([np.nan])), False),
        (Table(jnp.array([np.inf])), True),  # a custom algorithm may start a minimum at infinity
    ],
)
def test_finite_states(state, expected):
    assert core.finite(state) == expected


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
    assert core.finite_metrics({name: jnp.float32(value), "loss": jnp.float32(1.0)} | {name: value * jnp.ones(())}) == (
        not must_be_finite
    )
    assert core.finite_metrics({"critic": {name: jnp.float32(value)}, "updates": jnp.int32(1)}) == (not must_be_finite)
