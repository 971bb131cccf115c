"""Tabular models: a Markov decision process as arrays, the `Env` of a model, and random processes."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend import random_bits
from rljax.envs.base import Bound, Env, TimeStep, timestep
from rljax.envs.spaces import Discrete
from rljax.errors import UsageError, shown

_MOST_TRANSITIONS = 2**28  # of a random process: a gibibyte


class Model(NamedTuple):
    """A Markov decision process of S states and A actions."""

    transitions: jax.Array  # [S, A, S] probabilities of the next state
    rewards: jax.Array  # [S, A] expected rewards
    terminated: jax.Array  # [S, A, S] bool, transitions that end the episode
    start: jax.Array  # [S] probabilities of the first state


class TabularState(NamedTuple):
    state: jax.Array  # [] int32


class MaskedState(NamedTuple):
    inner: TabularState
    allowed: jax.Array  # [A] bool, actions that the model does not forbid


def from_model(model: Model, name: str = "tabular") -> Env:
    """Make an `Env` of a model: it observes the state, has no time limit, and its rewards are the expected ones.

    The model is the environment's `params`, so that training can be `vmap`ped over a stack of models. If it has rewards
    of -inf, which forbid actions, the other actions are the environment's `legal_actions`.

    Raises:
        UsageError: the model's shapes do not fit, or its probabilities are invalid.
    """
    if not isinstance(model, Model):
        raise UsageError(f"from_model needs an rljax.envs.Model, got {type(model).__name__}.")
    model = _checked(model)
    num_states, num_actions = model.rewards.shape
    rewards = model.rewards
    forbids = not isinstance(rewards, jax.core.Tracer) and bool(np.isneginf(rewards).any())
    return Env(
        reset=Bound(_masked_reset if forbids else _reset, ()),
        step=Bound(_masked_step if forbids else _step, ()),
        legal_actions=Bound(_allowed, ()) if forbids else None,
        observation_space=Discrete(num_states),
        action_space=Discrete(num_actions),
        params=model,
        name=name,
    )


def _checked(model: Model) -> Model:
    """Convert the model's fields to arrays; raise `UsageError` if it is invalid."""
    transitions, rewards, start = (jnp.asarray(x, jnp.result_type(float)) for x in (model[0], model[1], model[3]))
    model = Model(transitions, rewards, jnp.asarray(model.terminated, bool), start)
    check_model(model)
    return model


def check_model(model: Model) -> None:
    """Raise `UsageError` if shapes do not fit, or if probabilities or rewards are invalid; traced values may be any."""
    shape = jnp.shape(model.rewards)
    if len(shape) != 2 or 0 in shape:
        raise UsageError(f"A model's rewards must be a table [S, A], got shape {shape}.")
    states, actions = shape
    expected = {"transitions": (states, actions, states), "terminated": (states, actions, states), "start": (states,)}
    for name, expected_shape in expected.items():
        got = jnp.shape(getattr(model, name))
        if got != expected_shape:
            raise UsageError(f"A model with rewards {shape} needs {name} {expected_shape}, got {got}.")
    for name in ("transitions", "start"):
        x = getattr(model, name)
        if not isinstance(x, jax.core.Tracer) and not are_probabilities(x):
            raise UsageError(f"A model's {name} must be probabilities: not negative, and each row must sum to one.")
    if isinstance(model.rewards, jax.core.Tracer):
        return
    rewards = np.asarray(model.rewards)
    if np.isnan(rewards).any() or np.isposinf(rewards).any():
        raise UsageError("A model's rewards must be numbers below infinity; -inf forbids an action.")
    forbidden = np.isneginf(rewards).all(axis=1)
    if forbidden.any():
        raise UsageError(
            f"Every action is forbidden in state {forbidden.argmax()}: at least one reward must be finite."
        )


def are_probabilities(x: Any) -> bool:
    """True if every row `[..., n]` has no negative entry and sums to one."""
    x = np.asarray(x, np.float64)
    return bool(np.all(x >= 0) and np.allclose(x.sum(-1), 1.0, rtol=0, atol=1e-4))


def random_mdp(key: jax.Array, states: int, actions: int) -> Env:
    """Make a random process that never terminates; its model is `env.params`.

    Each row of transitions is uniform over the simplex, rewards are uniform in [0, 1), the start state is uniform.
    """
    for count, what in ((states, "state"), (actions, "action")):
        if not isinstance(count, int | np.integer) or count < 1:
            raise UsageError(f"random_mdp needs an integer number of {what}s of at least 1, got {shown(count)}.")
    if states**2 * actions > _MOST_TRANSITIONS:
        raise UsageError(f"random_mdp has {_MOST_TRANSITIONS:,} transitions at most: ask for fewer states or actions.")
    key_transitions, key_rewards = jax.random.split(key)
    model = Model(
        transitions=jax.random.dirichlet(key_transitions, jnp.ones(states), (states, actions)),
        rewards=jax.random.uniform(key_rewards, (states, actions)),
        terminated=jnp.zeros((states, actions, states), bool),
        start=jnp.full(states, 1.0 / states),
    )
    return from_model(model, "random_mdp")


class _CumulativeSums(NamedTuple):
    """Cumulative sums of S probabilities, in B blocks of B with B * B >= S."""

    block_ends: jax.Array  # [..., B] the last sum of each block
    within: jax.Array  # [..., B, B]


def _cumulative_sums(probabilities: jax.Array) -> _CumulativeSums:
    """Cumulative sums of `[..., S]`, for `_sample`.

    Computed for the whole table although a step needs one row: the table is constant, so the compiler hoists the
    computation out of the loop.
    """
    sums = jnp.cumsum(probabilities, axis=-1)
    # Rounding in a parallel sum may change it where the probability is zero, but that state must never be sampled.
    sums = jax.lax.cummax(jnp.where(probabilities > 0, sums, 0.0), axis=sums.ndim - 1)
    *shape, states = sums.shape
    size = math.isqrt(states - 1) + 1
    padding = [(0, 0)] * len(shape) + [(0, size**2 - states)]
    within = jnp.pad(sums, padding, mode="edge").reshape(*shape, size, size)
    return _CumulativeSums(within[..., -1], within)


def _sample(key: jax.Array, sums: _CumulativeSums, *row: jax.Array) -> jax.Array:
    """Sample an index by inverting a row of cumulative sums: first the block, then the position in it."""
    block_ends = sums.block_ends[row]
    threshold = random_bits.uniforms(random_bits.word(key)) * block_ends[-1]
    block = jnp.sum(block_ends <= threshold, dtype=jnp.int32)
    return block * len(block_ends) + jnp.sum(sums.within[*row, block] <= threshold, dtype=jnp.int32)


def _reset(key: jax.Array, model: Model) -> tuple[jax.Array, TabularState]:
    state = _sample(key, _cumulative_sums(model.start))
    return state, TabularState(state)


def _step(key: jax.Array, state: TabularState, action: jax.Array, model: Model) -> tuple[TimeStep, TabularState]:
    next_state = _sample(key, _cumulative_sums(model.transitions), state.state, action)
    reward, terminated = model.rewards[state.state, action], model.terminated[state.state, action, next_state]
    return timestep(next_state, reward, terminated), TabularState(next_state)


def _with_mask(state: TabularState, model: Model) -> MaskedState:
    return MaskedState(state, ~jnp.isneginf(model.rewards[state.state]))


def _masked_reset(key: jax.Array, model: Model) -> tuple[jax.Array, MaskedState]:
    obs, state = _reset(key, model)
    return obs, _with_mask(state, model)


def _masked_step(key: jax.Array, state: MaskedState, action: jax.Array, model: Model) -> tuple[TimeStep, MaskedState]:
    result, inner = _step(key, state.inner, action, model)
    return result, _with_mask(inner, model)


def _allowed(state: MaskedState) -> jax.Array:
    return state.allowed
