"""How the policies of a run are evaluated: greedily or as they explore, and in which environment."""

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.envs import Box, Env, require, spaces
from rljax.errors import UsageError
from rljax.evaluation import Episodes, play
from rljax.types import Policy, RecurrentPolicy


class Evaluation(NamedTuple):
    """An evaluation of every run of a batch."""

    episodes: int  # of each run
    env: Any = None  # an `Env`; None for the one that the run trains in
    is_greedy: bool = True

    def episodes_of(self, key: jax.Array, algorithm: Any, state: Any, config: Any) -> Episodes:
        """What a run is judged by: episodes of its policy, or training itself if the algorithm has `judged`."""
        if is_judged_by_training(algorithm):
            training: Episodes = algorithm.judged(state, config)
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.episodes, *x.shape[1:])), training)
        env = config.env if self.env is None else self.env
        return play(key, env, self.policy(algorithm, state, config), self.episodes)

    def policy(self, algorithm: Any, state: Any, config: Any) -> Policy | RecurrentPolicy:
        """The policy to evaluate."""
        return algorithm.act(state, config) if self.is_greedy else algorithm.act(state, config, greedy=False)


def is_judged_by_training(algorithm: Any) -> bool:
    """True if an algorithm has `judged(state, config) -> Episodes`, training so far as one episode; bandits do."""
    return hasattr(algorithm, "judged")


def check(algorithm: Any, name: str, envs: Iterable[Env], eval_policy: str, eval_env: Any) -> None:
    """Raise a `UsageError` if the algorithm, or what it trains in, does not suit the evaluation."""
    if eval_policy == "stochastic" and "greedy" not in inspect.signature(algorithm.act).parameters:
        raise UsageError(
            f'{name} has no stochastic policy: leave eval_policy="greedy", or give its act() an argument greedy=True '
            "that may be False."
        )
    if is_judged_by_training(algorithm) and (eval_policy, eval_env) != ("greedy", None):
        raise UsageError(f"{name} is judged by what it gains in training: leave eval_policy and eval_env out.")
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
