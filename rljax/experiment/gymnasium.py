"""Play a policy's episodes in environments of Gymnasium, one step of all of them after the other."""

import warnings
from typing import Any

import jax
import numpy as np

from rljax.envs import Env, spaces
from rljax.envs.suites.adapting import space_of
from rljax.errors import UsageError, located
from rljax.evaluation import MAX_STEPS
from rljax.experiment import evaluating
from rljax.types import Policy, RecurrentPolicy

_TOGETHER = 100  # environments


def made(name: str, env: Env) -> Any:
    """An environment of Gymnasium.

    Raises:
        UsageError: Gymnasium is not installed, it has no such environment, or its spaces are not those of `env`.
    """
    try:
        import gymnasium
    except ImportError:
        raise UsageError(
            "gymnasium is not installed: install rljax with the extra `gymnasium`, pip install -e '.[gymnasium]'."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions that are not the newest
            one = gymnasium.make(name)
    except Exception as error:  # it has many kinds, for unknown ids and missing packages
        raise UsageError(f"Gymnasium cannot make {name}: {located(error)}.") from error
    evaluating.check_spaces(env, space_of(one.observation_space), space_of(one.action_space), name)
    if env.legal_actions is not None:
        raise UsageError(f"{env.label} has legal_actions, and {name} has none: evaluate in another environment.")
    return one


def play(
    key: jax.Array, name: str, env: Env, policy: Policy | RecurrentPolicy, num_episodes: int, max_steps: int = MAX_STEPS
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Play whole episodes with the policy of a run: their returns, NaN if one had not ended, and their lengths.

    Args:
        key: randomness of the resets, the steps and the policy.
        name: Gymnasium's id.
        env: the environment in which the policy was trained.
        policy: `(key, obs [N, ...]) -> action [N, ...]`, or a `RecurrentPolicy`.
        num_episodes: number of episodes, each in an environment of its own.
        max_steps: longest episode.

    Raises:
        UsageError: as for `made`.
    """
    counts = [min(_TOGETHER, num_episodes - start) for start in range(0, num_episodes, _TOGETHER)]
    keys = jax.random.split(key, len(counts))
    parts = [_play(*one, name, env, policy, max_steps) for one in zip(keys, counts, strict=True)]
    returns, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return returns, {"length": lengths}


def _play(
    key: jax.Array, count: int, name: str, env: Env, policy: Any, max_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    key_reset, key_policy = jax.random.split(key)
    seeds = np.asarray(jax.random.randint(key_reset, (count,), 0, 2**31 - 1)).tolist()
    worlds = [made(name, env) for _ in range(count)]
    leaves = spaces.leaves_of(env.observation_space)

    def stacked(seen: list[Any]) -> Any:
        return jax.tree.map(lambda leaf, *parts: np.stack(parts).astype(leaf.dtype), leaves, *seen)

    seen = [world.reset(seed=seed)[0] for world, seed in zip(worlds, seeds, strict=True)]
    if not isinstance(policy, RecurrentPolicy):
        feedforward = policy
        policy = RecurrentPolicy(lambda _: (), lambda key, obs, _: (feedforward(key, obs), ()))
    step, hidden_state = jax.jit(policy.step), policy.initial_hidden_state(count)
    returns, lengths, ended = np.zeros(count), np.zeros(count, int), np.zeros(count, bool)
    for time in range(max_steps):
        if ended.all():
            break
        actions, hidden_state = step(jax.random.fold_in(key_policy, time), stacked(seen), hidden_state)
        for i, action in enumerate(np.asarray(actions)):
            if not ended[i]:
                given = int(action) if action.ndim == 0 else action
                seen[i], reward, terminated, truncated, _ = worlds[i].step(given)
                returns[i] += reward
                lengths[i] += 1
                ended[i] = terminated or truncated
    for world in worlds:
        world.close()
    return np.where(ended, returns, np.nan), lengths
