"""Environments by id: `make`, the ids it knows, and the exact models of the tabular ones."""

from typing import Any

import jax

from rljax.envs import toy_text
from rljax.envs.base import Bound, Env
from rljax.envs.mdp import Model
from rljax.envs.suites import gymnax
from rljax.errors import UsageError


def make(env: Any, **settings: Any) -> Env:
    """An `Env` from a gymnax id, a gymnax environment object, or an `Env` (returned as it is).

    Args:
        env: an id that `rljax envs` lists, or an environment object with gymnax 1.0's `reset_env` and `step_env`.
        **settings: fields of the environment's params (`gravity=5.0`) or arguments of its constructor (`size=12`).

    Raises:
        UsageError: the id is unknown, a setting is, or data that the environment needs are not there.
    """
    if isinstance(env, Env):
        if settings:
            raise UsageError("make() takes settings with an id only: use env.replace(params=...) on an Env.")
        return env
    # An environment's own arrays are constants, also where make is called inside a traced function.
    with jax.ensure_compile_time_eval():
        if isinstance(env, str):
            toy_text.register()
            return gymnax.make(env, settings)
        # Asked of the class: gymnax's wrappers hand these two through to what they wrap, and would be passed by.
        if hasattr(type(env), "reset_env") and hasattr(type(env), "step_env"):
            return gymnax.from_object(env, settings)
    raise UsageError(
        f"make() takes an environment's id, a gymnax environment or an rljax.Env, got {type(env).__name__}."
    )


def registered() -> list[str]:
    """Every id that `make` knows: gymnax's own, our tabular worlds, and those added with `gymnax.register`."""
    toy_text.register()
    return gymnax.registered()


def tabular_model(env: Any) -> Model:
    """The exact model of FrozenLake, Taxi, CliffWalking, GridWorld or an `Env` made by `from_model`.

    Args:
        env: what `make` takes; without wrappers, since they change what the model would have to say.
    """
    env = make(env)
    if env.wrappers:
        raise UsageError(f"There is no table for a wrapped environment ({', '.join(env.wrappers)}): pass the bare one.")
    if isinstance(env.params, Model):
        return env.params
    environment = env.step.arguments[0] if isinstance(env.step, Bound) and env.step.arguments else None
    with jax.ensure_compile_time_eval():  # also where it is asked for inside a traced function
        model = toy_text.model(environment)
    if model is None:
        raise UsageError(f"There is no table for {env.name}: it has one if it was made by rljax.envs.from_model.")
    return model
