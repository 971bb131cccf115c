"""Scores that can be averaged over environments: 0 is a random policy's return, 1 is a reference's."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.envs import Env
from rljax.errors import UsageError, suggest
from rljax.experiment import remote
from rljax.report import statistics
from rljax.report.known_returns import ATARI, REFERENCES
from rljax.report.runs import Entry

_EPISODES = 500  # of the random policy
_MAX_STEPS = 10_000  # of one of them
_ATARI = re.compile(r"^(?:(?:ALE|atari|jaxatari)/)(\w+?)(?:-v\d+)?$|^(\w+?)(?:NoFrameskip|Deterministic)?-v[045]$")


def random_return(env: Env) -> float:
    """Mean return of 500 episodes of uniformly random, legal actions."""
    import jax

    return float(np.mean(random_returns(env, jax.random.key(0))))


def random_returns(env: Env, key: Any) -> np.ndarray:
    """Returns of 500 episodes of uniformly random, legal actions, `[500]`."""
    import jax

    from rljax.envs import heuristics
    from rljax.evaluation import play

    policy = heuristics.random(env)
    played = jax.jit(lambda key: play(key, env, policy, _EPISODES, _MAX_STEPS).returns)(key)
    return np.asarray(played)


def human(env: str) -> tuple[float, float] | None:
    """Returns of a random policy and of a human in a game of Atari; None for another environment."""
    found = _ATARI.match(env)
    name = "" if found is None else (found[1] or found[2])
    return ATARI.get(name.replace("_", "").lower())


class Scores(NamedTuple):
    """Normalised scores of M methods in K environments."""

    envs: list[str]
    scales: list[tuple[float, float]]
    """The returns that count as 0 and as 1."""
    methods: list[str]
    tasks: list[list[np.ndarray]]
    """`[M][K]` of `[S]` finite scores each; a method has equally many in all environments."""
    left_out: list[str]
    """Methods without a run in every environment."""


def normalised(entries: Sequence[Entry], randoms: Mapping[str, float], references: Mapping[str, float]) -> Scores:
    """The scores of all methods that were run in every environment.

    Args:
        entries: the runs.
        randoms: the random policy's return in each environment, where it is known.
        references: returns that count as 1, before those of `REFERENCES` and of humans.

    Raises:
        UsageError: an environment has no scale, or a method has two runs in one environment.
    """
    envs = list(dict.fromkeys(entry.env for entry in entries))
    for env in references:
        if env not in envs:
            raise UsageError(f"No run is in {env}, which has a reference: {suggest(env, envs)}")
    scales = [_scale(env, randoms, references) for env in envs]
    methods = list(dict.fromkeys(entry.method for entry in entries))
    complete, tasks, left_out = [], [], []
    for method in methods:
        found = []
        for env, (zero, one) in zip(envs, scales, strict=True):
            runs = [entry for entry in entries if entry.method == method and entry.env == env]
            if len(runs) > 1:
                raise UsageError(
                    f"{runs[0].label} and {runs[1].label} are both {method} in {env}: name what belongs together, "
                    f"such as a={remote.named(runs[0].folder)} b={remote.named(runs[1].folder)}."
                )
            found += [(run.final[np.isfinite(run.final)] - zero) / (one - zero) for run in runs]
        size = min(map(len, found), default=0)
        if len(found) < len(envs) or not size:
            left_out.append(method)
            continue
        complete.append(method)
        tasks.append([scores[:size] for scores in found])
    return Scores(envs, scales, complete, tasks, left_out)


def _scale(env: str, randoms: Mapping[str, float], references: Mapping[str, float]) -> tuple[float, float]:
    published = human(env)
    name = env.partition("(")[0].strip()
    one = references.get(env, REFERENCES.get(name) if published is None else published[1])
    zero = randoms.get(env, None if published is None else published[0])
    if one is None:
        raise UsageError(
            f"The return that counts as 1 in {env} is not known: pass it as --reference {env!r}=RETURN, "
            'or references={"' + env + '": RETURN} in Python.'
        )
    if zero is None:
        raise UsageError(
            f"The return of a random policy in {env} is not known, since it is a custom environment: name its code "
            "again with --env custom.py:env, or pass --trust."
        )
    if one == zero:
        raise UsageError(f"A random policy already has the reference's return in {env}, {one}: pass another reference.")
    return zero, one


def aggregate(scores: Scores) -> list[tuple[float, tuple[float, float]]]:
    """Each method's interquartile mean over all its runs in all environments, and its stratified 95% interval."""
    return [statistics.stratified(tasks) for tasks in scores.tasks]


def improvement(tasks: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Mean over environments of the probability that the first method improves on the second (Agarwal et al. 2021)."""
    pairs = zip(tasks, others, strict=True)
    return float(np.mean([statistics.probability_of_improvement(a, b) for a, b in pairs]))
