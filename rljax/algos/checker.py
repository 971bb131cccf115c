"""A checker of what an algorithm's module promises, for custom algorithms."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import core
from rljax.config import is_static, replace, with_values
from rljax.envs import Discrete, probes
from rljax.envs.base import Bound, Env, TimeStep
from rljax.envs.masks import is_legal
from rljax.envs.spaces import Box, alike, path_name
from rljax.errors import UsageError, located, number

NEEDED = ("Config", "init", "update", "act")
_UPDATES = 3
_SEEDS = 4


def check_algorithm(algorithm: Any, config: Any, probe_steps: int = 20_000) -> list[str]:
    """List what is wrong with an algorithm, one sentence each; an empty list if nothing is found.

    Runs a few updates of `config`: every gradient must be finite and somewhere not zero, every parameter must move, the
    state must keep its shapes, two seeds must differ and `vmap` must give what single runs give, other traced numbers
    must not recompile, no random key may be used twice, and no illegal action may be taken. Then it trains four seeds
    in each of the probes of `rljax.envs.probes`, whose best actions are known: a reward, an observation, a termination,
    a truncation.

    Gradients are those that the update takes with `jax.grad` or `jax.value_and_grad`.

    Args:
        algorithm: a module, or any object with its names.
        config: its config, with a small network and a learning rate that learns fast; the probes replace its `env`,
            `total_steps` and `discount`.
        probe_steps: environment steps in each probe; 0 for no probes.

    Raises:
        UsageError: `probe_steps` is not an integer of at least 0.
    """
    probe_steps = number("check_algorithm's probe_steps", probe_steps, integer=True, minimum=0, maximum=2**31 - 1)
    missing = [name for name in NEEDED if not callable(getattr(algorithm, name, None))]
    if missing:
        return [f"it has no {' and no '.join(missing)}: an algorithm is a module with {', '.join(NEEDED)}."]
    if not isinstance(config, algorithm.Config):
        kind = type(config)
        return [f"config is a {kind.__module__}.{kind.__qualname__}: give the algorithm's own, its Config(env=...)."]
    if not isinstance(getattr(config, "env", None), Env) or not hasattr(config, "num_updates"):
        return ["its Config needs env, an rljax.Env, and num_updates, the number of updates of a run: declare both."]
    if config.env.legal_actions is not None:
        config = replace(config, env=_spoiling(config.env))
    found = _traced(algorithm, config)
    if found:
        return found
    try:
        found = [*_reused(algorithm, config), *_updates(algorithm, config)]
    except Exception as error:  # any error of user code is a violation
        return [f"its updates fail: {located(error)}."]
    if probe_steps and not any("NaN" in sentence for sentence in found):
        found += _probes(algorithm, config, probe_steps)
    return found


def _spoiling(env: Env) -> Env:
    """The environment with a NaN as the reward of an illegal action, which no learner survives."""
    return env.replace(step=Bound(_spoiled, (env.step, env.action_space, env.legal_actions)))


def _spoiled(step: Any, space: Any, legal: Any, key: jax.Array, state: Any, action: Any, params: Any) -> Any:
    result, following = step(key, state, action, params)
    allowed = is_legal(space, legal(state), action)
    spoiled: TimeStep = result._replace(reward=jnp.where(allowed, result.reward, jnp.nan))
    return spoiled, following


def _traced(algorithm: Any, config: Any) -> list[str]:
    """What tracing finds: errors, a state that changes its shape, metrics that are not scalars."""
    key = jax.random.key(0)
    call = "init(key, config)"
    try:
        state = jax.eval_shape(algorithm.init, key, config)
        call = "update(key, state, config)"
        returned = jax.eval_shape(algorithm.update, key, state, config)
    except jax.errors.ConcretizationTypeError as error:
        return [
            f"{call} needs the value of a traced number while it is compiled, so that vmap and sweeps fail: make its "
            f"field static, or compute with jnp: {located(error)}."
        ]
    except Exception as error:
        return [f"{call} does not trace: {located(error)}."]
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
        return ["update must return two things, the new state and a dict of metrics: `return state, metrics`."]
    after, metrics = returned
    found = []
    if not alike(state, after):
        found.append("update returns a state of another structure than init does: return the same fields.")
    else:
        pairs = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after), strict=True)
        found += [
            f"update changes the state's {path_name(path)} from {x.dtype}{list(x.shape)} to {y.dtype}{list(y.shape)}: "
            "make init and update agree."
            for (path, x), y in pairs
            if (x.shape, x.dtype) != (y.shape, y.dtype)
        ]
    shapes = {name: np.shape(x) for name, x in metrics.items()}
    found += [f"the metric {name} must be a scalar, got shape {x}: log its mean." for name, x in shapes.items() if x]
    return found


def _reused(algorithm: Any, config: Any) -> list[str]:
    """What JAX's check of random keys finds in a run of one update."""

    def run(key: jax.Array) -> Any:
        key_init, key_update, _ = core.training_keys(key)
        return algorithm.update(key_update, algorithm.init(key_init, config), config)[1]

    try:
        with jax.debug_key_reuse(True):
            jax.block_until_ready(jax.jit(run)(jax.random.key(0)))
    except jax.errors.KeyReuseError:
        return ["init or update uses one key twice: split it once into as many keys as it needs."]
    return []


class _Gradients:
    """What the gradients of an update were, by the paths of parameters."""

    def __init__(self) -> None:
        self.finite: dict[str, bool] = {}
        self.used: dict[str, bool] = {}

    def watch(self, gradient: Any) -> None:
        """Note a gradient when the program runs."""
        leaves = {path_name(path) or "params": x for path, x in jax.tree.leaves_with_path(gradient)}

        def note(facts: dict[str, Any]) -> None:
            for name, (is_finite, is_used) in facts.items():
                self.finite[name] = self.finite.get(name, True) and bool(np.all(is_finite))
                self.used[name] = self.used.get(name, False) or bool(np.any(is_used))

        jax.debug.callback(note, {name: (jnp.all(jnp.isfinite(x)), jnp.any(x != 0)) for name, x in leaves.items()})


@contextlib.contextmanager
def _recorded(gradients: _Gradients) -> Iterator[None]:
    """Record every gradient that is taken while a program is traced."""
    grad, value_and_grad = jax.grad, jax.value_and_grad

    def recorded_value_and_grad(function: Any, *arguments: Any, **options: Any) -> Any:
        inner = value_and_grad(function, *arguments, **options)

        def call(*inputs: Any, **named: Any) -> Any:
            value, gradient = inner(*inputs, **named)
            gradients.watch(gradient)
            return value, gradient

        return call

    def recorded_grad(function: Any, *arguments: Any, **options: Any) -> Any:
        inner = grad(function, *arguments, **options)

        def call(*inputs: Any, **named: Any) -> Any:
            result = inner(*inputs, **named)
            gradients.watch(result[0] if options.get("has_aux") else result)
            return result

        return call

    recorders: dict[str, Any] = {"grad": recorded_grad, "value_and_grad": recorded_value_and_grad}
    try:
        for name, recorder in recorders.items():
            setattr(jax, name, recorder)
        yield
    finally:
        for name, original in (("grad", grad), ("value_and_grad", value_and_grad)):
            setattr(jax, name, original)


def _updates(algorithm: Any, config: Any) -> list[str]:
    """What a few updates of two seeds find."""
    traces: list[None] = []
    gradients = _Gradients()

    def update(key: jax.Array, state: Any, config: Any) -> Any:  # a new function, or JAX would reuse an earlier trace
        return algorithm.update(key, state, config)

    most = min(_UPDATES, config.num_updates)

    def run(key: jax.Array, config: Any, count: jax.Array) -> Any:  # counted by an input, or XLA would unroll the loop
        traces.append(None)
        key_init, key_updates, _ = core.training_keys(key)
        start = algorithm.init(key_init, config)
        state, _ = core.advance(update, key_updates, start, config, 0, count, most)
        return _learned(start), _learned(state), core.finite(state)

    keys = jax.random.split(jax.random.key(0), 2)
    single = jax.jit(run)
    with _recorded(gradients):
        start, end, is_finite = jax.block_until_ready(single(keys[1], config, most))
    jax.effects_barrier()
    found = [
        f"the gradient of {name} is NaN or infinite: look in its loss for a division by 0, or a root or logarithm of 0."
        for name, is_one in gradients.finite.items()
        if not is_one
    ]
    if not is_finite and not found:
        why = "a loss, or the reward of an illegal action" if config.env.legal_actions is not None else "a loss"
        found.append(f"its state has a NaN after {most} updates: look for one in {why}.")
    if found:
        return found
    unused = [name for name, is_used in gradients.used.items() if not is_used]
    found += [
        f"the gradient of {name} is always zero: its loss does not depend on it, or stop_gradient cuts it off."
        for name in unused
    ]
    found += _still(start, end, unused)
    found += _recompiled(lambda config: single(keys[1], config, most), traces, config)
    _, ends, _ = jax.jit(jax.vmap(run, (0, None, None)))(keys, config, most)
    if all(np.array_equal(x[0], x[1]) for x in jax.tree.leaves(ends)):
        return [*found, "two seeds learn the same: draw all randomness from the key."]
    differ = [
        path_name(path)
        for (path, x), y in zip(jax.tree.leaves_with_path(end), jax.tree.leaves(ends), strict=True)
        if not np.allclose(x, y[1], rtol=1e-3, atol=1e-4)
    ]
    if differ:
        found.append(
            f"a run under vmap differs from the same run by itself, in {', '.join(differ[:3])}: nothing may depend on "
            "Python's state, or on other runs."
        )
    return found


def _learned(state: Any) -> Any:
    """What is learned: `params`, or all numbers of a state without them."""
    learned = getattr(state, "params", None)
    return [x for x in jax.tree.leaves(state) if _is_float(x)] if learned is None else learned


def _is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _still(start: Any, end: Any, unused: list[str]) -> list[str]:
    """Parameters that did not move, except those without a gradient, which are named already."""
    pairs = zip(jax.tree.leaves_with_path(start), jax.tree.leaves(end), strict=True)
    still = [path_name(path) or "params" for (path, x), y in pairs if np.array_equal(x, y)]
    if isinstance(start, list):  # numbers of a state, of which some need not change
        nothing = "nothing is learned, since no number of the state changes: let update return the new state."
        return [nothing] if len(still) == len(start) else []
    return [
        f"the parameter {name} does not move: the optimiser does not get it, or its update is dropped."
        for name in still
        if not any(name == path or name.endswith(f".{path}") for path in unused)
    ]


def _recompiled(single: Any, traces: list[None], config: Any) -> list[str]:
    """Traced numbers whose values change the program."""
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not is_static(field):
            before = len(traces)
            jax.block_until_ready(single(with_values(config, {field.name: value * 0.9})))
            if len(traces) > before:
                found.append(f"another value of {field.name} compiles another program: declare it with rljax.traced.")
    return found


def _probes(algorithm: Any, config: Any, steps: int) -> list[str]:
    """Probes that are not learned by most of the seeds."""
    is_index = isinstance(config.env.observation_space, Discrete)
    is_continuous = isinstance(config.env.action_space, Box)
    fields = {field.name for field in dataclasses.fields(config)}
    wanted = {"total_steps": steps, "discount": probes.DISCOUNT, "schedule_steps": None}
    changes = {name: value for name, value in wanted.items() if name in fields}

    def learn(key: jax.Array, world: Any) -> Any:
        env = probes.probe(world, config.env.observation_space, config.env.action_space)
        trained = replace(config, env=env, **changes)
        key_init, key_updates, key_act = core.training_keys(key)
        state = algorithm.init(key_init, trained)
        count = trained.num_updates
        state, _ = core.advance(algorithm.update, key_updates, state, trained, 0, count, count)
        policy = algorithm.act(state, trained)
        obs = probes.observed(jnp.arange(probes.STATES), is_index)
        if hasattr(policy, "step"):
            action, _ = policy.step(key_act, obs, policy.initial_hidden_state(probes.STATES))
        else:
            action = policy(key_act, obs)
        if np.shape(action)[:1] != (probes.STATES,):
            got = f"of {probes.STATES} observations its policy gave the shape {np.shape(action)}"
            raise UsageError(f"{got}: act must return a policy of (key, obs [N, ...]) that gives N actions.")
        return probes.chosen(action, is_continuous)

    worlds = jax.tree.map(
        lambda *tables: np.stack(tables).astype(tables[0].dtype), *(p.world for p in probes.PROBES.values())
    )
    keys = jax.random.split(jax.random.key(0), _SEEDS)
    try:
        actions = jax.device_get(jax.jit(jax.vmap(jax.vmap(learn, (0, None)), (None, 0)))(keys, worlds))
    except UsageError as error:
        return [f"it cannot be trained in the probes: {error}"]
    except Exception as error:
        return [f"it fails in the probes: {located(error)}."]
    found = []
    for (name, probe), chosen in zip(probes.PROBES.items(), actions, strict=True):
        right = np.all([chosen[:, state] == best for state, best in probe.best.items()], axis=0)
        if right.sum() <= _SEEDS // 2:
            found.append(
                f"the probe {name} is not learned in {steps:,} steps, by {right.sum()} of {_SEEDS} seeds: "
                f"{probe.remedy}; or raise the learning rate or probe_steps."
            )
    return found
