"""An environment and an algorithm that compile quickly, for tests of what trains them."""

import contextlib
import inspect
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.key_reuse._core import check_key_reuse  # noqa: F401  (the public form would run the program)

import rljax
from rljax.experiment import loop
from rljax.types import Metrics, Policy


@contextlib.contextmanager
def optimized():
    """Compile fast programs, for tests that train for longer than they compile."""
    quick = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    rljax.configure_jax()
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", quick)


def same_bits(left, right):
    def data(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    left, right = (list(map(data, jax.tree.leaves(tree))) for tree in (left, right))
    pairs = zip(left, right, strict=True)
    return all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=jnp.issubdtype(b.dtype, jnp.inexact)) for a, b in pairs
    )


def same_structure(left, right):
    """True if a program compiled for one pytree serves the other: equal static parts with equal hashes."""
    left, right = jax.tree.structure(left), jax.tree.structure(right)
    return left == right and hash(left) == hash(right)


def changed_train(change):
    """A `loop.train` that first passes its arguments, by name, to `change`."""
    train = loop.train
    signature = inspect.signature(train)

    def changed(*arguments, **named):
        bound = signature.bind(*arguments, **named)
        change(bound.arguments)
        return train(*bound.args, **bound.kwargs)

    return changed


def in_chunks_of(most):
    """A `loop.train` whose chunks have at most this number of updates, so that one update a chunk needs no clock."""

    def cut(arguments):
        arguments["capacity"] = min(most, arguments["capacity"])

    return changed_train(cut)


class Slope(NamedTuple):
    height: float = 1.0
    steps: int = 3


def _reset(key, params):
    return jnp.zeros(1), jnp.int32(0)


def _step(key, time, action, params):
    reward = params.height * action + jax.random.uniform(key)
    return rljax.timestep(jnp.zeros(1), reward, time + 1 >= params.steps), time + 1


walk = rljax.Env(
    name="walk",
    reset=_reset,
    step=_step,
    params=Slope(),
    observation_space=rljax.Box(-1, 1, (1,)),
    action_space=rljax.Discrete(2),
)


class State(NamedTuple):
    params: jax.Array
    step: jax.Array


@rljax.config.config
class Config:
    env: rljax.Env = rljax.traced()
    num_updates: int = rljax.static(default=50)
    poison_at: int = rljax.traced(default=10**6)
    rate: float = rljax.traced(default=0.1, minimum=0)
    width: int = rljax.static(default=2, minimum=1)


def init(key: jax.Array, config: Config) -> State:
    return State(jax.random.normal(key, (config.width,)), jnp.int32(0))


def update(key: jax.Array, state: State, config: Config) -> tuple[State, Metrics]:
    # The poisoned runs are those whose first parameter is positive; some of them survive an update longer.
    bad = (state.step >= config.poison_at + (state.params[1] > 0)) & (state.params[0] > 0)
    moved = jnp.sign(state.params) * (jnp.abs(state.params) + config.rate * jax.random.uniform(key))
    params = jnp.where(bad, jnp.nan, moved)
    step = state.step + 1
    return State(params, step), {"env_steps": step * 10, "episode_return": jnp.abs(params).sum()}


def act(state: State, config: Config) -> Policy:
    # Better the further it has gone.
    return lambda key, obs: jnp.full(obs.shape[0], jnp.abs(state.params).sum(), jnp.float32)


own = SimpleNamespace(__name__="own", Config=Config, init=init, update=update, act=act)


def _game_reset(key, params):
    # From the first step on the time and the score so far are known, and so are all measures of an episode.
    return jnp.zeros(1), (jnp.int32(0), jax.random.randint(key, (), 1, params + 1))


def _game_step(key, state, action, params):
    time, length = state
    time = time + 1
    ends = time >= length
    # At any earlier step the outcome is a loss, which must not count.
    outcome = jnp.where(ends, jnp.sign(length - 2), -1)
    info = {"bumps": action, "speed": time, "distance": 10 * time, "outcome": outcome}
    return rljax.timestep(jnp.zeros(1), 1.0, ends, info=info), (time, length)


game = rljax.Env(
    name="game",
    reset=_game_reset,
    step=_game_step,
    params=3,  # episodes have 1 to 3 steps: a loss, a draw or a win
    observation_space=rljax.Box(-1, 1, (1,)),
    action_space=rljax.Discrete(5),
    info={"bumps": "sum", "speed": "mean", "distance": "last", "outcome": "last"},
)


def game_measures(lengths, action):
    """The measures of `game`'s episodes with these lengths `[n]`, under a constant action."""
    lengths = np.asarray(lengths, np.float64)
    return {
        "bumps": action * lengths,
        "speed": (lengths + 1) / 2,
        "distance": 10 * lengths,
        "win": lengths > 2,
        "draw": lengths == 2,
        "loss": lengths < 2,
    }
