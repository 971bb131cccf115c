"""What is inside wrappers: the innermost state, and the suite's object that an environment was made from."""

from typing import Any

from rljax.envs.base import Bound, Env
from rljax.envs.mdp import MaskedState, Model
from rljax.envs.observations import StackState
from rljax.envs.preprocessing import MaximumState
from rljax.envs.spaces import Discrete
from rljax.envs.wrappers import ShapedState, StickyState, TimeLimitState

_NESTING = (MaskedState, MaximumState, ShapedState, StackState, StickyState, TimeLimitState)

_SAME_PROCESS = ("time_limit", "normalize_rewards")  # wrappers under which an environment's model still holds


def innermost_state(state: Any) -> Any:
    """The environment's own state in that of its wrappers, or itself."""
    while isinstance(state, _NESTING):
        state = state.inner
    return state


def world_of(env: Env) -> Any:
    """The gymnax object that an environment was made from; None if it was made from functions."""
    from rljax.envs.suites import gymnax

    step: Any = env.step
    while isinstance(step, Bound) and step.arguments:
        if step.function is gymnax._step:
            return step.arguments[0]
        step = step.arguments[0]  # wrappers bind the step that they wrap first
    return None


def model_of(env: Env) -> Model | None:
    """The exact model of an environment that observes its states, or None if it has none or a wrapper changes it."""
    from rljax.envs import registry

    model = env.params if isinstance(env.params, Model) else None
    if not isinstance(env.observation_space, Discrete) or set(env.wrappers) - set(_SAME_PROCESS):
        return None
    if model is None and (world := world_of(env)) is not None:
        model = registry.model_of_world(world)
    return model
