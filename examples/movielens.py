"""Predict, rank and recommend films: MovieLens-100k, by a factor model, a bandit and an actor-critic.

The ratings come from the wheel of recbole 1.2.1, which pip downloads; they are for research. recbole is not imported.
    python examples/movielens.py [FOLDER] [STEPS]
"""

import pathlib
import subprocess
import sys
import tempfile
import zipfile

import jax
import numpy as np

import rljax
from rljax import a2c, bandits
from rljax.envs import heuristics, recommender

MEMBERS = [f"recbole/dataset_example/ml-100k/ml-100k.{kind}" for kind in ("inter", "user", "item")]


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """The folder with the ratings, the people and the films."""
    wheel = folder / "recbole-1.2.1-py3-none-any.whl"
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "recbole==1.2.1", "--no-deps", "--quiet", "-d", str(folder)]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, MEMBERS)
    return (folder / MEMBERS[0]).parent


def predict(ratings: recommender.Ratings) -> recommender.Factors:
    """Print errors and metrics of rankings on the latest fifth of all ratings, and for new people."""
    train, test = recommender.split_by_time(ratings)
    model = recommender.fit_factors(train)
    scores = recommender.predictions(model)
    print("errors of predicted ratings, the latest fifth:", recommender.rating_errors(scores, test))
    for name, ranking in (("factor model", scores), ("popularity", recommender.popularity_scores(train))):
        found = recommender.ranking_metrics(ranking, train, test, k=10)
        print(f"{name:13}", "  ".join(f"{metric} {value:.3f}" for metric, value in found.items()))
    people = np.random.default_rng(0).permutation(ratings.shape[0])[:200]
    others = recommender.fit_factors(recommender.without_people(ratings, people))
    given = (0, 1, 2, 5, 10, 20)
    curve = recommender.cold_start_curve(others, ratings, people, given)
    for name in ("rmse", "ndcg"):
        pairs = zip(given, curve[name], strict=True)
        print(f"new people, {name} after n ratings:", "  ".join(f"{n}: {value:.3f}" for n, value in pairs))
    return model


def recommend(ratings: recommender.Ratings, model: recommender.Factors, steps: int) -> None:
    """Print engagement of simulated people with the tastes of the model, over 500 sessions each."""
    env = recommender.simulated_users(ratings, model, items=200)
    view = recommender.as_bandit(env)
    lin_ucb = bandits.lin_ucb.Config(env=view, total_steps=min(steps, 50_000), num_steps=500)
    actor_critic = rljax.replace(rljax.preset("a2c", "recommender/drift-100", total_steps=steps), env=env)
    key = jax.random.key(0)
    policies = {
        "random": (env, heuristics.random(env)),
        "most popular": (env, recommender.most_popular(env)),
        "LinUCB": (view, bandits.lin_ucb.act(jax.jit(bandits.lin_ucb.train)(key, lin_ucb)[0], lin_ucb)),
        "A2C": (env, a2c.act(jax.jit(a2c.train)(key, actor_critic)[0], actor_critic, greedy=False)),
        "greedy, knows the person": (recommender.revealed(env), recommender.greedy(env)),
    }
    for name, (world, policy) in policies.items():
        found = rljax.play(jax.random.key(1), world, policy, 500).measures
        print(f"{name:25}", "  ".join(f"{what} {found[what].mean():.2f}" for what in ("clicks", "length")))


def main() -> None:
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    ratings = recommender.from_movielens(fetch(folder))
    recommend(ratings, predict(ratings), int(sys.argv[2]) if len(sys.argv) > 2 else 200_000)


if __name__ == "__main__":
    main()
