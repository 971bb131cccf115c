"""Brax: its environments by id, `brax/ant`, in each of its four physics engines, without its automatic reset.

`rljax.make("brax/ant")` simulates as Brax's own `get_environment("ant")` does, in generalized coordinates.
`backend="spring"` and `"positional"` are faster and coarser, `"mjx"` is MuJoCo's. Other settings are arguments of the
environment's constructor, such as `ctrl_cost_weight`.

- An episode is truncated after `max_steps_in_episode` steps, 1,000 unless it is changed, as Brax's `EpisodeWrapper`
  truncates. A step at which the task ends is terminated, also at the limit.
- Brax's metrics become the environment's `info`: terms of the reward are summed over an episode, velocities averaged,
  and of positions and distances the last one counts.
- Actions are in [-1, 1].
- Brax's automatic reset returns to the same first state again and again; the engine draws a new one for each episode.
- `render` needs a display, or MuJoCo's drawing without one: set MUJOCO_GL=egl or osmesa before Python starts.
"""

import contextlib
import functools
import inspect
import io
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep, is_data, timestep
from rljax.envs.spaces import Box, space_of_leaves
from rljax.envs.suites.adapting import as_params, in_32_bits, replace_params, require_known
from rljax.errors import UsageError, located, suggest

PREFIX = "brax/"
EPISODE_LENGTH = 1000
_UNUSED = ("fast",)  # a counter for Brax's own tests


@as_params
class Params:
    """What can be changed without making the environment again."""

    max_steps_in_episode: int = EPISODE_LENGTH


class State(NamedTuple):
    """A state of the suite and the steps since its reset."""

    inner: Any
    time: jax.Array  # [] int32


def registered() -> list[str]:
    """Brax's ids and those added with `brax.envs.register_environment`."""
    return [f"{PREFIX}{name}" for name in _classes() if name not in _UNUSED]


def make(name: str, settings: dict[str, Any]) -> Env:
    """Make an environment by id; settings are `max_steps_in_episode`, or arguments of its constructor.

    Raises:
        UsageError: the id or a setting is unknown or invalid.
    """
    require_known(name, registered())
    limit = {key: value for key, value in settings.items() if key == "max_steps_in_episode"}
    arguments = tuple(sorted((key, value) for key, value in settings.items() if key not in limit))
    try:
        hash(arguments)
    except TypeError:
        environment = _construct.__wrapped__(name, arguments)
    else:
        environment = _construct(name, arguments)
    return env_of(environment, name, arguments, Params(), limit, _render)


def env_of(
    environment: Any,
    name: str,
    arguments: tuple[tuple[str, Any], ...],
    params: Params,
    limit: dict[str, Any],
    render: Callable[[Any, Any, Any], np.ndarray],
) -> Env:
    """An object with Brax's interface as an `Env`.

    Args:
        environment: the object, with `reset(key)`, `step(state, action)` and `action_size`.
        name: its id.
        arguments: with which it was constructed.
        params: its default params.
        limit: a changed `max_steps_in_episode`, or nothing.
        render: `(environment, state of the suite, params) -> uint8 [H, W, 3]`.

    Raises:
        UsageError: the environment cannot be reset, or the limit is invalid.
    """
    try:
        state = _shapes(environment)
    except Exception as error:
        raise UsageError(f"{name} cannot be reset with these settings: {located(error)}.") from error

    def box(x: Any) -> Box:
        return Box(-np.inf, np.inf, x.shape, np.float32)

    return Env(
        reset=Bound(_reset, (environment,)),
        step=Bound(_step, (environment,)),
        observation_space=space_of_leaves(jax.tree.map(box, state.obs)),
        action_space=Box(-1.0, 1.0, (int(environment.action_size),), np.float32),
        params=replace_params(params, limit, name),
        name=name,
        info={_measure(metric): _reduction(metric) for metric in state.metrics},
        recipe=((name, arguments),) if is_data(arguments) else (None,),
        default_params=Bound(_itself, (params,)),
        render=Bound(_innermost, (render, environment)),
        expensive=True,
    )


def _itself(params: Params) -> Params:
    return params


@functools.cache
def _shapes(environment: Any) -> Any:
    """The shapes of the suite's state."""
    return jax.eval_shape(environment.reset, jax.random.key(0))


def _measure(metric: str) -> str:
    """A metric's name as that of a variable: `reward/upright` becomes `reward_upright`."""
    return re.sub(r"\W", "_", metric)


def _reduction(metric: str) -> str:
    if "reward" in metric or "cost" in metric:
        return "sum"
    return "mean" if "velocity" in metric else "last"


def _reset(environment: Any, key: jax.Array, params: Params) -> tuple[Any, State]:
    with jax.enable_x64(False):
        inner = in_32_bits(environment.reset(key))
        return inner.obs, State(inner, jnp.int32(0))


def _step(environment: Any, key: jax.Array, state: State, action: Any, params: Params) -> tuple[TimeStep, State]:
    with jax.enable_x64(False):
        state, action = in_32_bits((state, action))  # new dicts, too: some environments change their state's
        inner = in_32_bits(environment.step(state.inner, action))
        time = state.time + 1
        info = {_measure(metric): value for metric, value in inner.metrics.items()}
        truncated = time >= jnp.int32(params.max_steps_in_episode)
        return timestep(inner.obs, inner.reward, inner.done != 0, truncated, info), State(inner, time)


@functools.cache
def _construct(name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """The environment object, one for an id and settings: making it twice then gives equal static parts."""
    kind, settings = _classes()[name.removeprefix(PREFIX)], dict(arguments)
    known = [*(x for x in inspect.signature(kind).parameters if x != "kwargs"), "n_frames", "max_steps_in_episode"]
    if unknown := [setting for setting in settings if setting not in known]:
        raise UsageError(f"{name} has no setting {unknown[0]!r}: {suggest(unknown[0], known)}")
    try:
        with warnings.catch_warnings(action="ignore"):
            return kind(**settings)
    except (ValueError, TypeError, AttributeError) as error:  # a known setting with an invalid value
        raise UsageError(f"{name} cannot be made with these settings: {error}") from None


def _classes() -> dict[str, Any]:
    """Brax's environments by name."""
    with quiet():
        from brax import envs
    return envs._envs  # it has no public list


@contextlib.contextmanager
def quiet() -> Any:
    """Import without a word: MuJoCo prints that it has no Warp, and a solver warns that it is no longer maintained."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        yield


def _innermost(render: Callable, environment: Any, state: Any, params: Any) -> np.ndarray:
    return render(environment, state.inner, params)


def _render(environment: Any, state: Any, params: Any) -> np.ndarray:
    """MuJoCo's picture of a state, uint8 `[240, 320, 3]`."""
    return picture(environment.sys.mj_model, state.pipeline_state.q, state.pipeline_state.qd)


def picture(model: Any, positions: Any, velocities: Any) -> np.ndarray:
    """MuJoCo's picture of a model at these positions and velocities, uint8 `[240, 320, 3]`, by its first camera.

    Raises:
        RuntimeError: MuJoCo has nothing to draw with.
    """
    import mujoco

    data = mujoco.MjData(model)
    data.qpos, data.qvel = positions, velocities
    mujoco.mj_forward(model, data)
    try:
        renderer = _renderer(model)
    except mujoco.FatalError:
        raise RuntimeError("no display: set MUJOCO_GL=egl or MUJOCO_GL=osmesa before Python starts") from None
    renderer.update_scene(data, camera=0 if model.ncam else -1)
    return renderer.render()


@functools.lru_cache(maxsize=1)
def _renderer(model: Any) -> Any:
    import mujoco

    return mujoco.Renderer(model, height=240, width=320)
