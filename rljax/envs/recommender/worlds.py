"""Recommenders of a catalogue: the record of functions, spaces and numbers that an `Env` is."""

import dataclasses
from typing import Any

import jax
import numpy as np

from rljax.envs.base import Bound, Env
from rljax.envs.recommender import simulator
from rljax.envs.recommender.catalogue import Catalogue
from rljax.envs.recommender.simulator import INFO, Params, World
from rljax.envs.spaces import Box, Dict, Discrete, MultiDiscrete
from rljax.errors import UsageError, number, shown, suggest

CANDIDATES = ("category", "neighbours")


def from_catalogue(
    items: Catalogue,
    *,
    slate: int = 1,
    history: int = 10,
    candidates: str | None = None,
    num_candidates: int = 20,
    name: str = "recommender",
    **params: Any,
) -> Env:
    """Make a recommender of a catalogue.

    An action is an item, or with `slate` above 1 a `MultiDiscrete` of k items. Observations are dicts, the newest
    entry first: `items` `[L]`, with n for none; their `features` `[L, d]`, `clicks` `[L]` and `ratings` `[L]`; and the
    `context`. L is `history` times `slate`.

    Args:
        items: the catalogue.
        slate: k, items shown at a time.
        history: H, steps that are observed.
        candidates: None if every item may be recommended; "category" for those of the categories that a person
            browses in a session, each with probability one half and at least one; "neighbours" for the items whose
            features are nearest to the recency-weighted mean of the clicked ones, and all before the first click.
        num_candidates: how many neighbours.
        name: shown in tables.
        **params: fields of `Params`.

    Raises:
        UsageError: a setting is unknown or invalid.
    """
    n, d = np.shape(items.embeddings)
    number("slate", slate, integer=True, minimum=1, maximum=n)
    number("history", history, integer=True, minimum=1)
    number("num_candidates", num_candidates, integer=True, minimum=1)
    if candidates is not None and candidates not in CANDIDATES:
        raise UsageError(f"candidates must be None, {' or '.join(map(repr, CANDIDATES))}, got {shown(candidates)}.")
    if candidates == "neighbours" and num_candidates > n:
        raise UsageError(f"num_candidates must be at most the number of items, {n}, got {num_candidates}.")
    known = [f.name for f in dataclasses.fields(Params)][1:]
    if unknown := [key for key in params if key not in known]:
        raise UsageError(f"{name} has no setting {unknown[0]!r}: {suggest(unknown[0], known)}")
    world = World(slate, history, int(np.max(items.categories)) + 1, candidates, num_candidates)
    length = history * slate
    space = Dict(
        {
            "items": MultiDiscrete((n + 1,) * length),
            "features": Box(-np.inf, np.inf, (length, d)),
            "clicks": Box(0, 1, (length,)),
            "ratings": Box(0, 5, (length,)),
            "context": Discrete(len(items.contexts)),
        }
    )
    return Env(
        reset=Bound(simulator.reset, (world,)),
        step=Bound(simulator.step, (world,)),
        observation_space=space,
        action_space=Discrete(n) if slate == 1 else MultiDiscrete((n,) * slate),
        params=Params(items, **params),
        name=name,
        info=INFO,
        legal_actions=None if candidates is None else Bound(_allowed, (slate,)),
    )


def _allowed(slate: int, state: simulator.State) -> jax.Array | tuple[jax.Array, ...]:
    return state.allowed if slate == 1 else (state.allowed,) * slate
