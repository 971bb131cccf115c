"""Bandits: ids such as `bandits/bernoulli-10`, for any number of arms. No episode ends.

Every step reports three numbers, from which regret follows: `expected_reward`, the mean of the arm that was played;
`oracle_reward`, that of the best arm at that time; and `optimal`, 1 if both are the same arm. Where rewards follow no
distribution, in `adversarial` and in a table, the oracle is the best single arm in hindsight, and its reward in a step
is what this step adds to the largest total.

Unless its means are given, every reset draws a problem, so that seeds learn different ones.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.backend import random_bits
from rljax.envs.base import Bound, Env, TimeStep, check_param, timestep
from rljax.envs.spaces import Box, Discrete
from rljax.envs.suites.adapting import as_params
from rljax.errors import UsageError, number, shown, suggest

PREFIX = "bandits/"
INFO = {"expected_reward": "sum", "oracle_reward": "sum", "optimal": "mean"}


@as_params
class Bernoulli:
    """Rewards of 0 or 1; means `[A]`, or None for uniform ones between `low` and `high`."""

    means: Any = None
    low: float = 0.0
    high: float = 1.0


@as_params
class Gaussian:
    """Normal rewards; means `[A]`, or None for normal ones.

    The defaults are the ten-armed testbed of Sutton and Barto 2018, section 2.3.
    """

    means: Any = None
    mean: float = 0.0
    std: float = 1.0
    noise: float = 1.0


@as_params
class Drifting:
    """Normal rewards whose means start at 0 and take a normal step `walk` (Sutton and Barto 2018, exercise 2.5)."""

    walk: float = 0.01
    noise: float = 1.0


@as_params
class Abrupt:
    """Rewards of 0 or 1 whose means, uniform between `low` and `high`, are drawn anew every `period` steps."""

    period: int = 1000
    low: float = 0.0
    high: float = 1.0


@as_params
class Adversarial:
    """One arm pays 1 and the others 0. The arm changes after `period`, 3, 7, 15 ... times `period` steps.

    Each phase is as long as all before it and one period, so the last arm is nearly the best in hindsight, and who
    follows the leader pays for every change.
    """

    period: int = 100


@as_params
class Linear:
    r"""Normal rewards with the mean $\theta^T x_a$ for features $x_a$ of each arm, new ones in every step.

    The entries of $\theta$ and $x_a$ are normal with variances 1 and 1 / d. `theta` `[d]` is a given one.
    """

    theta: Any = None
    noise: float = 0.1


@as_params
class Table:
    """Rewards `[T, A]` in the order of their rows, which repeat."""

    rewards: Any = None


class State(NamedTuple):
    """The state of a bandit."""

    hidden: jax.Array  # what is drawn once and may drift: the means [A], or theta [d]
    means: jax.Array  # [A], of this step
    obs: jax.Array
    time: jax.Array  # [] int32, steps so far
    totals: Any  # [A], sums of all arms' rewards, if the oracle is the best arm in hindsight; else ()


class Kind(NamedTuple):
    """A kind of bandit; each function gets its params last."""

    params: type
    draw: Callable[..., jax.Array]  # (key, size, params) -> hidden [size]
    pay: Callable[..., jax.Array]  # (key, mean, params) -> reward []
    means: Callable[..., tuple[jax.Array, jax.Array]]  # (key, hidden, time, arms, params) -> means [A], obs
    move: Callable[..., jax.Array] | None = None  # (key, hidden, next time, params) -> hidden
    in_hindsight: bool = False
    is_contextual: bool = False


def _uniform_means(key: jax.Array, size: int, params: Any) -> jax.Array:
    means = getattr(params, "means", None)
    if means is not None:
        return jnp.asarray(means, jnp.float32)
    return params.low + (params.high - params.low) * jax.random.uniform(key, (size,), jnp.float32)


def _normal_means(key: jax.Array, size: int, params: Gaussian) -> jax.Array:
    if params.means is not None:
        return jnp.asarray(params.means, jnp.float32)
    return params.mean + params.std * jax.random.normal(key, (size,), jnp.float32)


def _theta(key: jax.Array, size: int, params: Linear) -> jax.Array:
    return (
        jax.random.normal(key, (size,), jnp.float32) if params.theta is None else jnp.asarray(params.theta, jnp.float32)
    )


def _nothing(key: jax.Array, size: int, params: Any) -> jax.Array:
    return jnp.zeros(size, jnp.float32)


def _coin(key: jax.Array, mean: jax.Array, params: Any) -> jax.Array:
    return (random_bits.uniforms(random_bits.word(key)) < mean).astype(jnp.float32)


def _normal(key: jax.Array, mean: jax.Array, params: Any) -> jax.Array:
    return mean + params.noise * jax.random.normal(key, (), jnp.float32)


def _exactly(key: jax.Array, mean: jax.Array, params: Any) -> jax.Array:
    return mean


def _as_drawn(key: jax.Array, hidden: jax.Array, time: jax.Array, arms: int, params: Any) -> Any:
    return hidden, jnp.int32(0)


def _of_features(key: jax.Array, hidden: jax.Array, time: jax.Array, arms: int, params: Any) -> Any:
    features = jax.random.normal(key, (arms, len(hidden)), jnp.float32) / math.sqrt(len(hidden))
    return jnp.sum(features * hidden, axis=-1), features


def _of_phase(key: jax.Array, hidden: jax.Array, time: jax.Array, arms: int, params: Adversarial) -> Any:
    periods = (time // jnp.asarray(params.period, jnp.int32)).astype(jnp.int32)
    phase = 31 - jax.lax.clz(periods + 1)  # the logarithm to base 2, rounded down
    return jax.nn.one_hot(phase % arms, arms, dtype=jnp.float32), jnp.int32(0)


def _of_row(key: jax.Array, hidden: jax.Array, time: jax.Array, arms: int, params: Table) -> Any:
    rewards = jnp.asarray(params.rewards, jnp.float32)
    return rewards[time % len(rewards)], jnp.int32(0)


def _walk(key: jax.Array, hidden: jax.Array, time: jax.Array, params: Drifting) -> jax.Array:
    return hidden + params.walk * jax.random.normal(key, hidden.shape, jnp.float32)


def _redraw(key: jax.Array, hidden: jax.Array, time: jax.Array, params: Abrupt) -> jax.Array:
    return jnp.where(time % params.period == 0, _uniform_means(key, len(hidden), params), hidden)


KINDS = {
    "bernoulli": Kind(Bernoulli, _uniform_means, _coin, _as_drawn),
    "gaussian": Kind(Gaussian, _normal_means, _normal, _as_drawn),
    "drifting": Kind(Drifting, _nothing, _normal, _as_drawn, move=_walk),
    "abrupt": Kind(Abrupt, _uniform_means, _coin, _as_drawn, move=_redraw),
    "adversarial": Kind(Adversarial, _nothing, _exactly, _of_phase, in_hindsight=True),
    "linear": Kind(Linear, _theta, _normal, _of_features, is_contextual=True),
    "table": Kind(Table, _nothing, _exactly, _of_row, in_hindsight=True),
}


def _reset(kind: str, arms: int, size: int, key: jax.Array, params: Any) -> tuple[jax.Array, State]:
    key_hidden, key_means = jax.random.split(key)
    one = KINDS[kind]
    hidden, time = one.draw(key_hidden, size, params), jnp.int32(0)
    means, obs = one.means(key_means, hidden, time, arms, params)
    return obs, State(hidden, means, obs, time, jnp.zeros(arms, jnp.float32) if one.in_hindsight else ())


def _step(
    kind: str, arms: int, size: int, key: jax.Array, state: State, action: jax.Array, params: Any
) -> tuple[TimeStep, State]:
    one = KINDS[kind]
    if one.move is None and not one.is_contextual:
        key_pay = key_move = key_means = key  # only one of them is used
    else:
        key_pay, key_move, key_means = jax.random.split(key, 3)
    expected, time = state.means[action], state.time + 1
    oracle, totals = state.means.max(), state.totals
    optimal = expected >= oracle
    if one.in_hindsight:
        totals = totals + state.means
        oracle = totals.max() - state.totals.max()
        optimal = action == jnp.argmax(totals)
    hidden = state.hidden if one.move is None else one.move(key_move, state.hidden, time, params)
    means, obs = one.means(key_means, hidden, time, arms, params)
    info = {"expected_reward": expected, "oracle_reward": oracle, "optimal": optimal}
    return timestep(obs, one.pay(key_pay, expected, params), False, info=info), State(hidden, means, obs, time, totals)


def _env(kind: str, arms: int, size: int, params: Any, name: str, settings: tuple[Any, ...] | None) -> Env:
    is_linear = KINDS[kind].is_contextual
    return Env(
        reset=Bound(_reset, (kind, arms, size)),
        step=Bound(_step, (kind, arms, size)),
        observation_space=Box(-np.inf, np.inf, (arms, size)) if is_linear else Discrete(1),
        action_space=Discrete(arms),
        params=params,
        name=name,
        info=INFO,
        recipe=(None if settings is None else (name, settings),),
        default_params=None if settings is None else KINDS[kind].params,
    )


def registered() -> list[str]:
    """The ids with ten arms; `make` takes any other number."""
    return [f"{PREFIX}{kind}-10" for kind in KINDS if kind != "table"]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make a bandit by id; settings are its params, and for a linear one its `dimension`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    kind, _, arms_text = name.removeprefix(PREFIX).partition("-")
    if kind not in KINDS or kind == "table" or not arms_text.isdecimal() or not 2 <= int(arms_text) <= 10**6:
        hint = suggest(name, registered())
        raise UsageError(f"There is no environment {name!r}, a kind and 2 arms or more: {hint}")
    arms = size = int(arms_text)
    cls, settings = KINDS[kind].params, dict(settings)
    constructor: tuple[Any, ...] = ()
    if kind == "linear":
        given = settings.get("theta")
        size = len(given) if given is not None else settings.pop("dimension", 5)
        size = number("dimension", size, integer=True, minimum=1, maximum=1000)
        constructor = (("dimension", size),)
    fields = {f.name: f.default for f in dataclasses.fields(cls)}
    for setting, value in settings.items():
        if setting not in fields:
            raise UsageError(f"{name} has no setting {setting!r}: {suggest(setting, list(fields))}")
        if setting in ("means", "theta"):
            settings[setting] = _vector(f"{setting} of {name}", value, size)
        else:
            check_param(f"{setting} of {name}", fields[setting], value)
            if setting == "period" and isinstance(value, int | float) and (value < 1 or value != int(value)):
                raise UsageError(f"period of {name} must be an integer of at least 1, got {shown(value)}.")
    vectors = tuple((key, tuple(value.tolist())) for key, value in settings.items() if isinstance(value, np.ndarray))
    params = cls(**settings)
    if kind == "bernoulli" and params.means is not None and not np.all((params.means >= 0) & (params.means <= 1)):
        raise UsageError(f"means of {name} must be probabilities, got {shown(params.means.tolist())}.")
    return _env(kind, arms, size, params, name, (*constructor, *vectors))


def _vector(what: str, value: Any, size: int) -> Any:
    if value is None or isinstance(value, jax.core.Tracer):
        return value
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        vector = np.zeros(0, np.float32)
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise UsageError(f"{what} must be {size} finite numbers, got {shown(value)}.")
    return vector


def from_table(rewards: Any, name: str = "bandits/table") -> Env:
    """Make a bandit of recorded or invented rewards `[T, A]`: row t has those of all arms in step t, and rows repeat.

    Raises:
        UsageError: it is not a table of finite numbers with two columns or more.
    """
    try:
        table = np.asarray(rewards, np.float32)
    except (TypeError, ValueError):
        table = np.zeros(0, np.float32)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise UsageError(f"A bandit's table must be finite rewards [T, A] of two arms or more, got {shown(rewards)}.")
    return _env("table", table.shape[1], table.shape[1], Table(table), name, None)
