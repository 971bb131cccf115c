"""Environments by id: `make`, its registered ids, and the exact models of the tabular ones."""

import importlib
import importlib.util
from typing import Any

import jax

from rljax.envs import checker
from rljax.envs.base import Bound, Env
from rljax.envs.mdp import Model
from rljax.envs.suites import gymnax
from rljax.errors import UsageError

# Suites by the prefix of their ids, which is also the name of the extra that installs the package: the module, and the
# package that it imports, None if it is our own.
_SUITES: dict[str, tuple[str, str | None]] = {
    "bandits": ("rljax.envs.suites.bandits", None),
    "brax": ("rljax.envs.suites.brax", "brax"),
    "octax": ("rljax.envs.suites.octax", "octax"),
    "operations": ("rljax.envs.operations", None),
    "navix": ("rljax.envs.suites.navix", "navix"),
    "xminigrid": ("rljax.envs.suites.xminigrid", "xminigrid"),
    "pgx": ("rljax.envs.suites.pgx", "pgx"),
    "craftax": ("rljax.envs.suites.craftax", "craftax"),
    "jumanji": ("rljax.envs.suites.jumanji", "jumanji"),
    "recommender": ("rljax.envs.recommender", None),
    "playground": ("rljax.envs.suites.playground", "mujoco_playground"),
    "gymnasium": ("rljax.envs.suites.gymnasium", "gymnasium"),
    "atari": ("rljax.envs.suites.atari", "ale_py"),
}


def make(env: Any, **settings: Any) -> Env:
    """Make an `Env` from an id or a gymnax environment object; an `Env` is returned unchanged.

    Args:
        env: an id listed by `rljax envs`, or an environment object with gymnax 1.0's `reset_env` and `step_env`.
        **settings: fields of the environment's params (`gravity=5.0`) or arguments of its constructor (`size=12`).

    Raises:
        UsageError: the id or a setting is unknown, the environment's data files are missing, or a space is not
            supported.
    """
    if isinstance(env, Env):
        if settings:
            raise UsageError("make() takes no settings for an Env: use env.replace(params=...).")
        violation = checker.space_violation(env)
        if violation:
            raise UsageError(f"{env.name}: {violation}")
        return env
    # The environment's arrays must be constants even if make is called inside a traced function, and have 32 bits.
    with jax.ensure_compile_time_eval(), jax.enable_x64(False):
        if isinstance(env, str):
            suite = _suite_of(env)
            if suite is not None:
                return suite.make(env, settings)
            _register()
            return gymnax.make(env, settings)
        # Look on the class: gymnax's wrappers forward attributes of what they wrap, and would be bypassed.
        if hasattr(type(env), "reset_env") and hasattr(type(env), "step_env"):
            return gymnax.from_object(env, settings)
    raise UsageError(
        f"make() takes an environment's id, a gymnax environment or an rljax.Env, got {type(env).__name__}."
    )


def registered() -> list[str]:
    """The ids that `make` accepts.

    They are gymnax's and those added with `gymnax.register`, our tabular ones and bandits, and those of the installed
    suites.
    """
    _register()
    installed = [_module(prefix) for prefix, (_, package) in _SUITES.items() if _is_installed(package)]
    return [*gymnax.registered(), *(name for suite in installed for name in suite.registered())]


def _suite_of(name: str) -> Any:
    """The module of `suites/` that makes an id such as `brax/ant`; None if it is none of theirs."""
    prefix, slash, _ = name.partition("/")
    if not slash or prefix not in _SUITES:
        return None
    _, package = _SUITES[prefix]
    if not _is_installed(package):
        raise UsageError(f"{name} needs the package {package}: pip install 'rljax-engine[{prefix}]'.")
    return _module(prefix)


def _module(prefix: str) -> Any:
    return importlib.import_module(_SUITES[prefix][0])


def _is_installed(package: str | None) -> bool:
    return package is None or importlib.util.find_spec(package) is not None


def _register() -> None:
    from rljax.envs import toy_text  # imports gymnax, so only when it is needed

    toy_text.register()


def tabular_model(env: Any) -> Model:
    """The exact model of FrozenLake, Taxi, CliffWalking, GridWorld, `operations/` or an `Env` made by `from_model`.

    Args:
        env: any argument of `make`, without wrappers.

    Raises:
        UsageError: the environment is wrapped or has no tabular model.
    """
    env = make(env)
    if env.wrappers:
        raise UsageError(f"A wrapped environment ({', '.join(env.wrappers)}) has no tabular model: unwrap it.")
    if isinstance(env.params, Model):
        return env.params
    environment = env.step.arguments[0] if isinstance(env.step, Bound) and env.step.arguments else None
    model = model_of_world(environment)
    if model is None:
        raise UsageError(f"{env.name} has no tabular model: rljax.envs.from_model makes an environment that has one.")
    return model


def model_of_world(world: Any) -> Model | None:
    """The exact model of a gymnax environment object, or None if it has none."""
    from rljax.envs import toy_text

    with jax.ensure_compile_time_eval():  # constant arrays even inside a traced function
        return toy_text.model(world)
