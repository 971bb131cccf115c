"""Play the final policies of a run for a moment, and measure what a run does not record."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rljax import core, evaluation, networks, off_policy, rollout
from rljax.envs import Box
from rljax.envs.masks import plain
from rljax.experiment import placement
from rljax.networks.torso import Torso

MOST_SEEDS = 4  # that are played
_ENVS, _STEPS = 16, 512  # more than an episode of 500 steps in each environment
_EVERY = 8  # of the steps, on which the layers are measured
_SATURATED = 0.999  # of tanh
_AT_BOUND = 0.01  # of the distance between the bounds


class Probe(NamedTuple):
    """What K seeds do; F entries of an observation as the network gets it, L layers."""

    low: np.ndarray
    """`[K, F]`, of the floats in an observation."""
    high: np.ndarray
    """`[K, F]`."""
    deviation: np.ndarray
    """`[K, F]`."""
    is_vector: bool
    """True if the observation is one vector of floats."""
    most_frequent: np.ndarray
    """`[K]`, the part of the steps with the median action, which is the most frequent one if over half have it."""
    at_bounds: np.ndarray
    """`[K]`, the part of the entries of continuous actions at a bound; 0 for discrete ones."""
    dead: dict[str, np.ndarray]
    """`[K]`, the part of a layer's units that are dead or saturated in all states, by the layer's path."""
    lengths: list[np.ndarray]
    """Of the episodes that each seed terminated."""
    unusual: np.ndarray
    """`[K]`, the part of the terminal observations that are outside the range of all others."""
    truncated_lengths: list[np.ndarray]
    """Of the episodes that were truncated."""


def play(result: Any, rows: np.ndarray) -> Probe:
    """Play 512 steps in 16 environments with the final policies of these rows of a result, which sample actions."""
    algorithm, config = result.algorithm, result.config
    positions = placement.acting(algorithm, config)
    like = jax.eval_shape(algorithm.init, jax.random.key(0), config)
    leaves = jax.tree.leaves(result.states)
    chosen = [
        np.asarray(jax.random.key_data(x) if placement.is_key(x) else x)[rows] for x in (leaves[i] for i in positions)
    ]
    found: dict[str, Any]

    def probe(leaves: list[Any]) -> dict[str, Any]:
        return _measured(algorithm, placement.acting_state(leaves, positions, like), config)

    found = jax.device_get(jax.jit(jax.vmap(probe, axis_size=len(rows)))(chosen))
    lengths = [_lengths(*ends) for ends in zip(found["terminated"], found["truncated"], strict=True)]
    return Probe(
        low=found["low"],
        high=found["high"],
        deviation=found["deviation"],
        is_vector=isinstance(config.env.observation_space, Box) and len(config.env.observation_space.shape) == 1,
        most_frequent=found["most_frequent"],
        at_bounds=found["at_bounds"],
        dead=found["dead"],
        lengths=[terminated for terminated, _ in lengths],
        unusual=found["unusual"],
        truncated_lengths=[truncated for _, truncated in lengths],
    )


def _measured(algorithm: Any, state: Any, config: Any) -> dict[str, Any]:
    """The measures of one seed."""
    env = config.env.replace(normalize_observations=False, normalize_rewards=None)  # `act` normalizes
    policy = evaluation.as_recurrent(algorithm.act(state, config))
    key_reset, key_steps, key_policy = jax.random.split(jax.random.key(0), 3)

    def choose(hidden: Any, key: jax.Array, obs: Any) -> tuple[Any, Any]:
        action, hidden = policy.step(key, obs, hidden)
        return action, (action, hidden)

    def carry_over(_: Any, __: jax.Array, step: rollout.Trajectory) -> tuple[Any, rollout.Trajectory]:
        action, hidden = step.action
        hidden = networks.reset_hidden_state(hidden, step.terminated | step.truncated)
        return hidden, step._replace(action=action)

    _, _, steps, _ = rollout.interact(
        key_steps,
        choose,
        carry_over,
        policy.initial_hidden_state(_ENVS),
        jax.random.split(key_policy, _STEPS),
        rollout.reset(key_reset, env, _ENVS),
        env,
        _STEPS,
    )
    collector = getattr(state, "collector", None)
    seen = steps.obs if collector is None else rollout.observe(collector, config.env, steps.obs)
    floats = [x for x in jax.tree.leaves(plain(seen)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    entries = jnp.concatenate([x.reshape(_STEPS * _ENVS, -1) for x in floats] or [jnp.zeros((1, 0))], axis=1)
    sample = jax.tree.map(lambda x: x[::_EVERY].reshape(-1, *x.shape[2:]), steps.obs)
    return {
        "low": entries.min(axis=0),
        "high": entries.max(axis=0),
        "deviation": entries.std(axis=0),
        "terminated": steps.terminated,
        "truncated": steps.truncated,
        "unusual": _unusual(steps),
        "dead": _dead(
            lambda: policy.step(key_policy, sample, policy.initial_hidden_state(len(jax.tree.leaves(sample)[0])))
        ),
        **_actions(steps.action, config.env.action_space),
    }


def _actions(actions: jax.Array, space: Any) -> dict[str, jax.Array]:
    flat = actions.reshape(_STEPS * _ENVS, -1)
    most = jnp.all(flat == jnp.median(flat, axis=0).astype(flat.dtype), axis=1).mean()
    if not isinstance(space, Box):
        return {"most_frequent": most, "at_bounds": jnp.float32(0.0)}
    low, high = (np.asarray(bound).reshape(-1) for bound in (space.low, space.high))
    near = (flat < low + _AT_BOUND * (high - low)) | (flat > high - _AT_BOUND * (high - low))
    return {"most_frequent": most, "at_bounds": near.mean()}


def _unusual(steps: rollout.Trajectory) -> jax.Array:
    """The part of terminal observations with an entry outside the range of all others; 1 without any."""
    arrays = jax.tree.leaves(plain(steps.next_obs))
    entries = jnp.concatenate([x.reshape(_STEPS, _ENVS, -1).astype(jnp.float32) for x in arrays], axis=2)
    other = ~steps.terminated[..., None]
    low = jnp.where(other, entries, jnp.inf).min(axis=(0, 1))
    high = jnp.where(other, entries, -jnp.inf).max(axis=(0, 1))
    outside = jnp.any((entries < low) | (entries > high), axis=2) & steps.terminated
    return jnp.where(steps.terminated.any(), outside.sum() / jnp.maximum(steps.terminated.sum(), 1), 1.0)


def _dead(call: Any) -> dict[str, jax.Array]:
    """The part of each hidden layer's units that are dead or saturated in all states of a call of the policy."""
    found: dict[str, jax.Array] = {}

    def note(function: Any, arguments: Any, named: Any, context: nn.module.InterceptorContext) -> Any:
        out = function(*arguments, **named)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, nn.Dense | nn.LayerNorm):
            parent = module.parent
            last = nn.LayerNorm if getattr(parent, "layer_norm", False) else nn.Dense
            if isinstance(parent, Torso) and isinstance(module, last) and parent.activation in ("relu", "tanh"):
                units = out.reshape(-1, out.shape[-1])
                stuck = units <= 0 if parent.activation == "relu" else jnp.abs(jnp.tanh(units)) > _SATURATED
                found["/".join(map(str, module.path))] = stuck.all(axis=0).mean()
        return out

    with nn.intercept_methods(note):
        call()
    return found


def _lengths(terminated: np.ndarray, truncated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the episodes that ended in either way, from `[T, N]` flags."""
    lengths: tuple[list[int], list[int]] = ([], [])
    for end, cut in zip(terminated.T, truncated.T, strict=True):
        at = np.flatnonzero(end | cut)
        for length, is_cut in zip(np.diff(at, prepend=-1), cut[at] & ~end[at], strict=True):
            lengths[int(is_cut)].append(int(length))
    return np.array(lengths[0], int), np.array(lengths[1], int)


def still(result: Any, rows: np.ndarray, seed: int, seeds: int) -> tuple[dict[str, list[int]], list[int]]:
    """Seeds whose parameters are the initial ones at the end, by path; and those whose whole target network is.

    Args:
        result: of the run.
        rows: of the seeds.
        seed, seeds: the run's options, from which the initial states follow.
    """
    parts = ("params", "target_params")
    last = {name: getattr(result.states, name) for name in parts if hasattr(result.states, name)}
    keys = jax.random.split(jax.random.key(seed), seeds)[result.seeds[rows]]

    def initial(key: jax.Array) -> dict[str, Any]:
        state = result.algorithm.init(core.training_keys(key)[0], result.config)
        return {name: getattr(state, name) for name in last}

    first = jax.device_get(jax.jit(jax.vmap(initial))(keys))
    last = jax.tree.map(lambda x: np.asarray(x)[rows], last)

    def same(before: Any, after: Any) -> np.ndarray:
        """`[K]`; a scalar, such as a temperature that is not tuned, is none."""
        if np.ndim(before) < 2 or not np.issubdtype(np.asarray(before).dtype, np.inexact):
            return np.zeros(len(rows), bool)
        near = np.isclose(before, after, rtol=1e-5, atol=1e-7)
        return near.reshape(len(rows), -1).all(axis=1)

    numbers = result.seeds[rows]
    flat = [
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): x
            for path, x in jax.tree.leaves_with_path(one.get("params", ()))
        }
        for one in (first, last)
    ]
    parameters = {
        path: numbers[held].tolist() for path in flat[0] if (held := same(flat[0][path], flat[1][path])).any()
    }
    targets = [
        same(before, after) | (np.ndim(before) < 2)
        for before, after in zip(*(jax.tree.leaves(one.get("target_params", ())) for one in (first, last)), strict=True)
    ]
    return parameters, numbers[np.all(targets, axis=0)].tolist() if targets else []


def fed(result: Any) -> tuple[int, int] | None:
    """Steps of each environment that the replay buffer got, and those that it should have got; None without one."""
    states, config = result.states, result.config
    if not hasattr(states, "replay") or not hasattr(states, "step") or not hasattr(config, "prefill_steps"):
        return None
    steps = int(np.max(np.asarray(states.step)))
    return int(np.max(np.asarray(states.replay.added))), off_policy.prefill_rows(config) + steps * config.num_steps
