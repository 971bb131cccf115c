"""Tune PPO on Acrobot: 30 configurations x 5 seeds, of which Optuna suggests ten at a time, reported on fresh seeds.

The ten configurations of a batch and their seeds train side by side in one program. `rljax resume runs/tune_acrobot`
continues a search that was stopped. On the command line the search is

    rljax train ppo --env Acrobot-v1 --total-steps 100000 --seeds 5 --search optuna --samples 30 \
        --sweep "learning_rate.start=log_uniform(1e-4,1e-2)" --sweep "gae_lambda=uniform(0.8,1)" \
        --sweep "entropy_coefficient=log_uniform(1e-4,1e-1)" --sweep "clip=choice(0.1,0.2,0.3)" --out runs/tune_acrobot
"""

from typing import Any

import rljax
from rljax import ppo

SPACE = {
    "learning_rate.start": rljax.log_uniform(1e-4, 1e-2),  # of a schedule that falls to zero
    "gae_lambda": rljax.uniform(0.8, 1.0),
    "entropy_coefficient": rljax.log_uniform(1e-4, 1e-1),
    "clip": rljax.choice([0.1, 0.2, 0.3]),
}


def main(
    out: str = "runs/tune_acrobot",
    samples: int = 30,
    seeds: int = 5,
    fresh_seeds: int = 20,
    episodes: int = 100,
    **fields: Any,
) -> dict[str, rljax.Result]:
    """Search, and train the defaults and the best configuration again with seeds that took no part in the search."""
    rljax.configure_jax()
    config = ppo.Config(env=rljax.make("Acrobot-v1"), **fields)
    options: dict[str, Any] = {"evaluations": 5, "eval_episodes": episodes, "overwrite": True}
    found = rljax.run(ppo, config, sweep=SPACE, search="optuna", samples=samples, seeds=seeds, out=out, **options)
    assert found.best_configuration is not None  # there is one with two seeds or more
    best = found.configs[found.best_configuration]
    # Another root key: none of these seeds was seen by the search, so their returns do not overestimate.
    results = {
        name: rljax.run(ppo, one, seeds=fresh_seeds, seed=1, out=f"{out}/{name}", **options)
        for name, one in {"defaults": config, "best": best}.items()
    }
    print(f"Best of {samples}: {found.points[found.best_configuration]}")
    for name, result in results.items():
        final = result.summary["final_return"]
        print(f"{name}: {final['iqm']:.1f} {final['ci95']} (interquartile mean of {fresh_seeds} fresh seeds, 95%)")
    return results


if __name__ == "__main__":
    main()
