"""The environment interface: a record of pure functions."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs import measures
from rljax.envs.spaces import Box, Discrete, Leaf, MultiDiscrete, Space, by_path, leaves_of
from rljax.errors import UsageError, scalar, shown

TIME_LIMITS = ("max_steps_in_episode", "max_timesteps")  # params that truncate, by our name and by Craftax's


class TimeStep(NamedTuple):
    """The result of one step. `next_obs` is the true next observation; `obs` is the one the agent sees next.

    They differ only where an episode ended and the engine reset it: `obs` is then the next episode's first observation.
    """

    obs: Any
    next_obs: Any
    reward: jax.Array  # [] float32
    terminated: jax.Array  # [] bool, the task ended: no reward follows
    truncated: jax.Array  # [] bool, cut off by a time limit: the task itself has not ended
    info: dict[str, jax.Array] = {}  # noqa: RUF012 - never changed; [] float32 each, the numbers that `Env.info` declares


def check_param(name: str, before: Any, value: Any) -> None:
    """Raise a `UsageError` for what cannot replace a number in an environment's params; arrays are not checked."""
    least = 1 if any(limit in name for limit in TIME_LIMITS) else -math.inf
    given = scalar(value)
    if not isinstance(before, bool | int | float) or hasattr(given, "shape"):
        return
    is_flag = isinstance(given, bool) and not isinstance(before, bool)
    if is_flag or not isinstance(given, int | float) or not given >= least:  # as NaN is not
        bound = "" if least < 1 else " of at least 1"
        raise UsageError(f"{name} must be a number{bound}, got {shown(value)}.")
    if isinstance(given, int) and abs(given) >= 2**31:
        raise UsageError(f"{name} must be less than 2**31, got {shown(value)}: write larger numbers as floats.")


def timestep(
    obs: Any, reward: Any, terminated: Any, truncated: Any = False, info: Mapping[str, Any] | None = None
) -> TimeStep:
    """Build the `TimeStep` of an environment's `step`: both observations equal, dtypes as the engine expects them.

    Raises:
        UsageError: a reward, a flag or an entry of `info` is not a number.
    """
    given = {"reward": reward, "terminated": terminated, "truncated": truncated, **(info or {})}
    for name, value in given.items():
        if isinstance(value, str | None):
            raise UsageError(f"timestep() takes numbers, and {name} is {shown(value)}.")
    numbers = {name: jnp.float32(value) for name, value in (info or {}).items()}
    return TimeStep(obs, obs, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(truncated), numbers)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=[
        "reset",
        "step",
        "observation_space",
        "action_space",
        "name",
        "wrappers",
        "normalize_observations",
        "normalize_rewards",
        "clip_reward",
        "legal_actions",
        "num_frames",
        "info",
        "resets_itself",
        "recipe",
        "default_params",
        "render",
        "expensive",
    ],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Env:
    """An environment as a record of pure functions.

    A pytree whose leaves are those of `params`; all other fields are static and compared by value.

    Attributes:
        reset: `(key, params) -> (obs, state)`.
        step: `(key, state, action, params) -> (TimeStep, state)`, with no automatic reset: the engine does that.
        observation_space: a `Box`, `Discrete` or `MultiDiscrete`, or nested `Dict`s and `Tuple`s of them, whose
            observations are pytrees of dicts and tuples.
        action_space: a `Box`, `Discrete` or `MultiDiscrete`.
        params: parameters passed to `reset` and `step`; traced, so that they can be swept.
        name: shown in tables and files.
        wrappers: names of the wrappers applied, innermost first.
        normalize_observations: set by the wrapper of that name, for nested observations to the paths of the leaves that
            it normalises; the engine keeps the statistics.
        normalize_rewards: the discount of the wrapper of that name, or None.
        clip_reward: the bounds of the wrapper of that name, or None; the engine clips the learner's rewards only.
        legal_actions: which actions are legal, a function from a state of `reset` or `step` to bool `[A]`, or for a
            `MultiDiscrete` to a tuple of one `[nvec[i]]` for each part; None if all always are, see `envs.Masked`.
        num_frames: set by the wrapper frame_stack, if observations are stacks of this many; 1 if not.
        info: the numbers that every step reports in `TimeStep.info`, and how an episode's are reduced to one: a dict
            such as `{"collisions": "sum", "speed": "mean", "distance": "last"}`. Training metrics have their means over
            the episodes that ended, `episode_collisions`, and evaluations `collisions`. An `outcome` of 1, 0 or -1 at
            the last step becomes the fractions `win`, `draw` and `loss`.
        resets_itself: True for environments outside JAX, whose pools on the host begin the next episode themselves; see
            `rljax.envs.host`.
        recipe: how the environment was made, without its params: `((id, settings), (wrapper, arguments), ...)`; the
            first entry is None for a custom environment. Plain data unless a wrapper was given an object.
        default_params: returns the default params, which the label omits.
        render: `(state, params) -> uint8 [H, W, 3]`, the picture of one state as NumPy arrays, for `rljax.watch`; None
            for the library's renderer of this environment, or else text.
        expensive: declares that a reset costs about as much as a step, and both much more than the loop around them,
            as in a physics engine. The engine then draws no reset before an episode has ended, draws one for each
            environment at a time instead of eight, and compiles its loop without unrolling it. The episodes are the
            same as without it.
    """

    reset: Callable[[jax.Array, Any], tuple[Any, Any]]
    step: Callable[[jax.Array, Any, Any, Any], tuple[TimeStep, Any]]
    observation_space: Space
    action_space: Leaf
    params: Any = ()
    name: str = "custom"
    wrappers: tuple[str, ...] = ()
    normalize_observations: bool | tuple[str, ...] = False
    normalize_rewards: float | None = None
    clip_reward: tuple[float | None, float | None] | None = None
    legal_actions: Callable[[Any], Any] | None = None
    num_frames: int = 1
    info: Any = ()  # a dict, kept as a tuple of pairs
    resets_itself: bool = False
    recipe: tuple[tuple[str, tuple[Any, ...]] | None, ...] = (None,)
    default_params: Callable[[], Any] | None = None
    render: Callable[[Any, Any], Any] | None = None
    expensive: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", measures.declared(self.info))  # a tuple, which can be hashed

    def __repr__(self) -> str:
        return f"Env({'+'.join([self.name, *self.wrappers])})"  # not the label, since params may be traced

    @property
    def label(self) -> str:
        """Name, non-default params and wrappers: `CartPole-v1(gravity=5.0)+time_limit(50)`."""
        base, *wrappings = self.recipe
        settings = list(base[1]) if base else []
        if base and self.default_params is not None:
            defaults = vars(self.default_params())
            fields = [f.name for f in dataclasses.fields(self.params)]
            params = {x: getattr(self.params, x) for x in fields if x in defaults and x not in dict(settings)}
            settings += [(name, x) for name, x in params.items() if not np.array_equal(x, defaults[name])]
        shown = ", ".join(f"{setting}={_format(value)}" for setting, value in settings)
        calls = [f"{wrapper}({', '.join(map(_format, arguments))})" for wrapper, arguments in filter(None, wrappings)]
        return "+".join([f"{self.name}({shown})" if shown else self.name, *calls])

    def replace(self, **changes: Any) -> "Env":
        """A copy with some fields changed, for instance `env.replace(params=...)`."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its first arguments bound. Unlike `functools.partial`, it compares and hashes by value."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self, *rest: Any) -> Any:
        return self.function(*self.arguments, *rest)


def _format(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return f"{value:.6g}" if np.ndim(value) == 0 else str(np.asarray(value).tolist())
    return str(getattr(value, "__name__", value))


def is_data(value: Any) -> bool:
    """True if a value consists only of None, numbers, strings and tuples, so that a file can store it."""
    return (
        value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, tuple) and all(map(is_data, value)))
    )


def begin_next_episode(result: TimeStep, state: Any, fresh_obs: Any, fresh_state: Any) -> tuple[TimeStep, Any]:
    """Where an episode ended, replace the state and `obs` by those of a reset; `next_obs` is unchanged.

    Works on one environment or a batch: the shape of `terminated` leads that of every array in `result` and `state`.
    """
    ended = result.terminated | result.truncated

    def choose(fresh: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(ended.shape + (1,) * (old.ndim - ended.ndim)), fresh, old)

    obs, state = jax.tree.map(choose, (fresh_obs, fresh_state), (result.obs, state))
    return result._replace(obs=obs), state


def observation_shape(space: Space) -> tuple[int, ...]:
    """The shape of an observation as network input: one-hot if discrete, one vector if nested."""
    if isinstance(space, Discrete):
        return (space.n,)
    if isinstance(space, MultiDiscrete):
        return (sum(space.nvec),)
    if isinstance(space, Box):
        return space.shape
    leaves = by_path(leaves_of(space)).values()
    return (sum(int(np.prod(observation_shape(leaf))) for leaf in leaves),)


def as_features(space: Leaf, obs: jax.Array) -> jax.Array:
    """Observations `[..., *shape]` as network input: one-hot `[..., n]` if discrete, else cast to floats."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(space.index(obs.astype(jnp.int32)), space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        parts = [jax.nn.one_hot(obs[..., i], n, dtype=jnp.float32) for i, n in enumerate(space.nvec)]
        return jnp.concatenate(parts, axis=-1)
    return obs if jnp.issubdtype(obs.dtype, np.floating) else obs.astype(jnp.float32)
