"""Recommenders: simulated users whose taste drifts, under ids such as `recommender/drift-100`, for any number of items.

`recommender/static-100` is the world in which a recommendation changes nothing except the reward: taste only moves at
random, nobody is bored, and sessions end at random. In `recommender/drift-100` taste moves to what is clicked,
repetition bores, and satisfied people stay longer. `recommender/feed-100` shows four items at a time, and
`recommender/small` is small enough to be solved by planning. `recommender/feed` is short for `recommender/feed-100`.
See `rljax.envs.recommender.simulator` for the equations, and docs/recommenders.md.
"""

import dataclasses
from types import SimpleNamespace
from typing import Any

from rljax.envs.base import Bound, Env, check_param
from rljax.envs.recommender import catalogue as catalogues
from rljax.envs.recommender.catalogue import Catalogue as Catalogue
from rljax.envs.recommender.catalogue import of_items as of_items
from rljax.envs.recommender.cold_start import cold_start_curve as cold_start_curve
from rljax.envs.recommender.cold_start import without_people as without_people
from rljax.envs.recommender.factors import Factors as Factors
from rljax.envs.recommender.factors import fit_factors as fit_factors
from rljax.envs.recommender.factors import fold_in as fold_in
from rljax.envs.recommender.factors import predictions as predictions
from rljax.envs.recommender.factors import simulated_users as simulated_users
from rljax.envs.recommender.metrics import popularity_scores as popularity_scores
from rljax.envs.recommender.metrics import ranking_metrics as ranking_metrics
from rljax.envs.recommender.metrics import rating_errors as rating_errors
from rljax.envs.recommender.movielens import Ratings as Ratings
from rljax.envs.recommender.movielens import from_movielens as from_movielens
from rljax.envs.recommender.movielens import histories as histories
from rljax.envs.recommender.movielens import split_by_time as split_by_time
from rljax.envs.recommender.simulator import INFO as INFO
from rljax.envs.recommender.simulator import Params as Params
from rljax.envs.recommender.tabular import tabular_model as tabular_model
from rljax.envs.recommender.views import as_bandit as as_bandit
from rljax.envs.recommender.views import greedy as greedy
from rljax.envs.recommender.views import most_popular as most_popular
from rljax.envs.recommender.views import revealed as revealed
from rljax.envs.recommender.worlds import from_catalogue as from_catalogue
from rljax.errors import UsageError, suggest

PREFIX = "recommender/"

# Params that differ from the defaults, and settings of the world, by the name in an id.
_WORLDS: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "drift": ({}, {}),
    "static": ({"drift": 0.0, "boredom": 0.0, "loyalty": 0.0, "walk": 0.05, "context_change": 0.0}, {}),
    "feed": ({"rating_weight": 0.1, "diversity_weight": 0.1}, {"slate": 4}),
    "small": (
        {
            "sharpness": 2.0,
            "context_weight": 0.0,
            "boredom": 0.0,
            "drift": 0.3,
            "walk": 0.0,
            "loyalty": 0.0,
            "leave": 0.05,
        },
        {"history": 4},
    ),
}
_OF_CATALOGUE = ("dimensions", "categories", "contexts", "users", "clickbait", "new_items", "seed")
_OF_WORLD = ("slate", "history", "candidates", "num_candidates")


def registered() -> list[str]:
    """The ids with 100 items; `make` takes any other number of at least 2."""
    return [f"{PREFIX}{name}" if name == "small" else f"{PREFIX}{name}-100" for name in _WORLDS]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make a recommender by id.

    Args:
        name: the id.
        settings: params; arguments of `from_catalogue`: `slate`, `history`, `candidates`, `num_candidates`; and those
            of the catalogue's draw, `catalogue.random`.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    kind, _, items_text = name.removeprefix(PREFIX).partition("-")
    items_text = items_text or ("2" if kind == "small" else "100")
    is_size = items_text.isdecimal() and 2 <= int(items_text) <= 10**6
    if kind not in _WORLDS or not is_size or (kind == "small" and name != f"{PREFIX}small"):
        hint = suggest(name, registered())
        raise UsageError(f"There is no environment {name!r}, a kind and 2 items or more: {hint}")
    values, of_world = _WORLDS[kind]
    of_catalogue = {key: value for key, value in settings.items() if key in _OF_CATALOGUE and kind != "small"}
    of_world = {**of_world, **{key: value for key, value in settings.items() if key in _OF_WORLD}}
    changed = {key: value for key, value in settings.items() if key not in {**of_catalogue, **of_world}}
    fields = {f.name: f.default for f in dataclasses.fields(Params) if f.name != "catalogue"}
    for setting, value in changed.items():
        if setting not in fields:
            known = [*fields, *_OF_WORLD, *(() if kind == "small" else _OF_CATALOGUE)]
            raise UsageError(f"{name} has no setting {setting!r}: {suggest(setting, known)}")
        check_param(f"{setting} of {name}", fields[setting], value)
    drawn = catalogues.small() if kind == "small" else catalogues.random(int(items_text), **of_catalogue)
    constructor = tuple((key, value) for key, value in settings.items() if key in {**of_catalogue, **of_world})
    env = from_catalogue(drawn, name=name, **of_world, **{**values, **changed})
    return env.replace(recipe=((name, constructor),), default_params=Bound(_defaults, (kind,)))


def _defaults(kind: str) -> Any:
    """The numbers of a world's params, without its catalogue."""
    fields = {f.name: f.default for f in dataclasses.fields(Params) if f.name != "catalogue"}
    return SimpleNamespace(**{**fields, **_WORLDS[kind][0]})
