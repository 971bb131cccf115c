"""Learn an Atari game from pixels within a time limit, and show how: curve, fraction of wins, GIF.

`python benchmarks/atari.py pong --minutes 110 --out runs/pong` trains one seed of `n_step_dqn` with the preset, and
stops in time; on a GPU `--algo dqn --minutes 2000` is the recipe of 2015. The folder gets what `rljax.run` writes, with
the policy of every evaluation; `atari.json`: returns, human-normalized returns and fractions of won and lost games, of
the final policy and of a random one; and `progress.gif`: policies from the first to the last.
`--speed` only measures environment steps per second of random play through our loop, next to ale-py alone.
"""

import argparse
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import script

import rljax
from rljax import algos, rollout
from rljax.envs.suites import atari
from rljax.experiment.progress import Progress

EPISODES = 20
SPEED_STEPS = 500


def describe(game: str, returns: np.ndarray) -> dict[str, Any]:
    """Mean returns, in points and human-normalized, and the fractions of games with positive and negative returns."""
    numbers = {"returns": returns.tolist(), "mean": returns.mean(), "won": (returns > 0).mean()}
    numbers |= {"lost": (returns < 0).mean()}
    if game in atari.SCORES:
        numbers["human_normalized"] = atari.human_normalized(game, returns).mean()
    return {name: value if name == "returns" else float(value) for name, value in numbers.items()}


def random_returns(env: rljax.Env) -> np.ndarray:
    """Returns of uniformly random play."""

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        return jax.random.randint(key, (len(obs),), 0, env.action_space.n)  # type: ignore[union-attr]

    return np.asarray(jax.jit(lambda key: rljax.evaluate(key, env, policy, EPISODES))(jax.random.key(1)))


def speed(game: str, num_envs: int = 8) -> dict[str, float]:
    """Environment steps per second of random play: through our loop, and of ale-py's vector environment alone."""
    from ale_py.vector_env import AtariVectorEnv

    env = rljax.make(f"atari/{game}")
    actions = np.random.default_rng(0).integers(0, 4, (SPEED_STEPS, num_envs)).astype(np.int32)
    collector = jax.jit(lambda key: rollout.reset(key, env, num_envs))(jax.random.key(0))

    @jax.jit
    def ours(key: jax.Array, collector: rollout.Collector) -> rollout.Collector:
        steps = rollout.interact(
            key, lambda _, action, obs: (action, ()), lambda *_: ((), ()), (), jnp.asarray(actions), collector, env,
            SPEED_STEPS,
        )  # fmt: skip
        return steps[0]

    collector = jax.block_until_ready(ours(jax.random.key(1), collector))
    started = time.perf_counter()
    jax.block_until_ready(ours(jax.random.key(2), collector))
    seconds = time.perf_counter() - started
    games = AtariVectorEnv(game, num_envs)
    games.reset(seed=0)
    started = time.perf_counter()
    for row in actions:
        games.step(row)
    alone = time.perf_counter() - started
    total = SPEED_STEPS * num_envs
    return {"ours": total / seconds, "ale-py alone": total / alone}


def train(game: str, algo: str, minutes: float, steps: int | None, seed: int, out: pathlib.Path) -> dict[str, Any]:
    """Train and write everything but `atari.json`, whose contents are returned."""
    changes = {} if steps is None else {"total_steps": steps}
    config = rljax.preset(algo, f"atari/{game}", **changes)
    ends = time.monotonic() + 60 * minutes

    def stop_in_time(progress: Progress) -> None:
        if progress.updates and time.monotonic() > ends:
            progress.stop()

    # Greedy policies can repeat an action forever, so those evaluated explore a little, as in the papers.
    result = rljax.run(
        algos.algorithm(algo), config, seed=seed, name=algo, out=out, keep="all", callback=stop_in_time,
        evaluations=10, eval_episodes=EPISODES, eval_policy="stochastic", checkpoint_every=600,
    )  # fmt: skip
    result.watch(out / "progress.gif", checkpoints="all", max_steps=1_000, policy="stochastic")
    final = result.evaluate(EPISODES, policy="stochastic").returns[0]
    env_steps = int(result.metrics["env_steps"][0, -1])
    return {
        "env_steps": env_steps,
        "final": describe(game, final),
        "random": describe(game, random_returns(rljax.make(f"atari/{game}"))),
    }


def main(arguments: list[str]) -> None:
    """Train, or measure speed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("game", help="such as pong")
    parser.add_argument("--algo", default="n_step_dqn")
    parser.add_argument("--minutes", type=float, default=110)
    parser.add_argument("--steps", type=script.positive, help="environment steps, over which schedules run")
    parser.add_argument("--seed", type=int, default=20_261_130)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/atari"))
    parser.add_argument("--speed", action="store_true")
    given = parser.parse_args(arguments)
    rljax.configure_jax()
    if given.speed:
        print(speed(given.game))
        return
    results = train(given.game, given.algo, given.minutes, given.steps, given.seed, given.out)
    script.write(given.out / "atari.json", results)
    print({name: value for name, value in results["final"].items() if name != "returns"})


if __name__ == "__main__":
    script.run(main, "what was written stays; `rljax resume` continues a run.")
