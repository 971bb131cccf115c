"""Measure recommenders: engagement of learners and baselines on fresh seeds, and predictions on MovieLens-100k.

    python benchmarks/recommenders.py PART... [--seeds 20] [--steps 300000] [--folder FOLDER]

The parts are `planned` (the small world next to its optimum), `baselines`, `encoders` (three learners with five
encoders), `horizon` (discounts, in the worlds with and without drift), `entropy` and `data`; `data` needs a folder that
`rljax.envs.recommender.from_movielens` reads, such as that of examples/movielens.py. Results are added to
results/recommenders.json, and printed with 95% intervals over seeds.
"""

import argparse
import pathlib
from typing import Any

import jax
import numpy as np
import script

import rljax
from rljax import bandits, planning
from rljax.algos import algorithm
from rljax.envs import heuristics, recommender
from rljax.envs.recommender.movielens import of_rows
from rljax.networks.histories import KINDS

RESULTS = pathlib.Path(__file__).parent / "results" / "recommenders.json"
SEED = 20_261_130
EPISODES = 500
WORLD = "recommender/drift-100"


def interval(values: Any) -> dict[str, float]:
    """The mean over seeds and the half-width of its 95% interval."""
    values = np.asarray(values, np.float64)
    width = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return {"mean": float(values.mean()), "width": float(width)}


def engagement(found: Any) -> dict[str, Any]:
    """Return, clicks and length of a session, and satisfaction at its end, from episodes `[seeds, episodes]`."""
    names = ("clicks", "length", "satisfaction")
    each = {"return": found.returns, **{name: found.measures[name] for name in names}}
    return {name: interval(np.asarray(values).mean(axis=1)) for name, values in each.items()}


def keys(seeds: int) -> Any:
    """The keys of training, one a seed."""
    return jax.random.split(jax.random.key(SEED), seeds)


def learned(algo: str, env: Any, seeds: int, **changes: Any) -> dict[str, Any]:
    """Train the preset of the world and play the policy that it trained with."""
    config = rljax.preset(algo, WORLD, **changes)
    config = rljax.replace(config, env=env)
    return trained(algorithm(algo), config, seeds)


def trained(algo: Any, config: Any, seeds: int) -> dict[str, Any]:
    """Engagement after training, and the mean return of sessions in each tenth of it."""

    def one(key: jax.Array, config: Any) -> Any:
        key_train, key_play = jax.random.split(key)
        state, metrics = algo.train(key_train, config)
        policy = algo.act(state, config, greedy=False)
        return rljax.play(key_play, config.env, policy, EPISODES), metrics.get("episode_return", metrics["reward"])

    found, returns = jax.jit(jax.vmap(one, (0, None)))(keys(seeds), config)
    parts = np.array_split(np.asarray(returns), 10, axis=1)
    return {**engagement(found), "curve": [float(np.nanmean(part)) for part in parts]}


def planned(seeds: int, steps: int) -> dict[str, Any]:
    """The small world: the optimum, the myopic policy, and A2C that looks ahead and that does not."""
    results = {}
    for name, settings in {
        "drift 0.3": {},
        "drift 0.1": {"drift": 0.1},
        "no drift": {"drift": 0.0},
        "a random walk only": {"drift": 0.0, "walk": 0.1},
        "drift 0.3, loyalty 0.8": {"loyalty": 0.8},
    }.items():
        env = rljax.make("recommender/small", **settings)
        model = recommender.tabular_model(env)
        best = planning.value_iteration(model, 1.0).values @ model.start
        myopic = planning.policy_values(model, planning.greedy(model.rewards), 1.0) @ model.start
        row: dict[str, Any] = {"optimum": float(best), "myopic": float(myopic)}
        for discount in (0.99, 0.0):
            row[f"a2c, discount {discount}"] = learned("a2c", env, seeds, total_steps=steps, discount=discount)
        results[name] = row
    return results


def baselines(seeds: int, steps: int) -> dict[str, Any]:
    """Policies without a history encoder, and bandits that learn across sessions."""
    env = rljax.make(WORLD)
    view = recommender.as_bandit(env)
    fixed = {
        "random": (env, heuristics.random(env)),
        "most popular": (env, recommender.most_popular(env)),
        "greedy, knows the person": (recommender.revealed(env), recommender.greedy(env)),
    }
    results = {}
    for name, (world, policy) in fixed.items():
        play = jax.jit(jax.vmap(lambda key, world=world, policy=policy: rljax.play(key, world, policy, EPISODES)))
        results[name] = engagement(play(keys(seeds)))
    for name in ("epsilon_greedy", "lin_ucb"):
        agent = bandits.ALGORITHMS[name]
        results[name] = trained(agent, agent.Config(env=view, total_steps=min(steps, 50_000), num_steps=500), seeds)
    return results


def encoders(seeds: int, steps: int) -> dict[str, Any]:
    """Three learners with five encoders."""
    env = rljax.make(WORLD)
    return {
        f"{algo}, {kind}": learned(algo, env, seeds, total_steps=steps, encoder=f"history_{kind}")
        for algo in ("reinforce", "a2c", "ppo")
        for kind in KINDS
    }


def horizon(seeds: int, steps: int) -> dict[str, Any]:
    """A2C with discounts, in worlds where looking ahead may pay and where it does not."""
    return {
        f"{world}, discount {discount}": learned(
            "a2c", rljax.make(f"recommender/{world}-100"), seeds, total_steps=steps, discount=discount
        )
        for world in ("drift", "static")
        for discount in (0.95, 0.0)
    }


def entropy(seeds: int, steps: int) -> dict[str, Any]:
    """A2C with an entropy coefficient that falls, and with constant ones."""
    env = rljax.make(WORLD)
    values = {"linear(0.03, 0)": rljax.schedules.linear(0.03, 0.0), "0.03": 0.03, "0.01": 0.01, "0": 0.0}
    return {
        name: learned("a2c", env, seeds, total_steps=steps, entropy_coefficient=value)
        for name, value in values.items()
    }  # fmt: skip


def data(folder: pathlib.Path) -> dict[str, Any]:
    """Errors on the five folds of Surprise's benchmark, rankings after a split by time, and new people.

    Surprise shuffles the rows of the file by NumPy's RandomState(0) and cuts them into five folds.
    """
    ratings = recommender.from_movielens(folder)
    with open(next(folder.glob("*.inter")), encoding="utf-8") as file:
        lines = [line.split("\t")[:2] for line in file][1:]
    places = {pair: row for row, pair in enumerate(zip(ratings.user, ratings.item, strict=True))}
    numbers = ({one: i for i, one in enumerate(ids)} for ids in (ratings.user_ids, ratings.item_ids))
    users, items = numbers
    rows = np.array([places[users[user], items[item]] for user, item in lines])
    np.random.RandomState(0).shuffle(rows)
    errors = []
    for fold in np.array_split(rows, 5):
        train, test = of_rows(ratings, np.setdiff1d(rows, fold)), of_rows(ratings, np.sort(fold))
        model = recommender.fit_factors(train)
        errors.append(recommender.rating_errors(recommender.predictions(model), test))
    train, test = recommender.split_by_time(ratings)
    model = recommender.fit_factors(train)
    scores = recommender.predictions(model)
    people = np.random.default_rng(SEED).permutation(ratings.shape[0])[:200]
    others = recommender.fit_factors(recommender.without_people(ratings, people))
    given = (0, 1, 2, 5, 10, 20)
    curve = recommender.cold_start_curve(others, ratings, people, given)
    return {
        "five random folds": {name: float(np.mean([one[name] for one in errors])) for name in ("rmse", "mae")},
        "split by time": {
            "factors": {**recommender.rating_errors(scores, test), **recommender.ranking_metrics(scores, train, test)},
            "popularity": recommender.ranking_metrics(recommender.popularity_scores(train), train, test),
        },
        "new people": {"given": given, **{name: values.tolist() for name, values in curve.items()}},
    }


PARTS = {
    "planned": planned, "baselines": baselines, "encoders": encoders, "horizon": horizon, "entropy": entropy,
}  # fmt: skip


def show(results: dict[str, Any], indent: str = "") -> None:
    """Print results, an interval as `mean +- width`."""
    for name, value in results.items():
        if isinstance(value, dict) and set(value) == {"mean", "width"}:
            print(f"{indent}{name}: {value['mean']:.2f} +- {value['width']:.2f}")
        elif isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            shown = np.array2string(np.array(value), precision=3, max_line_width=200)
            print(f"{indent}{name}: {shown}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "data"])
    parser.add_argument("--seeds", type=script.positive, default=20)
    parser.add_argument("--steps", type=script.positive, default=300_000)
    parser.add_argument("--folder", type=pathlib.Path)
    options = parser.parse_args(arguments)
    if "data" in options.parts and options.folder is None:
        parser.error("data needs --folder")
    for part in options.parts:
        found = data(options.folder) if part == "data" else PARTS[part](options.seeds, options.steps)
        show({part: found})
        results = script.read(RESULTS) or {}
        script.write(RESULTS, {**results, part: {"seeds": options.seeds, "steps": options.steps, **found}})


if __name__ == "__main__":
    script.run(main, "the parts that had ended are kept")
