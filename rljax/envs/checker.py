"""A checker of the environment contract, for custom environments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs import measures
from rljax.envs.base import Env, TimeStep, begin_next_episode
from rljax.envs.spaces import Box, Discrete
from rljax.errors import UsageError, located, number, shown


def check(env: Env, num_steps: int = 64) -> list[str]:
    """List violations of the environment contract, one sentence each; an empty list if none is found.

    Checks shapes and dtypes by tracing. If these are valid, runs `num_steps` random steps in 8 copies under `jit` and
    `vmap`, to find NaN, observations outside the space, randomness that does not depend on the key, and reused keys.
    """
    num_steps = number("check's num_steps", num_steps, integer=True, minimum=1, maximum=1_000_000)
    if not isinstance(env, Env):
        return [f"it is not an rljax.Env but {shown(env)}: make one with rljax.make or rljax.Env."]
    found, _ = _shape_violations(env)
    return found or _run_violations(env, jax.random.key(0), num_steps)


def require(env: Env) -> None:
    """Raise `UsageError` for the first violation that `check` finds by tracing only; cheap enough for every run.

    An error in the environment's code is the cause of the `UsageError`, which names its file and line.
    """
    found, cause = _shape_violations(env)
    if found:
        raise UsageError(f"{env.name}: {found[0]}") from cause


def space_violation(env: Env) -> str | None:
    """What is wrong with the environment's spaces, one sentence, or None."""
    for name, space in (("observation_space", env.observation_space), ("action_space", env.action_space)):
        if not isinstance(space, Discrete | Box):
            return f"{name} must be an rljax.Discrete or an rljax.Box, got {shown(space)}: flatten it into one of them."
        if 0 in space.shape:
            return f"{name} must have at least one entry, got shape {space.shape}: use a constant, of shape (1,)."
    return None


def _describe(tree: Any) -> str:
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(tree)) or "nothing"


def _is_scalar(value: Any, kind: Any) -> bool:
    return getattr(value, "shape", None) == () and bool(jnp.issubdtype(value.dtype, kind))


def _shape_violations(env: Env) -> tuple[list[str], Exception | None]:
    """Violations found by tracing, without running the environment, and the error behind the first one."""
    violation = space_violation(env)
    if violation:
        return [violation], None
    key = jax.random.key(0)
    call = "reset(key, params) does not trace to (obs, state)"
    try:
        obs, state = jax.eval_shape(env.reset, key, env.params)
        action = jax.eval_shape(env.action_space.sample, key)
        call = "step(key, state, action, params) does not trace to (TimeStep, state)"
        result, next_state = jax.eval_shape(env.step, key, state, action, env.params)
    except Exception as error:  # any error of user code is a violation
        return [f"{call}: {located(error)}"], error
    return _mismatches(env, obs, state, result, next_state), None


def _mismatches(env: Env, obs: Any, state: Any, result: Any, next_state: Any) -> list[str]:
    if not isinstance(result, TimeStep):
        return [f"step must return an rljax.TimeStep first, got {type(result).__name__}: build it with rljax.timestep."]
    if not hasattr(obs, "shape"):
        return ["reset returns an observation that is not one array: flatten it into one."]

    found = []
    if obs.shape != env.observation_space.shape:
        found.append(
            f"reset returns observations of shape {obs.shape}, but observation_space has {env.observation_space.shape}."
        )
    if isinstance(env.observation_space, Discrete) and jnp.issubdtype(obs.dtype, jnp.inexact):
        found.append(f"reset returns {_describe(obs)}, but a Discrete observation must be an integer.")
    for name, value in (("obs", result.obs), ("next_obs", result.next_obs)):
        if _describe(value) != _describe(obs):
            found.append(f"step returns {name} as {_describe(value)}, but reset returns {_describe(obs)}.")
    structures = [str(jax.tree.structure(tree)) for tree in (state, next_state)]
    if structures[0] != structures[1]:
        found.append("step returns a state with another structure than reset does.")
    elif _describe(next_state) != _describe(state):
        found.append(f"step changes the state's shapes or dtypes from {_describe(state)} to {_describe(next_state)}.")
    if not _is_scalar(result.reward, jnp.floating):
        got = _describe(result.reward)
        found.append(f"the reward must be one float32 scalar, got {got}: build steps with rljax.timestep.")
    for name, value in (("terminated", result.terminated), ("truncated", result.truncated)):
        if not _is_scalar(value, jnp.bool_):
            found.append(f"{name} must be one bool scalar, got {_describe(value)}: build steps with rljax.timestep.")
    if (wrong := measures.violation(env.info, result.info)) is not None:
        return [*found, wrong]
    found.extend(
        f"info {name} must be one number, got {_describe(value)}."
        for name, value in result.info.items()
        if not _is_scalar(value, jnp.floating)
    )
    return found


def _run_violations(env: Env, key: jax.Array, num_steps: int) -> list[str]:
    """Violations found by running the environment."""
    try:
        obs, state, found = _reset_violations(env, key)
    except Exception as error:
        return [f"reset fails under jit and vmap: {located(error)}"]
    try:
        return found + _step_violations(env, key, obs, state, num_steps)
    except Exception as error:
        return [*found, f"step fails under jit and vmap: {located(error)}"]


def _reset_violations(env: Env, key: jax.Array) -> tuple[Any, Any, list[str]]:
    keys = jax.random.split(jax.random.split(key, 3)[0], 8)
    reset = jax.jit(jax.vmap(env.reset, (0, None)))
    obs, state = jax.block_until_ready(reset(keys, env.params))
    found = []
    if not _equal((obs, state), reset(keys, env.params)):
        found.append("reset returns different results for the same key: draw randomness only from the key.")
    return obs, state, found


def _step_violations(env: Env, key: jax.Array, obs: Any, state: Any, num_steps: int) -> list[str]:
    found = []
    _, key_other, key_run = jax.random.split(key, 3)

    def body(carry: Any, key: jax.Array) -> Any:
        _, state = carry
        key_action, key_step, key_fresh = jax.random.split(key, 3)
        actions = jax.vmap(env.action_space.sample)(jax.random.split(key_action, 8))
        result, state = jax.vmap(env.step, (0, 0, 0, None))(jax.random.split(key_step, 8), state, actions, env.params)
        fresh = jax.vmap(env.reset, (0, None))(jax.random.split(key_fresh, 8), env.params)
        result, state = begin_next_episode(result, state, *fresh)
        return (result.obs, state), result

    run = jax.jit(lambda carry, key: jax.lax.scan(body, carry, jax.random.split(key, num_steps)))
    _, steps = run((obs, state), key_run)
    if not _equal(steps, run((obs, state), key_run)[1]):
        found.append("step returns different results for the same key: draw randomness only from the key.")
    seen = np.concatenate([np.asarray(obs)[None], np.asarray(steps.next_obs)])
    if not np.all(np.isfinite(seen)):
        found.append("an observation is NaN or infinite.")
    elif isinstance(env.observation_space, Box):
        low, high = env.observation_space.low, env.observation_space.high
        if np.any(seen < low - 1e-4) or np.any(seen > high + 1e-4):
            found.append(
                f"observations between {seen.min():g} and {seen.max():g} exceed observation_space: widen its bounds."
            )
    elif seen.min() < 0 or seen.max() >= env.observation_space.n:
        found.append(f"observations between {seen.min()} and {seen.max()} are outside {env.observation_space}.")
    if not np.all(np.isfinite(np.asarray(steps.reward))):
        found.append("a reward is NaN or infinite.")
    for name, values in steps.info.items():
        if not np.all(np.isfinite(values)):
            found.append(f"info {name} is NaN or infinite.")
        elif name == measures.OUTCOME:
            outcomes = np.asarray(values)[np.asarray(steps.terminated | steps.truncated)]
            if not set(outcomes.tolist()) <= {-1.0, 0.0, 1.0}:
                found.append("the outcome at the last step of an episode must be 1, 0 or -1: a win, a draw or a loss.")
    found.extend(_key_reuse(env, state, key_other))
    return found


def _key_reuse(env: Env, state: Any, key: jax.Array) -> list[str]:
    """Run reset and step once with JAX's key-reuse checker on."""
    one_state = jax.tree.map(lambda x: x[0], state)
    key_reset, key_step, key_action = jax.random.split(key, 3)
    action = env.action_space.sample(key_action)
    calls = {
        "reset": lambda: env.reset(key_reset, env.params),
        "step": lambda: env.step(key_step, one_state, action, env.params),
    }
    found = []
    for name, call in calls.items():
        try:
            with jax.debug_key_reuse(True):
                jax.jit(call)()
        except jax.errors.KeyReuseError:
            found.append(f"{name} uses one key twice: split it once into as many keys as it needs.")
    return found


def _equal(left: Any, right: Any) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(_as_numbers(a), _as_numbers(b), equal_nan=True) for a, b in pairs)


def _as_numbers(x: jax.Array) -> np.ndarray:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)
