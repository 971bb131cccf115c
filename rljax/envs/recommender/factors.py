r"""A factor model of ratings by alternating least squares, and the simulated people that it makes.

The predicted rating is $\hat r_{ui} = \mu + b_u + c_i + p_u^T q_i$ (Koren et al. 2009). With the films fixed, each
person's $(b_u, p_u)$ is a ridge regression on $(1, q_i)$ of the films that the person rated, and the other way round:

$$ (b_u, p_u) = \Big(\sum_i x_i x_i^T + \lambda n_u I\Big)^{-1} \sum_i x_i (r_{ui} - \mu - c_i),
   \qquad x_i = (1, q_i), $$

with the penalty multiplied by the number of ratings $n_u$, as in ALS-WR (Zhou et al. 2008). The sums are products of
dense matrices `[U, n]`, which for ml-1m take 90 MB each.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Env
from rljax.envs.recommender.catalogue import of_items
from rljax.envs.recommender.movielens import Ratings
from rljax.envs.recommender.simulator import Params
from rljax.envs.recommender.worlds import from_catalogue
from rljax.errors import number


class Factors(NamedTuple):
    """A factor model of U people and n films with F factors."""

    mean: jax.Array  # []
    user_bias: jax.Array  # [U]
    item_bias: jax.Array  # [n]
    users: jax.Array  # [U, F]
    items: jax.Array  # [n, F]


def dense(ratings: Ratings) -> tuple[jax.Array, jax.Array]:
    """Ratings `[U, n]`, 0 where there is none, and where there is one, `[U, n]` float32."""
    stars, known = np.zeros(ratings.shape, np.float32), np.zeros(ratings.shape, np.float32)
    stars[ratings.user, ratings.item] = ratings.rating
    known[ratings.user, ratings.item] = 1.0
    return jnp.asarray(stars), jnp.asarray(known)


def ridge(
    features: jax.Array, targets: jax.Array, known: jax.Array, regularization: Any, least: Any = 1.0
) -> jax.Array:
    """Ridge regressions `[U, F + 1]` of targets `[U, n]` on 1 and features `[n, F]`, where known `[U, n]`.

    The penalty is that of `least` ratings if there are fewer.
    """
    x = jnp.concatenate([jnp.ones((len(features), 1)), features], axis=1)
    size = x.shape[1]
    squares = (known @ (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)).reshape(-1, size, size)
    counts = known.sum(axis=1)
    penalties = regularization * jnp.maximum(counts, least)  # without ratings the solution is 0
    return jnp.linalg.solve(squares + penalties[:, None, None] * jnp.eye(size), ((known * targets) @ x)[..., None])[
        ..., 0
    ]


@partial(jax.jit, static_argnames=("factors", "iterations"))
def als(
    key: jax.Array, stars: jax.Array, known: jax.Array, factors: int, regularization: Any, iterations: int
) -> Factors:
    """Fit a factor model to ratings `[U, n]` where known `[U, n]`, from small normal factors of the films."""
    mean = jnp.sum(stars * known) / known.sum()
    centred = stars - mean
    items = 0.1 * jax.random.normal(key, (stars.shape[1], factors))
    start = jnp.concatenate([jnp.zeros((stars.shape[1], 1)), items], axis=1)

    def sweep(_: Any, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        _, of_items = both
        of_users = ridge(of_items[:, 1:], centred - of_items[:, 0], known, regularization)
        of_items = ridge(of_users[:, 1:], (centred - of_users[:, :1]).T, known.T, regularization)
        return of_users, of_items

    zeros = jnp.zeros((stars.shape[0], factors + 1))
    of_users, of_films = jax.lax.fori_loop(0, iterations, sweep, (zeros, start))
    return Factors(mean, of_users[:, 0], of_films[:, 0], of_users[:, 1:], of_films[:, 1:])


def fit_factors(
    ratings: Ratings, factors: int = 32, regularization: float = 0.1, iterations: int = 20, seed: int = 0
) -> Factors:
    """Fit a factor model.

    Args:
        ratings: to learn from.
        factors: F.
        regularization: lambda, the penalty for each rating.
        iterations: sweeps over people and films.
        seed: of the first factors.

    Raises:
        UsageError: a number is invalid.
    """
    number("factors", factors, integer=True, minimum=1)
    number("regularization", regularization, minimum=1e-6)
    number("iterations", iterations, integer=True, minimum=1)
    return als(jax.random.key(seed), *dense(ratings), factors, regularization, iterations)


def predictions(model: Factors) -> jax.Array:
    """Predicted ratings `[U, n]`, not clipped."""
    return model.mean + model.user_bias[:, None] + model.item_bias + model.users @ model.items.T


def fold_in(
    model: Factors, stars: jax.Array, known: jax.Array, regularization: float = 0.1, least: float = 50.0
) -> jax.Array:
    """Predicted ratings `[V, n]` for V new people, from their ratings `[V, n]` where known `[V, n]`; films stay.

    The penalty is that of at least `least` ratings, so that a few ratings do not move a person far from the mean.
    """
    found = ridge(model.items, stars - model.mean - model.item_bias, known, regularization, least)
    return model.mean + found[:, :1] + model.item_bias + found[:, 1:] @ model.items.T


def simulated_users(ratings: Ratings, model: Factors, items: int = 200, **settings: Any) -> Env:
    r"""A recommender of the most rated films, whose people have the tastes of the factor model.

    The affinity of a person for a film is $\kappa\, p_u^T q_i$, of predicted stars, so `sharpness` is per star. The
    bias of a film times the sharpness is its appeal, and with $\mu - 3.5$ its quality: one of 3.5 predicted stars is
    enjoyed by half. A person's own bias, which does not change a ranking, is left out. Categories are the films' first
    genres, popularity their numbers of ratings. There is one context.

    Args:
        ratings: which the model was fitted to.
        model: the factor model.
        items: films.
        **settings: of `from_catalogue`.
    """
    number("items", items, integer=True, minimum=2, maximum=ratings.shape[1])
    counts = np.bincount(ratings.item, minlength=ratings.shape[1])
    kept = np.argsort(-counts, kind="stable")[:items]
    embeddings, tastes = np.asarray(model.items)[kept], np.asarray(model.users)
    scale = np.linalg.norm(embeddings, axis=1).mean()
    sharpness = settings.get("sharpness", Params.sharpness)
    bias = np.asarray(model.item_bias)[kept]
    names = [ratings.genres[i][0] if ratings.genres[i] else "" for i in kept]
    catalogue = of_items(
        embeddings / scale,
        np.unique(names, return_inverse=True)[1],
        tastes=tastes * scale,
        appeal=sharpness * bias,
        quality=sharpness * (bias + float(model.mean) - 3.5),
        popularity=np.maximum(counts[kept], 1),
    )
    return from_catalogue(catalogue, **{"name": "recommender/movielens", **settings})
