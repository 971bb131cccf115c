"""Ten thousand tabular Q-learners in one vmapped program, compared with a plain Python loop of one, on FrozenLake.

Both use the same update rule and schedules on the slippery lake. The loop steps as Gymnasium does, with a list of
outcomes for every state and action. The program is `rljax.run` of `q_learning` on the same model: agents are sharded
over the devices and, on a CPU, updated in blocks that fit the cache. The two alternate, so that a busy machine slows
both; medians are reported.
`python benchmarks/tables.py --agents 10000 --steps 10000` writes `results/tables.json`.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import time
from typing import Any

import jax
import numpy as np
import script

import rljax
from rljax import envs, planning, q_learning
from rljax.backend.devices import configure_jax
from rljax.errors import UsageError
from rljax.experiment import compilation

REPEATS = 5
RESULT = pathlib.Path(__file__).parent / "results" / "tables.json"


def plain_loop(model: rljax.envs.Model, config: q_learning.Config, limit: int, seed: int) -> np.ndarray:
    """Train one Q-learning agent in the usual loop over steps; return its table `[S, A]`."""
    rng = np.random.default_rng(seed)
    transitions, rewards, terminated, start = (np.asarray(x) for x in model)
    states, actions = rewards.shape
    outcomes = [[np.flatnonzero(transitions[s, a]) for a in range(actions)] for s in range(states)]
    chances = [[transitions[s, a, outcomes[s][a]].cumsum() for a in range(actions)] for s in range(states)]
    values, visits = np.zeros((states, actions)), np.zeros((states, actions))
    first = int(start.argmax())
    state, time_in_episode = first, 0
    for step in range(config.total_steps):
        progress = step // config.num_steps / config.num_updates
        epsilon = config.epsilon.start + progress * (config.epsilon.end - config.epsilon.start)
        action = int(rng.integers(actions)) if rng.random() < epsilon else int(values[state].argmax())
        place = min(int(np.searchsorted(chances[state][action], rng.random())), len(outcomes[state][action]) - 1)
        following = int(outcomes[state][action][place])
        ended = terminated[state, action, following]
        # The only reward is 1 for reaching the last state.
        target = float(following == states - 1) + (0.0 if ended else config.discount * values[following].max())
        step_size = config.step_size.start / (1.0 + visits[state, action]) ** config.step_size.exponent
        values[state, action] += step_size * (target - values[state, action])
        visits[state, action] += 1
        state, time_in_episode = following, time_in_episode + 1
        if ended or time_in_episode == limit:
            state, time_in_episode = first, 0
    return values


def summary(times: list[float], steps: int) -> dict[str, float]:
    """Return the median and spread of the repeats."""
    rate = steps / np.median(times)
    return {"seconds": float(np.median(times)), "fastest": min(times), "slowest": max(times), "steps_per_second": rate}


def main(arguments: list[str]) -> None:
    """Compile, measure in turns, evaluate both learners and write the results."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--agents", type=script.positive, default=10_000)
    parser.add_argument("--steps", type=script.positive, default=10_000, help="environment steps per agent")
    given = parser.parse_args(arguments)
    agents, steps = given.agents, given.steps
    configure_jax()
    lake = rljax.make("FrozenLake-misc")
    model, limit = envs.tabular_model(lake), int(lake.params.max_steps_in_episode)
    env = envs.time_limit(envs.from_model(model), limit)
    config = rljax.replace(rljax.preset("q_learning", "FrozenLake-misc", total_steps=steps), env=env)

    def train(seed: int) -> Any:
        options: Any = {"evaluations": 0, "eval_episodes": 1, "progress": False}
        return rljax.run(q_learning, config, seeds=agents, seed=seed, **options)

    compile_seconds = train(0).summary["compile_seconds"]  # the first call also allocates

    together: list[float] = []
    one_by_one: list[float] = []
    tables = []
    for repeat in range(REPEATS):
        trained = train(repeat + 1)
        together.append(trained.summary["train_seconds"])
        started = time.perf_counter()
        tables.append(plain_loop(model, config, limit, repeat))
        one_by_one.append(time.perf_counter() - started)

    success = jax.vmap(lambda values: planning.expected_return(model, planning.greedy(values), limit))
    learned = np.asarray(success(trained.states.tables.action_values[:, 0]))
    looped = np.asarray(success(np.stack(tables)))
    # Exact probabilities of success: 0.014 for a random policy, 0.744 for the best. Speed counts only if both learn.
    if learned.mean() <= 0.5 or looped.mean() <= 0.3:
        raise UsageError(
            f"The success probability is {learned.mean():.2f}, and {looped.mean():.2f} for the loop. Speed counts only "
            "if both learn: raise --steps. Nothing is written."
        )
    memory = len(jax.devices()) * compilation.latest().bytes
    vmapped, loop = summary(together, agents * config.num_updates * config.steps_per_update), summary(one_by_one, steps)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "gymnax")}
    result: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "versions": {"python": platform.python_version(), **versions},
        "agents": agents,
        "steps_of_each": steps,
        "repeats": REPEATS,
        "compile_seconds": compile_seconds,
        "mebibytes": memory / 2**20,
        "vmapped": {**vmapped, "success_mean": float(learned.mean()), "success_worst": float(learned.min())},
        "plain_loop": {**loop, "success_mean": float(looped.mean()), "success_worst": float(looped.min())},
        "times_as_fast": vmapped["steps_per_second"] / loop["steps_per_second"],
    }
    script.write(RESULT, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    script.run(main, "results are written only after all repeats.")
