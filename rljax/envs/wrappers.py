"""Wrappers: functions from an `Env` or an id to an `Env`. They compose, innermost first.

    env = normalize_observations(frame_stack(mask_observation("CartPole-v1", (0, 2)), 4))

Wrappers do not change `env.params`, so a sweep over `env.params.gravity` works through any of them.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep
from rljax.envs.masks import is_legal
from rljax.envs.registry import make
from rljax.envs.spaces import Space
from rljax.errors import UsageError, number

# Invalid orders: (outer, inner) -> why.
_REFUSED = {
    ("time_limit", "repeat_action"): "the limit that it replaces would still end repetitions",
    ("mask_observation", "frame_stack"): "the indices would point into the stack",
    ("grayscale", "frame_stack"): "the channels must be colours",
    ("mask_observation", "normalize_observations"): "statistics would include entries that the agent never sees",
    ("frame_stack", "normalize_observations"): "the statistics must be those of what the agent sees",
    ("flatten_observation", "normalize_observations"): "the statistics must be those of what the agent sees",
    ("repeat_action", "normalize_observations"): "the statistics must be those of what the agent sees",
    ("grayscale", "normalize_observations"): "the statistics must be those of what the agent sees",
    ("resize", "normalize_observations"): "the statistics must be those of what the agent sees",
    ("normalize_observations", "normalize_observations"): "normalising twice changes nothing",
    ("normalize_rewards", "normalize_rewards"): "there is only one discount",
    ("scale_reward", "normalize_rewards"): "normalising undoes the scale",
    ("shape_reward", "normalize_rewards"): "the shaping must be in the reward before its scale is measured",
    ("repeat_action", "normalize_rewards"): "the scale must be that of the summed rewards",
    ("clip_reward", "normalize_rewards"): "the rewards must be clipped before their scale is measured",
    ("clip_reward", "clip_reward"): "there is only one pair of bounds",
    ("scale_reward", "clip_reward"): "the bounds must be those of the scaled reward",
    ("shape_reward", "clip_reward"): "the bounds must be those of the shaped reward",
    ("repeat_action", "clip_reward"): "the bounds must be those of the summed rewards",
    ("repeat_action", "shape_reward"): "potentials must be those of what the agent sees, with its discount",
}

# Wrappers that end an episode, or step beyond its end, without the pool of an environment on the host.
_NOT_ON_HOST = {
    "time_limit": "make it with the setting max_episode_steps",
    "repeat_action": "repeat actions in the environment itself, as atari/ games do with frame_skip",
}


def add_wrapper(env: Env, name: str, *, nests: bool = False, **changes: Any) -> Env:
    """Change some fields and add the wrapper's name; raise `UsageError` if the order of wrappers is invalid.

    Some wrappers do not suit environments that reset themselves, and are refused, too.

    With `nests` the new states have the environment's as their field `inner`, of which actions are legal as before.
    """
    if env.resets_itself and name in _NOT_ON_HOST:
        raise UsageError(f"{name} does not suit {env.name}, which lives on the host: {_NOT_ON_HOST[name]}.")
    if nests and env.legal_actions is not None:
        changes["legal_actions"] = Bound(_inner_legal_actions, (env.legal_actions,))
    for inner in env.wrappers:
        why = _REFUSED.get((name, inner))
        if why is None:
            continue
        if inner == name:
            raise UsageError(f"{name} is applied twice, and {why}: apply it once, outermost.")
        raise UsageError(f"{name} cannot come after {inner}, since {why}: write {inner}({name}(env, ...)).")
    return env.replace(wrappers=(*env.wrappers, name), **changes)


def _inner_legal_actions(legal_actions: Callable, state: Any) -> Any:
    return legal_actions(state.inner)


WRAPPERS: dict[str, Callable[..., Env]] = {}
"""Wrappers by name."""


def recorded[**Arguments](
    wrapper: Callable[Concatenate[Env, Arguments], Env],
) -> Callable[Concatenate[Env | str, Arguments], Env]:
    """Make a wrapper accept an id as well as an `Env`, and record its arguments in `env.recipe`."""
    signature = inspect.signature(wrapper)
    _, *defaults = (parameter.default for parameter in signature.parameters.values())
    floats = {name for name, of in signature.parameters.items() if of.annotation in (float, float | None)}

    @functools.wraps(wrapper)
    def apply(env: Env | str, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Env:
        env = make(env)
        wrapped = wrapper(env, *args, **kwargs)
        bound = signature.bind(env, *args, **kwargs)
        bound.apply_defaults()
        # Convert to float, so that 2 and 2.0 give equal recipes, also in a file.
        _, *arguments = (
            float(value) if name in floats and value is not None else value for name, value in bound.arguments.items()
        )
        while arguments and arguments[-1] is None and defaults[len(arguments) - 1] is None:
            arguments.pop()  # it says nothing
        return wrapped.replace(recipe=(*env.recipe, (wrapper.__name__, _tuples(arguments))))

    WRAPPERS[wrapper.__name__] = apply
    return apply


def remake(recipe: Sequence[Sequence[Any]]) -> Env:
    """Make the environment of an `Env.recipe`, or of one read from JSON, where tuples became lists.

    Raises:
        UsageError: the recipe is invalid.
    """
    try:
        (name, settings), *wrappings = recipe
        env = make(str(name), **{str(setting): _tuples(value) for setting, value in settings})
        for wrapper, arguments in wrappings:
            env = WRAPPERS[wrapper](env, *_tuples(arguments))
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"Invalid environment recipe {recipe!r}: {error}.") from None
    return env


def _tuples(value: Any) -> Any:
    """Convert lists and arrays to tuples, which can be hashed and stored in a file."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = value.tolist()
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple | range) else value


class TimeLimitState(NamedTuple):
    inner: Any
    time: jax.Array  # [] int32, steps since the reset


@recorded
def time_limit(env: Env, max_steps: int) -> Env:
    """Truncate after `max_steps` steps, instead of the environment's built-in time limit."""
    max_steps = number("time_limit's max_steps", max_steps, integer=True, minimum=1, maximum=2**31 - 1)
    return add_wrapper(
        env,
        "time_limit",
        nests=True,
        reset=Bound(_time_limit_reset, (env.reset,)),
        step=Bound(_time_limit_step, (env.step, max_steps)),
    )


def _time_limit_reset(reset: Callable, key: jax.Array, params: Any) -> tuple[Any, TimeLimitState]:
    obs, state = reset(key, params)
    return obs, TimeLimitState(state, jnp.int32(0))


def _time_limit_step(
    step: Callable, max_steps: int, key: jax.Array, state: TimeLimitState, action: Any, params: Any
) -> tuple[TimeStep, TimeLimitState]:
    result, inner = step(key, state.inner, action, params)
    time = state.time + 1
    return result._replace(truncated=time >= max_steps), TimeLimitState(inner, time)


class StickyState(NamedTuple):
    inner: Any
    action: Any  # the last executed action
    started: jax.Array  # [] bool, false until the episode's first step


@recorded
def sticky_actions(env: Env, probability: float = 0.25) -> Env:
    """Repeat the previous action with some probability (Machado et al. 2018, section 5.2).

    An episode's first action is never replaced, and no action is repeated where it is illegal.
    """
    probability = number("sticky_actions' probability", probability, minimum=0, maximum=1)
    return add_wrapper(
        env,
        "sticky_actions",
        nests=True,
        reset=Bound(_sticky_reset, (env.reset, env.action_space)),
        step=Bound(_sticky_step, (env.step, float(probability), env.action_space, env.legal_actions)),
    )


def _sticky_reset(reset: Callable, space: Any, key: jax.Array, params: Any) -> tuple[Any, StickyState]:
    obs, state = reset(key, params)
    return obs, StickyState(state, jnp.zeros(space.shape, space.dtype), jnp.bool_(False))


def _sticky_step(
    step: Callable, probability: float, space: Space, legal_actions: Callable | None,
    key: jax.Array, state: StickyState, action: Any, params: Any,
) -> tuple[TimeStep, StickyState]:  # fmt: skip
    key_stick, key_step = jax.random.split(key)
    stick = state.started & jax.random.bernoulli(key_stick, probability)
    if legal_actions is not None:
        stick &= is_legal(space, legal_actions(state.inner), state.action)
    action = jnp.where(stick, state.action, action).astype(state.action.dtype)
    result, inner = step(key_step, state.inner, action, params)
    return result, StickyState(inner, action, jnp.bool_(True))


@recorded
def scale_reward(env: Env, factor: float) -> Env:
    """Multiply the reward by a constant; returns are then reported in the scaled unit."""
    factor = number("scale_reward's factor", factor)
    return add_wrapper(env, "scale_reward", step=Bound(_scale_reward_step, (env.step, float(factor))))


def _scale_reward_step(
    step: Callable, factor: float, key: jax.Array, state: Any, action: Any, params: Any
) -> tuple[TimeStep, Any]:
    result, state = step(key, state, action, params)
    return result._replace(reward=result.reward * factor), state


class ShapedState(NamedTuple):
    inner: Any
    potential: jax.Array  # [] float32, of the current observation


@recorded
def shape_reward(env: Env, potential: Callable[[Any], Any], discount: float) -> Env:
    """Add `discount * potential(next_obs) - potential(obs)` to the reward (Ng, Harada and Russell 1999, equation 2).

    The potential of a terminal state is zero, as the theorem requires; that of a truncated one is not. The optimal
    policy is unchanged if the learner uses the same discount.

    Args:
        env: the environment.
        potential: function from one observation to a scalar.
        discount: the learner's discount.
    """
    discount = number("shape_reward's discount", discount, minimum=0, maximum=1)
    return add_wrapper(
        env,
        "shape_reward",
        nests=True,
        reset=Bound(_shaped_reset, (env.reset, potential)),
        step=Bound(_shaped_step, (env.step, potential, float(discount))),
    )


def _shaped_reset(reset: Callable, potential: Callable, key: jax.Array, params: Any) -> tuple[Any, ShapedState]:
    obs, state = reset(key, params)
    return obs, ShapedState(state, jnp.float32(potential(obs)))


def _shaped_step(
    step: Callable, potential: Callable, discount: float, key: jax.Array, state: ShapedState, action: Any, params: Any
) -> tuple[TimeStep, ShapedState]:
    result, inner = step(key, state.inner, action, params)
    next_potential = jnp.where(result.terminated, 0.0, jnp.float32(potential(result.next_obs)))
    shaped = result._replace(reward=result.reward + discount * next_potential - state.potential)
    return shaped, ShapedState(inner, next_potential)


@recorded
def normalize_rewards(env: Env, discount: float = 0.99) -> Env:
    """Divide the learner's rewards by the running standard deviation of their discounted sum, clipped to [-10, 10].

    As in VecNormalize (Stable-Baselines), the mean is not subtracted. Reported returns are those of the raw rewards.
    """
    discount = number("normalize_rewards' discount", discount, minimum=0, maximum=1)
    return add_wrapper(env, "normalize_rewards", normalize_rewards=float(discount))


@recorded
def clip_reward(env: Env, low: float | None = -1.0, high: float | None = 1.0) -> Env:
    """Clip the learner's rewards to [low, high] (Mnih et al. 2015, Methods); None leaves a side without a bound.

    Reported returns, in training and in evaluation, are those of the raw rewards. `normalize_rewards` must come after
    it: it measures, and divides, the clipped rewards.

    Raises:
        UsageError: a bound is not a finite number, both are None, or `low` is not below `high`.
    """
    low = low if low is None else float(number("clip_reward's low", low))
    high = high if high is None else float(number("clip_reward's high", high))
    if low is None and high is None:
        raise UsageError("clip_reward needs a bound: give low, high or both.")
    if low is not None and high is not None and not low < high:
        raise UsageError(f"clip_reward's low must be below its high, got low={low} and high={high}.")
    return add_wrapper(env, "clip_reward", clip_reward=(low, high))
