"""A checker of the environment contract, for custom environments."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs import host, measures
from rljax.envs.base import Env, TimeStep, begin_next_episode
from rljax.envs.masks import masked, plain, random_action
from rljax.envs.spaces import Box, Leaf, MultiDiscrete, Space, alike, by_path, leaves_of
from rljax.errors import UsageError, located, number, shown

_MOST_LIMITS = 3  # lengths at which random steps may be truncated: a time limit has one


def check(env: Env, num_steps: int = 64) -> list[str]:
    """List violations of the environment contract, one sentence each; an empty list if none is found.

    Checks shapes and dtypes by tracing. If these are valid, runs `num_steps` random steps in 8 copies under `jit` and
    `vmap`, to find NaN, observations outside the space, randomness that does not depend on the key, and reused keys.
    `rljax.envs.seen` reports what such steps show: the range of rewards and observations, shapes, dtypes and lengths.
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
    if not isinstance(env.observation_space, Space):
        kinds = "an rljax.Box, Discrete or MultiDiscrete, or an rljax.envs.Dict or Tuple of them"
        return f"observation_space must be {kinds}, got {shown(env.observation_space)}."
    if not isinstance(env.action_space, Leaf):
        kinds = "an rljax.Discrete, MultiDiscrete or Box"
        return f"action_space must be {kinds}, got {shown(env.action_space)}: flatten it into one of them."
    for name, space in (("observation_space", env.observation_space), ("action_space", env.action_space)):
        for path, leaf in by_path(leaves_of(space)).items():
            if 0 in leaf.shape:
                got = f"got shape {leaf.shape}: use a constant, of shape (1,)."
                return f"{_at(name, path)} must have at least one entry, {got}"
    if env.legal_actions is not None and isinstance(env.action_space, Box):
        return "legal_actions needs a Discrete or MultiDiscrete action space, not a Box: leave it out."
    return None


def _at(name: str, path: str) -> str:
    """The name of what is checked, with the path of a leaf in it."""
    return f"{name} {path!r}" if path else name


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
    found = _mismatches(env, obs, state, result, next_state)
    return (found, None) if found else _legal_violation(env, state)


def _mismatches(env: Env, obs: Any, state: Any, result: Any, next_state: Any) -> list[str]:
    if not isinstance(result, TimeStep):
        return [f"step must return an rljax.TimeStep first, got {type(result).__name__}: build it with rljax.timestep."]
    spaces = leaves_of(env.observation_space)
    if not alike(obs, spaces):
        if isinstance(env.observation_space, Leaf):
            return [
                "reset returns an observation that is not one array: declare its space as an rljax.envs.Dict or Tuple, "
                "or flatten it into one."
            ]
        return [
            f"reset returns an observation of the structure {_structure(obs)}, but observation_space has "
            f"{_structure(spaces)}: they must be equal."
        ]

    found = []
    for (path, space), x in zip(by_path(spaces).items(), jax.tree.leaves(obs), strict=True):
        what = f"observations {path!r}" if path else "observations"
        if x.shape != space.shape:
            declared = f"{_at('observation_space', path)} has {space.shape}"
            found.append(f"reset returns {what} of shape {x.shape}, but {declared}.")
        if not isinstance(space, Box) and jnp.issubdtype(x.dtype, jnp.inexact):
            kind = type(space).__name__
            found.append(f"reset returns {_at(_describe(x), path)}, but a {kind} observation must be an integer.")
    for name, value in (("obs", result.obs), ("next_obs", result.next_obs)):
        if not alike(value, obs) or _describe(value) != _describe(obs):
            found.append(f"step returns {name} as {_describe(value)}, but reset returns {_describe(obs)}.")
    before: Any = jax.tree.structure(state)
    after: Any = jax.tree.structure(next_state)
    if before != after and str(before) != str(after):  # a node's text may have its address
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


def _structure(tree: Any) -> str:
    """A tree with stars for its leaves."""
    return re.sub(r"^PyTreeDef\((.*)\)$", r"\1", str(jax.tree.structure(tree)))


def _legal_violation(env: Env, state: Any) -> tuple[list[str], Exception | None]:
    """What is wrong with the result of `legal_actions`."""
    if env.legal_actions is None:
        return [], None
    try:
        legal = jax.eval_shape(env.legal_actions, state)
    except Exception as error:
        return [f"legal_actions(state) does not trace: {located(error)}"], error
    space = env.action_space
    several = isinstance(space, MultiDiscrete)
    wanted = [(n,) for n in space.nvec] if isinstance(space, MultiDiscrete) else [(getattr(space, "n", 0),)]
    parts = list(legal) if several and isinstance(legal, tuple | list) else [legal]
    if [(getattr(x, "shape", None), str(getattr(x, "dtype", None))) for x in parts] != [(n, "bool") for n in wanted]:
        shapes = ", ".join(f"bool{list(shape)}" for shape in wanted)
        return [
            f"legal_actions must return {f'the tuple ({shapes})' if several else shapes}, got {_describe(legal)}."
        ], None
    return [], None


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
    reset = jax.jit(jax.vmap(masked(env).reset, (0, None)))
    obs, state = jax.block_until_ready(reset(keys, env.params))
    found = []
    again = reset(keys, env.params)
    if not _equal(obs, again[0]) or not (env.resets_itself or _equal(state, again[1])):
        found.append("reset returns different results for the same key: draw randomness only from the key.")
    return obs, state, found


class Seen(NamedTuple):
    """What random steps of an environment have shown."""

    reward: tuple[float, float]
    """The lowest and the highest reward."""
    observations: dict[str, str]
    """Dtype, shape and range of each leaf of an observation, by its path; one of the path "" if it is one array."""
    state: str
    """Dtypes and shapes of the state, the same after `reset` and after `step`."""
    lengths: tuple[int, int] | None
    """The shortest and the longest episode that ended; None if none did."""


def seen(env: Env, num_steps: int = 64) -> Seen:
    """Report the range of rewards and observations, shapes, dtypes and episode lengths in random steps of 8 copies.

    Raises:
        UsageError: the environment breaks its contract; the message is the first sentence of `check`.
    """
    if found := check(env, num_steps):
        raise UsageError(f"{getattr(env, 'name', 'The environment')}: {found[0]}")
    keys, _, key_run = jax.random.split(jax.random.key(0), 3)
    obs, state = jax.jit(jax.vmap(masked(env).reset, (0, None)))(jax.random.split(keys, 8), env.params)
    steps, _ = _random_steps(env, num_steps)((obs, state), key_run)
    arrays = zip(jax.tree.leaves(plain(obs)), jax.tree.leaves(plain(steps.next_obs)), strict=True)
    observations = {}
    for path, (x, others) in zip(by_path(leaves_of(env.observation_space)), arrays, strict=True):
        values = np.concatenate([np.asarray(x)[None], np.asarray(others)])
        observations[path] = f"{x.dtype}{list(x.shape[1:])} from {values.min():g} to {values.max():g}"
    ended = steps.terminated | steps.truncated
    lengths = _lengths(ended, ended)
    return Seen(
        reward=(float(steps.reward.min()), float(steps.reward.max())),
        observations=observations,
        state=_describe(jax.tree.map(lambda x: x[0], state)),
        lengths=(min(lengths), max(lengths)) if lengths else None,
    )


def _lengths(ended: Any, counted: Any) -> list[int]:
    """Lengths of the episodes that `ended` `[T, 8]` where `counted` `[T, 8]`."""
    found = []
    for row, is_counted in zip(np.asarray(ended).T, np.asarray(counted).T, strict=True):
        at = np.flatnonzero(row)
        found += np.diff(at, prepend=-1)[is_counted[at]].tolist()
    return found


def _random_steps(env: Env, num_steps: int) -> Callable[[Any, jax.Array], tuple[TimeStep, jax.Array]]:
    """A program that takes random steps `[T, 8, ...]`; also, for each, whether no action was legal."""
    engine = masked(env)

    def body(carry: Any, key: jax.Array) -> Any:
        obs, state = carry
        key_action, key_step, key_fresh = jax.random.split(key, 3)
        keys = jax.random.split(key_action, 8)
        stuck = jax.vmap(lambda _, state: _is_stuck(env, state))(keys, state)
        actions = jax.vmap(lambda key, obs: random_action(env.action_space, key, obs))(keys, obs)
        result, state = jax.vmap(engine.step, (0, 0, 0, None))(
            jax.random.split(key_step, 8), state, actions, env.params
        )
        if env.resets_itself:
            fresh = host.begun(engine, key_fresh, state)
        else:
            fresh = jax.vmap(engine.reset, (0, None))(jax.random.split(key_fresh, 8), env.params)
        result, state = begin_next_episode(result, state, *fresh)
        return (result.obs, state), (result, stuck)

    return jax.jit(lambda carry, key: jax.lax.scan(body, carry, jax.random.split(key, num_steps))[1])


def _step_violations(env: Env, key: jax.Array, obs: Any, state: Any, num_steps: int) -> list[str]:
    found = []
    _, key_other, key_run = jax.random.split(key, 3)
    run = _random_steps(env, num_steps)
    steps, stuck = run((obs, state), key_run)
    if not _equal(steps, run((obs, state), key_run)[0]):
        found.append("step returns different results for the same key: draw randomness only from the key.")
    found.extend(_observation_violations(env, plain(obs), plain(steps.next_obs)))
    if np.any(stuck):
        found.append("a state has no legal action: make one legal, or terminate the episode at it.")
    truncated = _lengths(steps.terminated | steps.truncated, steps.truncated & ~steps.terminated)
    if len(set(truncated)) > _MOST_LIMITS:
        found.append(
            f"episodes are truncated after {len(set(truncated))} different numbers of steps, from {min(truncated)} to "
            f"{max(truncated)}: truncated is for time limits; an end of the task, such as a failure, is terminated."
        )
    if not np.all(np.isfinite(np.asarray(steps.reward))):
        found.append("a reward is NaN or infinite: look for a division by 0, a logarithm of 0 or an overflow.")
    for name, values in steps.info.items():
        if not np.all(np.isfinite(values)):
            found.append(f"info {name} is NaN or infinite.")
        elif name == measures.OUTCOME:
            outcomes = np.asarray(values)[np.asarray(steps.terminated | steps.truncated)]
            if not set(outcomes.tolist()) <= {-1.0, 0.0, 1.0}:
                found.append("the outcome at the last step of an episode must be 1, 0 or -1: a win, a draw or a loss.")
    found.extend(_key_reuse(env, state, key_other))
    return found


def _is_stuck(env: Env, state: Any) -> jax.Array:
    """True `[]` if no action is legal."""
    parts = () if env.legal_actions is None else jax.tree.leaves(env.legal_actions(state))
    return jnp.array([~jnp.any(part) for part in parts], bool).any()


def _observation_violations(env: Env, first: Any, following: Any) -> list[str]:
    """What is wrong with observations `[8, ...]` and `[T, 8, ...]`, leaf by leaf."""
    found = []
    arrays = zip(jax.tree.leaves(first), jax.tree.leaves(following), strict=True)
    for (path, space), (x, others) in zip(by_path(leaves_of(env.observation_space)).items(), arrays, strict=True):
        seen = np.concatenate([np.asarray(x)[None], np.asarray(others)])
        one, several = (f"observation {path!r}", f"observations {path!r}") if path else ("observation", "observations")
        if not np.all(np.isfinite(seen)):
            found.append(f"an {one} is NaN or infinite.")
        elif isinstance(space, Box):
            if np.any(seen < space.low - 1e-4) or np.any(seen > space.high + 1e-4):
                bounds = f"{several} between {seen.min():g} and {seen.max():g} exceed {_at('observation_space', path)}"
                found.append(f"{bounds}: widen its bounds.")
        elif not np.all(jax.vmap(space.contains)(seen.reshape(-1, *space.shape))):
            found.append(f"{several} between {seen.min()} and {seen.max()} are outside {space}.")
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
