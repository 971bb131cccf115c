"""The playground: random, heuristic and trained policies in several environments, as `results.json` and a page."""

import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.envs import Env, heuristics, make
from rljax.errors import UsageError, number, shown
from rljax.evaluation import MAX_STEPS, play
from rljax.experiment import loading
from rljax.experiment.results import Result
from rljax.report import console, files, playground_page
from rljax.types import Policy, RecurrentPolicy

RESULTS, PAGE = "results.json", "index.html"
ENVS = (
    *heuristics.RULES,
    *("FrozenLake-misc", "Taxi-v3", "CliffWalking-v1", "GridWorld-misc"),
)
POLICIES = ("random", "heuristic")
MOST_STEPS = 1_000  # of an episode, by default


class Contestant(NamedTuple):
    """A policy and where it plays."""

    env: Env
    name: str
    policy: Policy | RecurrentPolicy


def playground(
    out: str | os.PathLike[str],
    *,
    envs: Sequence[str | Env] | None = None,
    policies: Sequence[str | os.PathLike[str] | Result] | Mapping[str, Result | str] = POLICIES,
    episodes: int = 20,
    max_steps: int = MOST_STEPS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Play episodes of several policies in several environments; write `results.json` and `index.html`.

    All policies of an environment begin in the same states.

    Args:
        out: folder to write to; the two files in it are replaced.
        envs: ids or `Env`s. By default those of the trained policies, or without any the classic control tasks and
            four tabular environments.
        policies: "random"; "heuristic", a rule of `rljax.envs.heuristics`, in the environments that have one; and the
            folders of runs, or `Result`s, whose best seed plays greedily in the environment that it was trained in. A
            dict has what to call each of them.
        episodes: of each policy in each environment.
        max_steps: an episode that has not ended by then counts with its return so far.
        seed: of the key of all randomness.

    Returns:
        What `results.json` holds: for each policy in each environment `env_id`, `policy`, `average_return`,
        `best_return`, `worst_return`, `episodes` with the `return` and `length` of each, `reward_per_step` and
        `generated_at`.

    Raises:
        UsageError: an argument is invalid, a run cannot be loaded or was trained in none of the environments, or the
            folder cannot be written.
    """
    episodes = number("episodes", episodes, integer=True, minimum=1, maximum=10_000)
    max_steps = number("max_steps", max_steps, integer=True, minimum=1, maximum=MAX_STEPS)
    key = jax.random.key(number("seed", seed, integer=True, minimum=0, maximum=2**32 - 1))
    folder = pathlib.Path(out)
    contestants = _contestants(envs, policies)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be created ({error.strerror}): choose another folder.") from None
    results = [_result(key, one, episodes, max_steps) for one in contestants]
    files.write_json(folder / RESULTS, results)
    files.write_text(folder / PAGE, playground_page.page(results, episodes, max_steps))
    return results


def _contestants(envs: Any, policies: Any) -> list[Contestant]:
    """The policies, by environment."""
    if isinstance(policies, str | os.PathLike | Result):
        policies = [policies]
    if not isinstance(policies, Mapping):
        policies = {_name(one): one for one in policies}
    if not policies:
        raise UsageError("Name at least one policy: random, heuristic or the folder of a run.")
    if isinstance(envs, str | Env):
        envs = [envs]
    runs = {name: _loaded(one) for name, one in policies.items() if one not in POLICIES}
    if envs is None:
        envs = list(dict.fromkeys(result.config.env.name for result in runs.values())) or _default_envs(policies)
    made = [make(env) for env in envs]
    trained = {name: result.config.env for name, result in runs.items()}
    for name, env in trained.items():
        if env.name not in [one.name for one in made]:
            raise UsageError(f"{name} was trained in {env.name}, which is not among the environments: add it to them.")
    found = []
    for env in made:
        for name, policy in policies.items():
            if policy == "random":
                found.append(Contestant(env, name, heuristics.random(env)))
            elif policy == "heuristic":
                if env.name in heuristics.RULES and not env.wrappers:
                    found.append(Contestant(env, name, heuristics.heuristic(env)))
                else:
                    console.say(f"There is no heuristic for {env.label}.")
            elif trained[name].name == env.name:
                found.append(Contestant(trained[name], name, runs[name].best))
    if not found:
        raise UsageError(f"No policy can play: there are heuristics for {', '.join(heuristics.RULES)}.")
    return found


def _default_envs(policies: Mapping[str, Any]) -> Sequence[str]:
    return tuple(heuristics.RULES) if set(policies.values()) == {"heuristic"} else ENVS


def _name(policy: Any) -> str:
    """What to call a policy in tables."""
    if isinstance(policy, Result):
        return str(policy.summary.get("algo", policy.algorithm.__name__.rpartition(".")[2]))
    if not isinstance(policy, str | os.PathLike):
        raise UsageError(f"A policy is random, heuristic, a run's folder or its Result, got {shown(policy)}.")
    return os.fspath(policy)


def _loaded(policy: Any) -> Result:
    if isinstance(policy, Result):
        return policy
    if not os.path.isdir(policy):
        raise UsageError(f"There is no policy {os.fspath(policy)!r}: name random, heuristic or the folder of a run.")
    return loading.result_of(policy)


def _result(key: jax.Array, one: Contestant, episodes: int, max_steps: int) -> dict[str, Any]:
    """What `results.json` has of a policy in an environment."""
    played = jax.device_get(jax.jit(lambda key: play(key, one.env, one.policy, episodes, max_steps))(key))
    returns, lengths = np.asarray(played.returns, np.float64), np.asarray(played.measures["length"])
    return {
        "env_id": one.env.label,
        "policy": one.name,
        "average_return": float(returns.mean()),
        "best_return": float(returns.max()),
        "worst_return": float(returns.min()),
        "episodes": [
            {"return": episode, "length": length}
            for episode, length in zip(returns.tolist(), lengths.tolist(), strict=True)
        ],
        "reward_per_step": float(returns.sum() / lengths.sum()),
        "generated_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
