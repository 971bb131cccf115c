"""Evaluate the policies of a result again: more episodes, another policy or another environment."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax import evaluation
from rljax.envs import make
from rljax.errors import number
from rljax.experiment import evaluating, gymnasium, naming, policies
from rljax.report import console, statistics


class Assessment(NamedTuple):
    """Episodes of S seeds' policies."""

    seeds: np.ndarray
    """Their numbers, `[S]`."""
    returns: np.ndarray
    """Undiscounted returns, `[S, episodes]`; NaN for an episode that had not ended after 100,000 steps."""
    measures: dict[str, np.ndarray]
    """Other measures of the episodes, `[S, episodes]` each: `length`, and what the environment's info declares."""
    label: str
    """Which policies, and where; of a sweep also which configuration."""

    @property
    def summary(self) -> dict[str, Any]:
        """Statistics over the seeds' mean returns: `iqm`, `ci95`, and the others of `summary.json`."""
        return statistics.summarize(self.returns.mean(axis=1))


def assess(
    result: Any,
    episodes: int,
    policy: str,
    env: Any,
    gymnasium_id: str | None,
    seeds: Sequence[int] | None,
    checkpoint: str | int,
    key: int,
) -> Assessment:
    """Evaluate policies of a `Result`; see its `evaluate`."""
    episodes = number("episodes", episodes, integer=True, minimum=1, maximum=1_000_000)
    key = number("key", key, integer=True, minimum=0, maximum=2**32 - 1)
    policies.check(result.algorithm, policy)
    algorithm, config = result.algorithm, result.config
    where = config.env if env is None else make(env)
    if env is not None:
        evaluating.check(algorithm, naming.name_of(algorithm), [config.env], policy, where)
    chosen = result.seeds.tolist() if seeds is None else list(seeds)
    rows = [(result.row(seed), checkpoint) for seed in chosen]
    evaluated = evaluating.Evaluation(episodes, where, policy == "greedy")
    label = f"{naming.name_of(algorithm)} in {where.label if gymnasium_id is None else gymnasium_id}, {policy}"
    if swept := console.configuration(result.summary):
        label += f", {swept}"
    if gymnasium_id is not None:
        gymnasium.made(gymnasium_id, config.env).close()
        states = policies.side_by_side(result, rows, lambda state: state)
        each = [
            gymnasium.play(
                jax.random.key(key),
                gymnasium_id,
                config.env,
                evaluated.policy(algorithm, jax.tree.map(lambda x, i=i: x[i], states), config),
                episodes,
            )
            for i in range(len(rows))
        ]
        returns = np.stack([returns for returns, _ in each])
        measures = {name: np.stack([found[name] for _, found in each]) for name in each[0][1]}
        return Assessment(np.array(chosen), returns, measures, f"{label}, in Gymnasium")

    def play(state: Any) -> evaluation.Episodes:
        return evaluation.play(jax.random.key(key), where, evaluated.policy(algorithm, state, config), episodes)

    played = policies.side_by_side(result, rows, play)
    returns = np.where(played.ended, played.returns, np.nan)
    return Assessment(np.array(chosen), returns, dict(played.measures), label)
