"""What an environment is: a record of pure functions, made from a gymnax id, a gymnax object, or one's own."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.devices import use_cpu_cores
from rljax.envs.spaces import Box, Discrete, Space, from_gymnax
from rljax.errors import UsageError, suggest


class TimeStep(NamedTuple):
    """What one step gives. `next_obs` is the true successor; `obs` is what the agent sees next.

    The two differ only where the engine has reset an episode that ended: `obs` then begins the next episode.
    """

    obs: Any
    next_obs: Any
    reward: jax.Array  # [] float32
    terminated: jax.Array  # [] bool, the task ended: nothing can be earned after it
    truncated: jax.Array  # [] bool, cut off by a time limit: the task goes on unseen


def timestep(obs: Any, reward: Any, terminated: Any, truncated: Any = False) -> TimeStep:
    """A `TimeStep` of an environment's own step: both observations equal, dtypes as the engine expects them."""
    return TimeStep(obs, obs, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(truncated))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=[
        "reset",
        "step",
        "observation_space",
        "action_space",
        "name",
        "wrappers",
        "normalize_observations",
        "normalize_rewards",
        "recipe",
    ],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Env:
    """An environment. `params` are the pytree's leaves; everything else is static and compared by value.

    Attributes:
        reset: `(key, params) -> (obs, state)`.
        step: `(key, state, action, params) -> (TimeStep, state)`, with no automatic reset: the engine does that.
        observation_space: a `Discrete` or a `Box`.
        action_space: a `Discrete` or a `Box`.
        params: what `reset` and `step` are told about the world; traced, so that it can be swept.
        name: as shown in tables and files.
        wrappers: the names of the wrappers applied so far, innermost first.
        normalize_observations: set by the wrapper of that name; the engine keeps the statistics.
        normalize_rewards: the discount of the wrapper of that name, or None.
        recipe: how it was made, but for its params: `((id, settings), (wrapper, arguments), ...)`, with None in place
            of the first for an environment of one's own. Data alone unless a wrapper was given an object.
    """

    reset: Callable[[jax.Array, Any], tuple[Any, Any]]
    step: Callable[[jax.Array, Any, Any, Any], tuple[TimeStep, Any]]
    observation_space: Space
    action_space: Space
    params: Any = ()
    name: str = "own"
    wrappers: tuple[str, ...] = ()
    normalize_observations: bool = False
    normalize_rewards: float | None = None
    recipe: tuple[tuple[str, tuple[Any, ...]] | None, ...] = (None,)

    @property
    def label(self) -> str:
        """Its name, params that are not the default, and wrappers: `CartPole-v1(gravity=5.0)+time_limit(50)`."""
        fields = dataclasses.fields(self.params) if dataclasses.is_dataclass(self.params) else ()
        return label(self.name, self.recipe, {f.name: getattr(self.params, f.name) for f in fields})

    def replace(self, **changes: Any) -> "Env":
        """A copy with some fields changed, for instance `env.replace(params=...)`."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its first arguments given. Unlike `functools.partial`, two made alike are equal."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self, *rest: Any) -> Any:
        return self.function(*self.arguments, *rest)


def label(name: str, recipe: Sequence[Any], params: Mapping[str, Any]) -> str:
    """The `Env.label` of a recipe and the fields of params, also as `config.json` has them."""
    made, *wrappings = recipe
    settings = []
    if made:
        defaults = vars(_construct_once(made[0], dict(made[1])).default_params)
        changed = {k: v for k, v in params.items() if k in defaults and not np.array_equal(v, defaults[k])}
        settings = [f"{setting}={_shown(value)}" for setting, value in [*made[1], *changed.items()]]
    calls = [f"{wrapper}({', '.join(map(_shown, arguments))})" for wrapper, arguments in wrappings]
    return "+".join([f"{name}({', '.join(settings)})" if settings else name, *calls])


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return f"{value:.6g}" if np.ndim(value) == 0 else str(np.asarray(value).tolist())
    return str(getattr(value, "__name__", value))


def make(env: Any, **settings: Any) -> Env:
    """An `Env` from a gymnax id, a gymnax environment object, or an `Env` (returned as it is).

    Args:
        env: an id that `rljax envs` lists, or an environment object with gymnax 1.0's `reset_env` and `step_env`.
        **settings: fields of the environment's params (`gravity=5.0`) or arguments of its constructor (`size=12`).

    Raises:
        UsageError: the id is unknown, a setting is, or data that the environment needs are not there.
    """
    use_cpu_cores()  # before the environment's first array starts JAX
    if isinstance(env, Env):
        if settings:
            raise UsageError("make() takes settings with an id only: use env.replace(params=...) on an Env.")
        return env
    # An environment's own arrays are constants, also where make is called inside a traced function.
    with jax.ensure_compile_time_eval():
        if isinstance(env, str):
            environment, params, for_constructor = _make_gymnax(env, settings)
            made = _from_gymnax(environment, params, env)
            arguments = tuple(for_constructor.items())
            return made.replace(recipe=((env, arguments),)) if is_data(arguments) else made
        # Asked of the class: gymnax's wrappers hand these two through to what they wrap, and would be passed by.
        if hasattr(type(env), "reset_env") and hasattr(type(env), "step_env"):
            params = _replace_params(env.default_params, settings, type(env).__name__)
            return _from_gymnax(env, params, str(getattr(env, "name", type(env).__name__)))
    raise UsageError(
        f"make() takes an environment's id, a gymnax environment or an rljax.Env, got {type(env).__name__}."
    )


def is_data(value: Any) -> bool:
    """Whether a value is made of numbers, words and tuples alone, so that a file can hold it."""
    return (
        value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, tuple) and all(map(is_data, value)))
    )


def registered() -> list[str]:
    """Every id that `make` knows: gymnax's own, our tabular worlds, and those added with `gymnax.register`."""
    import gymnax  # imports plotting libraries, so only when it is needed

    from rljax.envs import worlds

    worlds.register()
    return list(gymnax.registered_envs)


def _make_gymnax(name: str, settings: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The environment object, its params, and those of the settings that its constructor took."""
    import gymnax

    if name not in registered():
        raise UsageError(f"There is no environment {name!r}: {suggest(name, registered())}")
    try:
        environment = _construct_once(name, {})
    except TypeError:  # a factory of the user's may need settings
        environment = None
    except OSError as error:
        raise UsageError(
            f"{name} needs data files that are not here and could not be downloaded ({error}): "
            "put MNIST's four idx .gz files into /tmp/mnist."
        ) from error
    fields = [] if environment is None else [f.name for f in dataclasses.fields(environment.default_params)]
    for_constructor = {k: v for k, v in settings.items() if k not in fields}
    if for_constructor or environment is None:
        try:
            constructed = _construct_once(name, for_constructor)
        except ValueError as error:  # a right name with a value that cannot be
            raise UsageError(f"{name} cannot be made with these settings: {error}.") from None
        except TypeError as error:
            wrong = next(iter(for_constructor), "")
            known = [*fields, *inspect.signature(gymnax.registration._registry[name]).parameters]
            hint = suggest(wrong, known) if known else f"{error}."
            raise UsageError(f"{name} cannot be made with the setting {wrong!r}: {hint}") from None
        environment = constructed
    chosen = {k: v for k, v in settings.items() if k in fields}
    return environment, _replace_params(environment.default_params, chosen, name), for_constructor


def _construct_once(name: str, settings: dict[str, Any]) -> Any:
    """One object for an id and its settings, so that making it twice gives equal static parts and no recompile."""
    try:
        hash(tuple(settings.values()))
    except TypeError:
        return _construct.__wrapped__(name, tuple(settings.items()))
    return _construct(name, tuple(sorted(settings.items())))


@functools.cache
def _construct(name: str, constructor_settings: tuple[tuple[str, Any], ...]) -> Any:
    import gymnax

    return gymnax.make(name, **dict(constructor_settings))[0]


def _replace_params(params: Any, settings: dict[str, Any], name: str) -> Any:
    known = [f.name for f in dataclasses.fields(params)]
    for setting, value in settings.items():
        if setting not in known:
            raise UsageError(f"{name} has no setting {setting!r}: {suggest(setting, known)}")
        is_number = isinstance(value, bool | int | float | np.generic | np.ndarray | jax.Array)
        if isinstance(getattr(params, setting), int | float) and not is_number:
            raise UsageError(f"{setting} of {name} must be a number, got {value!r}.")
    return dataclasses.replace(params, **settings)


# What gymnax 1.0.1 declares bounds for that its observations leave: MemoryChain's context is -1 or 1 (from 0 on is
# declared), GaussianBandit's reward has no bounds (0 to 2) and its time starts at -1 (0), and MetaMaze's reward is 10
# (1 is the highest). Nothing but running shows that, so they are named.
_UNTRUE_BOUNDS = ("MemoryChain-bsuite", "GaussianBandit-misc", "MetaMaze-misc")


def _from_gymnax(environment: Any, params: Any, name: str) -> Env:
    space = from_gymnax(environment.observation_space(params))
    obs, _ = jax.eval_shape(environment.reset_env, jax.random.key(0), params)
    if isinstance(space, Box):
        # Some environments declare float32 and return integers: what they return is what the engine stores.
        true_bounds = obs.shape == space.shape and getattr(environment, "name", name) not in _UNTRUE_BOUNDS
        low, high = (space.low, space.high) if true_bounds else (-np.inf, np.inf)
        space = Box(low, high, obs.shape, obs.dtype)
    return Env(
        reset=Bound(_gymnax_reset, (environment,)),
        step=Bound(_gymnax_step, (environment,)),
        observation_space=space,
        action_space=from_gymnax(environment.action_space(params)),
        params=params,
        name=name,
    )


def _gymnax_reset(environment: Any, key: jax.Array, params: Any) -> tuple[Any, Any]:
    obs, state = environment.reset_env(key, params)
    return _strong(obs), _strong(state)


def _gymnax_step(environment: Any, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[TimeStep, Any]:
    # step_env, not step: gymnax's step draws a reset at every call, which costs more than most physics.
    obs, state, reward, terminated, _ = environment.step_env(key, state, action, params)
    truncated = environment.is_truncated(state, params)
    return timestep(_strong(obs), reward, terminated, truncated), _strong(state)


def _strong(tree: Any) -> Any:
    """Python numbers and weak types as arrays of their dtype, so that reset and step agree on what a state is."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(x)), tree)


def begin_next_episode(result: TimeStep, state: Any, fresh_obs: Any, fresh_state: Any) -> tuple[TimeStep, Any]:
    """Where an episode ended, replace the state and `obs` by a fresh reset's; `next_obs` keeps the true successor.

    Works on one environment or on a batch: every array of `result` and `state` leads with the shape of `terminated`.
    """
    ended = result.terminated | result.truncated

    def choose(fresh: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(ended.reshape(ended.shape + (1,) * (old.ndim - ended.ndim)), fresh, old)

    return result._replace(obs=choose(fresh_obs, result.obs)), jax.tree.map(choose, fresh_state, state)


def observation_shape(space: Space) -> tuple[int, ...]:
    """The shape of an observation as a network sees it: one-hot where discrete."""
    return (space.n,) if isinstance(space, Discrete) else space.shape


def as_features(space: Space, obs: jax.Array) -> jax.Array:
    """Observations `[..., *shape]` as floats for a network: one-hot `[..., n]` where discrete, else cast."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(obs.astype(jnp.int32), space.n)
    return obs if jnp.issubdtype(obs.dtype, np.floating) else obs.astype(jnp.float32)
