"""Catalogues: the items that a recommender chooses from, and the people it recommends to.

Items have what a system knows of them, `features` and `categories`, and what only decides how people react.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.errors import UsageError, number, shown


class Catalogue(NamedTuple):
    """n items in K categories, C contexts and U people, with d latent dimensions."""

    embeddings: jax.Array  # [n, d], how items lie in the space of tastes
    features: jax.Array  # [n, d], what the system knows of that; for a new item only the mean of its category
    categories: jax.Array  # [n] int32
    appeal: jax.Array  # [n], added to the logit of a click, not to that of enjoyment
    quality: jax.Array  # [n], added to the logit of enjoyment, not to that of a click
    minutes: jax.Array  # [n], length
    popularity: jax.Array  # [n] probabilities, which sum to one
    contexts: jax.Array  # [C, d], added to the taste while the context lasts
    tastes: jax.Array  # [U, d], with which people begin a session


def random(
    items: int = 100,
    *,
    dimensions: int = 8,
    categories: int = 8,
    contexts: int = 3,
    users: int = 200,
    clickbait: float = 0.5,
    new_items: float = 0.0,
    seed: int = 0,
) -> Catalogue:
    r"""Draw a catalogue.

    Embeddings and tastes have length 1. An item's embedding is the direction of its category's centre plus half a
    standard normal vector per $\sqrt d$. Appeal is normal, and quality is normal with a correlation of minus
    `clickbait` to it; lengths are log-normal around 10 minutes. Popularity is proportional to $\exp(\text{appeal})$.

    Args:
        items: n.
        dimensions: d.
        categories: K.
        contexts: C.
        users: U.
        clickbait: in [0, 1]; 0 for items whose quality has nothing to do with their appeal.
        new_items: the fraction of items of which the system only knows the category, the last ones.
        seed: of the draw.

    Raises:
        UsageError: a number is invalid.
    """
    sizes = {"items": items, "dimensions": dimensions, "categories": categories, "contexts": contexts, "users": users}
    for name, size in sizes.items():
        number(name, size, integer=True, minimum=2 if name == "items" else 1, maximum=10**6)
    number("clickbait", clickbait, minimum=0, maximum=1)
    number("new_items", new_items, minimum=0, maximum=1)
    number("seed", seed, integer=True, minimum=0)
    rng = np.random.default_rng(seed)
    centres = _directions(rng.normal(size=(categories, dimensions)))
    category = np.arange(items) % categories
    embeddings = _directions(centres[category] + 0.5 * rng.normal(size=(items, dimensions)) / math.sqrt(dimensions))
    appeal = rng.normal(size=items)
    quality = -clickbait * appeal + math.sqrt(1 - clickbait**2) * rng.normal(size=items)
    return of_items(
        embeddings,
        category,
        tastes=_directions(rng.normal(size=(users, dimensions))),
        contexts=_directions(rng.normal(size=(contexts, dimensions))),
        appeal=appeal,
        quality=quality,
        minutes=10 * np.exp(0.5 * rng.normal(size=items)),
        new_items=new_items,
    )


def _directions(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def of_items(
    embeddings: np.ndarray,
    categories: np.ndarray,
    *,
    tastes: np.ndarray,
    contexts: np.ndarray | None = None,
    appeal: np.ndarray | None = None,
    quality: np.ndarray | None = None,
    minutes: np.ndarray | None = None,
    popularity: np.ndarray | None = None,
    new_items: float = 0.0,
) -> Catalogue:
    """Make a catalogue of given arrays; what is left out is zero, one minute, or one context without an effect.

    Args:
        embeddings: `[n, d]`.
        categories: `[n]`, integers from 0.
        tastes: `[U, d]`.
        contexts: `[C, d]`.
        appeal: `[n]`.
        quality: `[n]`.
        minutes: `[n]`.
        popularity: `[n]`, positive; None for exp(appeal).
        new_items: the fraction of items of which the system only knows the category, the last ones.

    Raises:
        UsageError: an array has another shape, or is not finite.
    """
    n, d = np.shape(embeddings)
    appeal = np.zeros(n) if appeal is None else appeal
    popularity = np.exp(appeal) if popularity is None else popularity
    categories = np.asarray(categories, np.int32)
    embeddings = np.asarray(embeddings, np.float32)
    num_new = round(new_items * n)
    features = embeddings.copy()
    known = np.arange(n) < n - num_new
    for item in range(n - num_new, n):
        alike = known & (categories == categories[item])
        features[item] = embeddings[alike].mean(axis=0) if alike.any() else 0.0
    shapes = {
        "embeddings": (embeddings, (n, d)),
        "features": (features, (n, d)),
        "categories": (categories, (n,)),
        "appeal": (appeal, (n,)),
        "quality": (np.zeros(n) if quality is None else quality, (n,)),
        "minutes": (np.ones(n) if minutes is None else minutes, (n,)),
        "popularity": (popularity / np.sum(popularity), (n,)),
        "contexts": (np.zeros((1, d)) if contexts is None else contexts, (None, d)),
        "tastes": (tastes, (None, d)),
    }
    for name, (array, shape) in shapes.items():
        found = np.shape(array)
        fits = len(found) == len(shape) and all(b in (None, a) for a, b in zip(found, shape, strict=True))
        if not fits or not np.isfinite(array).all():
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise UsageError(f"A catalogue's {name} must be finite numbers [{wanted}], got shape {shown(found)}.")
    if categories.min() < 0:
        raise UsageError("A catalogue's categories must be integers of at least 0.")
    kinds = {name: np.int32 if name == "categories" else np.float32 for name in shapes}
    return Catalogue(**{name: jnp.asarray(array, kinds[name]) for name, (array, _) in shapes.items()})


def small() -> Catalogue:
    """Two items on one axis of taste, each the only one of its category, and people who prefer the first one.

    Once a person has come to like it as much, the second item is clicked more often.
    """
    return of_items(
        np.array([[-1.0], [1.0]]),
        np.array([0, 1]),
        tastes=np.full((1, 1), -0.5),
        appeal=np.array([0.0, 1.5]),
    )
