"""How the policies of a run are evaluated: greedily or as they explore, and in which environment."""

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from rljax.envs import Box, Env, require, spaces
from rljax.errors import UsageError
from rljax.types import Policy, RecurrentPolicy


class Evaluation(NamedTuple):
    """An evaluation of every run of a batch."""

    episodes: int  # of each run
    env: Any = None  # an `Env`; None for the one that the run trains in
    is_greedy: bool = True

    def policy(self, algorithm: Any, state: Any, config: Any) -> Policy | RecurrentPolicy:
        """The policy to evaluate."""
        return algorithm.act(state, config) if self.is_greedy else algorithm.act(state, config, greedy=False)


def check(algorithm: Any, name: str, envs: Iterable[Env], eval_policy: str, eval_env: Any) -> None:
    """Raise a `UsageError` if the algorithm, or what it trains in, does not suit the evaluation."""
    if eval_policy == "stochastic" and "greedy" not in inspect.signature(algorithm.act).parameters:
        raise UsageError(
            f'{name} has no stochastic policy: leave eval_policy="greedy", or give its act() an argument greedy=True '
            "that may be False."
        )
    if eval_env is None:
        return
    require(eval_env)
    for env in envs:
        check_spaces(env, eval_env.observation_space, eval_env.action_space, f"eval_env {eval_env.label}")
        if eval_env.legal_actions is not None and env.legal_actions is None:
            raise UsageError(f"eval_env {eval_env.label} has legal_actions and {env.label} has none: give it some.")


def check_spaces(env: Env, observation_space: Any, action_space: Any, label: str) -> None:
    """Raise a `UsageError` if policies that were trained in `env` do not suit another environment's spaces."""
    for what, evaluated in (("observation_space", observation_space), ("action_space", action_space)):
        trained = getattr(env, what)
        if not _matches(trained, evaluated, bounds=what == "action_space"):
            raise UsageError(
                f"{label} needs the {what} of {env.label}, {spaces.text(trained)}, and has {spaces.text(evaluated)}: "
                "choose another one, or wrap it."
            )


def _matches(left: Any, right: Any, bounds: bool) -> bool:
    """True if a policy for one space serves the other: bounds of observations may differ."""

    def matches(left: Any, right: Any) -> bool:
        if isinstance(left, Box) and isinstance(right, Box) and not bounds:
            return left.shape == right.shape and left.dtype == right.dtype
        return bool(left == right)

    left, right = spaces.leaves_of(left), spaces.leaves_of(right)
    return spaces.alike(left, right) and all(map(matches, jax.tree.leaves(left), jax.tree.leaves(right)))
