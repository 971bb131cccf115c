"""Tables of an algorithm's networks: layers, shapes and numbers of parameters."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.envs import Box
from rljax.errors import UsageError
from rljax.networks import custom
from rljax.on_policy import initial_hidden_state

_CONSOLE = {"width": 120, "force_terminal": False}


def describe(algorithm: Any, config: Any) -> str:
    """Tables of the networks that a config trains, by Flax's `tabulate`, and the number of learned parameters.

    Args:
        algorithm: a module with `default_network`, such as `rljax.ppo`.
        config: its config.

    Raises:
        UsageError: the algorithm has no network.
    """
    if not hasattr(algorithm, "default_network"):
        raise UsageError(f"{algorithm.__name__.rpartition('.')[2]} has no network to describe.")
    given = getattr(config, "network", None)
    network = algorithm.default_network(config.env, config) if given is None else given
    env, key = config.env, jax.random.key(0)
    obs, _ = jax.eval_shape(env.reset, key, env.params)
    obs = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), obs)
    if hasattr(network, "critics"):
        is_box = isinstance(env.action_space, Box)
        action = (jnp.zeros((1, math.prod(env.action_space.shape)), jnp.float32),) if is_box else ()
        parts = [("actor", network.actor, (obs,)), ("critics", network.critics, (obs, *action))]
    else:
        parts = [("network", network, (obs, *initial_hidden_state(network, 1)))]
    tables = [f"{name}\n{_table(part, inputs)}" for name, part, inputs in parts]
    params = jax.eval_shape(lambda: [part.init(key, *inputs) for _, part, inputs in parts])
    return "\n".join([*tables, f"{sum(x.size for x in jax.tree.leaves(params)):,} learned parameters"])


def _table(network: Any, inputs: tuple[Any, ...]) -> str:
    key = jax.random.key(0)
    if isinstance(network, custom.Frozen):
        return f"{_table(network.network, inputs)}frozen: {', '.join(network.params)}\n"
    if isinstance(network, custom.Nnx):
        from flax import nnx

        return nnx.tabulate(network.make(rngs=nnx.Rngs(key)), *inputs, console_kwargs=_CONSOLE)
    if isinstance(network, nn.Module):
        return nn.tabulate(network, key, console_kwargs=_CONSOLE)(*inputs)
    params = jax.eval_shape(network.init, key, *inputs)
    rows = [f"{jax.tree_util.keystr(path)} {x.dtype}{list(x.shape)}" for path, x in jax.tree.leaves_with_path(params)]
    return "\n".join([*rows, ""])
