"""Tabular models: a decision process as arrays, an `Env` made of one, and random ones to learn on."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend import random_bits
from rljax.envs.base import Bound, Env, TimeStep, timestep
from rljax.envs.spaces import Discrete
from rljax.errors import UsageError


class Model(NamedTuple):
    """A Markov decision process of S states and A actions."""

    transitions: jax.Array  # [S, A, S] probabilities of the next state
    rewards: jax.Array  # [S, A] expected rewards
    terminated: jax.Array  # [S, A, S] bool, transitions that end the episode
    start: jax.Array  # [S] probabilities of the first state


class TabularState(NamedTuple):
    state: jax.Array  # [] int32


def from_model(model: Model, name: str = "tabular") -> Env:
    """An `Env` that a model describes: it observes its state, has no time limit, and pays expected rewards.

    The model is the environment's `params`, so that training can be `vmap`ped over a stack of models.
    """
    if not isinstance(model, Model):
        raise UsageError(f"from_model needs an rljax.envs.Model, got {type(model).__name__}.")
    model = _checked(model)
    num_states, num_actions = model.rewards.shape
    return Env(
        reset=Bound(_reset, ()),
        step=Bound(_step, ()),
        observation_space=Discrete(num_states),
        action_space=Discrete(num_actions),
        params=model,
        name=name,
    )


def _checked(model: Model) -> Model:
    """The model as arrays of the right kind; a `UsageError` where shapes or probabilities do not fit."""
    transitions, rewards, start = (jnp.asarray(x, jnp.result_type(float)) for x in (model[0], model[1], model[3]))
    terminated = jnp.asarray(model.terminated, bool)
    if rewards.ndim != 2:
        raise UsageError(f"A model's rewards are a table [S, A], got shape {rewards.shape}.")
    states, actions = rewards.shape
    wanted = {"transitions": (states, actions, states), "terminated": (states, actions, states), "start": (states,)}
    for name, x in (("transitions", transitions), ("terminated", terminated), ("start", start)):
        if x.shape != wanted[name]:
            raise UsageError(f"A model with rewards {rewards.shape} has {name} {wanted[name]}, got {x.shape}.")
    for name, x in (("transitions", transitions), ("start", start)):
        if not isinstance(x, jax.core.Tracer) and not (
            bool(jnp.all(x >= 0)) and jnp.allclose(x.sum(-1), 1.0, atol=1e-4)
        ):
            raise UsageError(f"A model's {name} are probabilities: none negative, each row adding up to one.")
    return Model(transitions, rewards, terminated, start)


def random_mdp(key: jax.Array, states: int, actions: int) -> Env:
    """A random process without an end; its model is `env.params`.

    Every row of transitions is uniform over the simplex, every reward uniform in [0, 1), every start equally likely.
    """
    for count, what in ((states, "state"), (actions, "action")):
        if not isinstance(count, int | np.integer) or count < 1:
            raise UsageError(f"random_mdp needs a whole number of at least one {what}, got {count!r}.")
    key_transitions, key_rewards = jax.random.split(key)
    model = Model(
        transitions=jax.random.dirichlet(key_transitions, jnp.ones(states), (states, actions)),
        rewards=jax.random.uniform(key_rewards, (states, actions)),
        terminated=jnp.zeros((states, actions, states), bool),
        start=jnp.full(states, 1.0 / states),
    )
    return from_model(model, "random_mdp")


class _Sums(NamedTuple):
    """Sums of S probabilities up to each, in B blocks of B with B * B at least S."""

    of_blocks: jax.Array  # [..., B] up to the end of each block
    within: jax.Array  # [..., B, B]


def _sums(probabilities: jax.Array) -> _Sums:
    """Of `[..., S]`, for `_draw`.

    Taken of whole tables, though a step needs one row: a table is the same at every step, so the compiler takes its
    sums out of the loop.
    """
    sums = jnp.cumsum(probabilities, axis=-1)
    # Where the probability is zero a parallel sum may still move, by rounding: such a state is never to be drawn.
    sums = jax.lax.cummax(jnp.where(probabilities > 0, sums, 0.0), axis=sums.ndim - 1)
    *shape, states = sums.shape
    size = math.isqrt(states - 1) + 1
    padding = [(0, 0)] * len(shape) + [(0, size**2 - states)]
    within = jnp.pad(sums, padding, mode="edge").reshape(*shape, size, size)
    return _Sums(within[..., -1], within)


def _draw(key: jax.Array, sums: _Sums, *row: jax.Array) -> jax.Array:
    """The index of a draw by the inverse of a row of sums: first the block, then the place in it."""
    of_blocks = sums.of_blocks[row]
    below = random_bits.uniforms(random_bits.word(key)) * of_blocks[-1]
    block = jnp.sum(of_blocks <= below, dtype=jnp.int32)
    return block * len(of_blocks) + jnp.sum(sums.within[*row, block] <= below, dtype=jnp.int32)


def _reset(key: jax.Array, model: Model) -> tuple[jax.Array, TabularState]:
    state = _draw(key, _sums(model.start))
    return state, TabularState(state)


def _step(key: jax.Array, state: TabularState, action: jax.Array, model: Model) -> tuple[TimeStep, TabularState]:
    following = _draw(key, _sums(model.transitions), state.state, action)
    reward, terminated = model.rewards[state.state, action], model.terminated[state.state, action, following]
    return timestep(following, reward, terminated), TabularState(following)
