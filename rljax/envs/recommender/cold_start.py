"""How well a factor model knows new people after their first ratings."""

import jax.numpy as jnp
import numpy as np

from rljax.envs.recommender.factors import Factors, dense, fold_in
from rljax.envs.recommender.metrics import ranking_metrics, rating_errors
from rljax.envs.recommender.movielens import Ratings, histories, of_rows
from rljax.errors import UsageError


def without_people(ratings: Ratings, people: np.ndarray) -> Ratings:
    """The ratings of all others."""
    return of_rows(ratings, ~np.isin(ratings.user, people))


def cold_start_curve(
    model: Factors,
    ratings: Ratings,
    people: np.ndarray,
    given: tuple[int, ...],
    regularization: float = 0.1,
    k: int = 10,
) -> dict[str, np.ndarray]:
    """Errors and ranking metrics `[len(given)]` for new people, by how many of their first ratings are known.

    At every number the later ratings, those after the most that are given, are predicted: the same ones for all
    numbers.

    Args:
        model: fitted without these people, `without_people`.
        ratings: of all.
        people: the new ones, numbers of users.
        given: numbers of ratings, such as (0, 1, 2, 5, 10).
        regularization: of the new people's regressions.
        k: length of a list.

    Raises:
        UsageError: nobody has more ratings than the most that are given.
    """
    rows = histories(ratings)
    people = np.array([one for one in people if len(rows[one]) > max(given)])
    if not len(people):
        raise UsageError(f"None of these people has more than {max(given)} ratings: give fewer.")
    test = of_rows(ratings, np.concatenate([rows[one][max(given) :] for one in people]))
    curves: dict[str, list[float]] = {}
    for count in given:
        first = of_rows(ratings, np.concatenate([rows[one][:count] for one in people]).astype(int))
        stars, known = dense(first)
        predicted = np.array(fold_in(model, jnp.asarray(stars), jnp.asarray(known), regularization))
        found = {**rating_errors(predicted, test), **ranking_metrics(predicted, first, test, k)}
        for name in ("rmse", "mae", "precision", "recall", "ndcg", "hit_rate"):
            curves.setdefault(name, []).append(found[name])
    return {name: np.array(values) for name, values in curves.items()}
