"""Animate the policies of a run, and map them where the environment has an exact model; see `Result.watch`."""

import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import evaluation
from rljax.envs import Model
from rljax.envs.masks import Masked
from rljax.envs.unwrapping import innermost_state, model_of
from rljax.errors import UsageError, number
from rljax.experiment import policies
from rljax.experiment.evaluating import Evaluation
from rljax.report import animation, maps
from rljax.report import episodes as recorded
from rljax.report.animation import Animation
from rljax.report.episodes import Played
from rljax.types import RecurrentPolicy

MOST_PANELS = 16
_SEEDS, _POINTS = 4, 6  # by default


class Watched(NamedTuple):
    """One of the policies side by side."""

    seed: int
    row: int  # of the seed in the result
    checkpoint: str | int


def watch(
    result: Any,
    out: str | os.PathLike[str] | None,
    seeds: int | Sequence[int] | None,
    checkpoints: str | int | Sequence[str | int] | None,
    episodes: int,
    max_steps: int,
    fps: int,
    policy: str,
) -> Animation:
    """Animate policies of a `Result`; see its `watch`."""
    path = None if out is None else animation.checked_path(out)
    fps = number("fps", fps, integer=True, minimum=1, maximum=50)
    whole = recorded.animate(played(result, seeds, checkpoints, episodes, max_steps, policy), fps)
    if path is not None:
        whole.save(path)
    return whole


def played(
    result: Any,
    seeds: int | Sequence[int] | None,
    checkpoints: str | int | Sequence[str | int] | None = None,
    episodes: int = 1,
    max_steps: int = 500,
    policy: str = "greedy",
) -> list[Played]:
    """Play policies of a `Result`, and keep every step; the arguments are those of its `watch`."""
    episodes = number("episodes", episodes, integer=True, minimum=1, maximum=100)
    max_steps = number("max_steps", max_steps, integer=True, minimum=1, maximum=evaluation.MAX_STEPS)
    policies.check(result.algorithm, policy)
    watched = _watched(result, seeds, checkpoints)
    recordings = _recordings(result, watched, Evaluation(episodes, None, policy == "greedy"), max_steps)
    env = result.config.env
    return [
        Played(_title(result, one), env, recorded.split(recording))
        for one, recording in zip(watched, recordings, strict=True)
    ]


def _watched(result: Any, seeds: Any, checkpoints: Any) -> list[Watched]:
    """The policies to watch: every checkpoint of every seed."""
    if seeds is None:
        chosen = result.seeds[:_SEEDS].tolist()
    else:
        chosen = list(seeds) if isinstance(seeds, list | tuple | range | np.ndarray) else [seeds]
    rows = [result.row(seed) for seed in chosen]
    kept = sorted({int(update) for one in result.kept for update in one.updates[rows]})
    if checkpoints is None:
        checkpoints = "all" if len(chosen) == 1 and len(result.kept) > 1 else "last"
    if checkpoints == "all":
        if not kept:
            raise UsageError('Only the final policies were kept: train with keep="all" (--keep all).')
        points: list[str | int] = [
            kept[i] for i in np.unique(np.linspace(0, len(kept) - 1, _POINTS).round().astype(int))
        ]
    else:
        points = list(checkpoints) if isinstance(checkpoints, list | tuple | range) else [checkpoints]
    count = len(chosen) * len(points)
    if not 1 <= count <= MOST_PANELS:
        raise UsageError(f"An animation shows 1 to {MOST_PANELS} policies, and these are {count}: choose other seeds.")
    for row, point in itertools.product(rows, points):
        if point != "last":
            result.kept_at(row, point)
    return [Watched(int(seed), row, point) for seed, row in zip(chosen, rows, strict=True) for point in points]


def _recordings(result: Any, watched: list[Watched], evaluated: Evaluation, max_steps: int) -> list[Any]:
    """A recording of each policy, all from the same key; computed side by side by one program."""
    algorithm, config = result.algorithm, result.config

    def record(state: Any) -> evaluation.Recording:
        policy = evaluated.policy(algorithm, state, config)
        recording = evaluation.record(jax.random.key(0), config.env, policy, evaluated.episodes, max_steps)
        return recording._replace(states=innermost_state(recording.states))

    together = policies.side_by_side(result, [(one.row, one.checkpoint) for one in watched], record)
    return [jax.tree.map(lambda x, i=i: x[i], together) for i in range(len(watched))]


def _title(result: Any, one: Watched) -> str:
    """Which seed it is, and how long it was trained."""
    updates = result.metrics["env_steps"].shape[1]
    if one.checkpoint != "last":
        updates = int(result.kept_at(one.row, one.checkpoint).updates[one.row])
    steps = int(result.metrics["env_steps"][one.row, updates - 1]) if updates else 0
    best = ", its best" if one.checkpoint == "best" else ""
    return f"seed {one.seed}, {steps:,} env steps{best}"


def exact_model(result: Any) -> Model:
    """The model of a result's environment; raise `UsageError` if it has none."""
    model = model_of(result.config.env)
    if model is None:
        label = result.config.env.label
        raise UsageError(f"{label} has no exact model to compare with: a map needs a tabular environment.")
    return model


def plot_map(result: Any, path: str | os.PathLike[str] | None, seed: int | None) -> Any:
    """Plot values and policy of a tabular environment next to the exact ones; see `Result.map`."""
    env, model = result.config.env, exact_model(result)
    seed = result.best_seed if seed is None else seed
    policy = result.policy(seed)
    if isinstance(policy, RecurrentPolicy):
        raise UsageError("A recurrent policy has no map: what it does depends on more than the state.")
    states = env.observation_space.from_index(jnp.arange(env.observation_space.n))
    obs = states if env.legal_actions is None else Masked(states, ~jnp.isneginf(model.rewards))
    actions = np.asarray(env.action_space.index(policy(jax.random.key(0), obs)))
    tables = getattr(jax.tree.map(lambda x: x[result.row(seed)], result.states), "tables", None)
    learned = None if tables is None else np.asarray(tables.action_values).mean(axis=0)
    title, discount = f"{env.label}, seed {seed}", float(getattr(result.config, "discount", 0.99))
    return maps.plot_maps(path, env, model, actions, discount, title, learned)
