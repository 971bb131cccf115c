r"""How good recommendations and predicted ratings are, on ratings that were held out.

With the top k items of each of U people, their relevant held-out items, and g hits:

- **precision** g / k, **recall** g over the number of relevant items, **hit rate** 1 if g > 0;
- **NDCG** $\sum_{j} [\text{j-th is relevant}] / \log_2(j + 1)$ over its largest value, with $j = 1 ... k$ (Järvelin and
  Kekäläinen 2002);

as means over people with a relevant item; then, over all of their lists,

- **coverage**, the fraction of all items that are in a list, and **tail coverage**, the same of the long tail: all
  items except the 20% with the most ratings;
- **popularity bias**, the mean number of training ratings of the recommended items, over that of the items in training
  ratings: 1 if recommendations are as popular as what people rated.
"""

from typing import Any

import numpy as np

from rljax.envs.recommender.movielens import Ratings
from rljax.errors import number

HEAD = 0.2  # the part of items that are not in the long tail
_MEANS = ("precision", "recall", "ndcg", "hit_rate")


def top_k(scores: Any, seen: Any, k: int) -> np.ndarray:
    """The k items `[U, k]` with the highest scores `[U, n]`, the best first, without those that were seen `[U, n]`.

    Of equal scores the first item comes first.
    """
    left = np.where(np.asarray(seen, bool), -np.inf, np.asarray(scores, np.float64))
    return np.argsort(-left, axis=1, kind="stable")[:, :k]


def ranking_metrics(scores: Any, train: Ratings, test: Ratings, k: int = 10, relevant: float = 4.0) -> dict[str, float]:
    """The metrics above of scores `[U, n]`; items that a person rated in training are not recommended.

    Args:
        scores: of every person and item.
        train: what was known.
        test: what was held out.
        k: length of a list.
        relevant: the rating from which a held-out item is relevant.
    """
    people, n = train.shape
    number("k", k, integer=True, minimum=1, maximum=n)
    seen = np.zeros((people, n), bool)
    seen[train.user, train.item] = True
    wanted = np.zeros((people, n), bool)
    liked = test.rating >= relevant
    wanted[test.user[liked], test.item[liked]] = True
    wanted &= ~seen
    judged = wanted.any(axis=1)
    if not judged.any():
        return dict.fromkeys((*_MEANS, "coverage", "tail_coverage", "popularity_bias"), np.nan)
    lists = top_k(np.asarray(scores)[judged], seen[judged], k)
    hits = np.take_along_axis(wanted[judged], lists, axis=1)
    sizes, gains = wanted[judged].sum(axis=1), 1 / np.log2(np.arange(k) + 2)
    ideal = np.cumsum(gains)[np.minimum(sizes, k) - 1]
    counts = np.bincount(train.item, minlength=n)
    tail = np.ones(n, bool)
    tail[np.argsort(-counts, kind="stable")[: round(HEAD * n)]] = False
    listed = np.bincount(lists.ravel(), minlength=n) > 0
    by_person = (hits.mean(axis=1), hits.sum(axis=1) / sizes, hits @ gains / ideal, hits.any(axis=1))
    return {
        **{name: float(values.mean()) for name, values in zip(_MEANS, by_person, strict=True)},
        "coverage": float(listed.mean()),
        "tail_coverage": float(listed[tail].mean()),
        "popularity_bias": float(counts[lists].mean() / counts[train.item].mean()) if len(train.item) else np.nan,
    }


def rating_errors(predicted: Any, test: Ratings, low: float = 1.0, high: float = 5.0) -> dict[str, float]:
    """Root mean squared and mean absolute error of predicted ratings `[U, n]`, clipped to the range of stars."""
    errors = np.clip(np.asarray(predicted, np.float64), low, high)[test.user, test.item] - test.rating
    return {"rmse": float(np.sqrt(np.mean(errors**2))), "mae": float(np.mean(np.abs(errors)))}


def popularity_scores(train: Ratings) -> np.ndarray:
    """The numbers of training ratings as scores `[U, n]` of a ranking."""
    counts = np.bincount(train.item, minlength=train.shape[1]).astype(np.float64)
    return np.broadcast_to(counts, train.shape)
