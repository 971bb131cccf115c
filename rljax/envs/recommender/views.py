"""Other views of a recommender, for the policies that learners are compared with.

`revealed` shows what no system sees, the expected reward of every item, and `greedy` takes the best of them: the myopic
policy that knows the person. `as_bandit` is the world of a contextual bandit, so that the agents of `rljax.bandits`
play it. `rljax.envs.heuristics.random` recommends at random.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Bound, Env, TimeStep
from rljax.envs.masks import Masked, plain, where_legal
from rljax.envs.recommender import simulator
from rljax.envs.recommender.simulator import State, World
from rljax.envs.spaces import Box, Discrete, MultiDiscrete
from rljax.errors import UsageError
from rljax.types import Policy


def world_of(env: Env) -> World:
    """What fixes a recommender's shapes; raise `UsageError` for another environment, or a wrapped one."""
    bound = env.step.arguments if isinstance(env.step, Bound) else ()
    if not bound or not isinstance(bound[0], World) or env.wrappers:
        raise UsageError(f"{env.label} is not a recommender without wrappers: make one such as recommender/drift-100.")
    return bound[0]


def revealed(env: Env) -> Env:
    """The same world, which observes the expected reward `[n]` of every item, if it is shown without others.

    Raises:
        UsageError: the environment is not a recommender, or is wrapped.
    """
    world = world_of(env)
    return env.replace(
        reset=Bound(_revealed_reset, (world,)),
        step=Bound(_revealed_step, (world,)),
        observation_space=Box(-np.inf, np.inf, np.shape(env.params.catalogue.appeal)),
        name=f"{env.name} revealed",
        recipe=(None,),
    )


def _revealed_reset(world: World, key: jax.Array, params: Any) -> tuple[jax.Array, State]:
    _, state = simulator.reset(world, key, params)
    return simulator.expected_rewards(state, params), state


def _revealed_step(
    world: World, key: jax.Array, state: State, action: jax.Array, params: Any
) -> tuple[TimeStep, State]:
    result, state = simulator.step(world, key, state, action, params)
    obs = simulator.expected_rewards(state, params)
    return result._replace(obs=obs, next_obs=obs), state


def greedy(env: Env) -> Policy:
    """The policy of `revealed` that shows the items of the highest expected reward, among the candidates."""

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        return _best(env, _of_candidates(plain(obs), obs))

    return policy


def _of_candidates(values: jax.Array, obs: Any) -> jax.Array:
    """Values `[N, n]` of items, -inf for those that are no candidates at observations `[N, ...]`."""
    if not isinstance(obs, Masked):
        return values
    return where_legal(values, obs._replace(legal=obs.legal[..., : values.shape[-1]]))  # the same for every place


def _best(env: Env, values: jax.Array) -> jax.Array:
    """The item, or the slate, of the highest values `[N, n]`."""
    space = env.action_space
    size = len(space.nvec) if isinstance(space, MultiDiscrete) else 1
    best = jax.lax.top_k(values, size)[1].astype(jnp.int32)
    return best if isinstance(space, MultiDiscrete) else best[:, 0]


def most_popular(env: Env) -> Policy:
    """The policy that shows the most popular of the candidates that are not in the history.

    Raises:
        UsageError: the environment is not a recommender, or is wrapped.
    """
    world_of(env)
    popularity = env.params.catalogue.popularity

    def policy(key: jax.Array, obs: Any) -> jax.Array:
        items = plain(obs)["items"]
        seen = jnp.any(items[:, :, None] == jnp.arange(len(popularity)), axis=1)
        return _best(env, _of_candidates(popularity - seen, obs))  # seen ones follow in the same order

    return policy


def as_bandit(env: Env) -> Env:
    """The same world for the agents of `rljax.bandits`: it observes features `[n, 2 d + 3]` of every item.

    With f the item's known features and m the recency-weighted mean of those that were clicked, they are f, the product
    of each of them with that of m, their sum, whether the item is in the history, and 1. Every step reports the
    `expected_reward` of the item, the `oracle_reward` of the best one in this step, and whether they are the same.

    Raises:
        UsageError: the environment is not a recommender, is wrapped, or has slates or candidate sets.
    """
    world = world_of(env)
    if not isinstance(env.action_space, Discrete) or env.legal_actions is not None:
        raise UsageError("as_bandit needs a recommender of one item at a time, slate=1, with candidates=None.")
    n, d = env.params.catalogue.embeddings.shape
    return env.replace(
        reset=Bound(_bandit_reset, (world,)),
        step=Bound(_bandit_step, (world,)),
        observation_space=Box(-np.inf, np.inf, (n, 2 * d + 3)),
        info={**dict(env.info), "expected_reward": "sum", "oracle_reward": "sum", "optimal": "mean"},
        name=f"{env.name} as a bandit",
        recipe=(None,),
    )


def item_features(obs: dict[str, jax.Array], params: Any) -> jax.Array:
    """The features `[n, 2 d + 3]` of `as_bandit` for one observation."""
    features = params.catalogue.features
    products = features * simulator.clicked_mean(obs)
    seen = jnp.any(obs["items"] == jnp.arange(len(features))[:, None], axis=1, keepdims=True)
    ones = jnp.ones((len(features), 1))
    return jnp.concatenate([features, products, products.sum(axis=1, keepdims=True), seen, ones], axis=1)


def _bandit_reset(world: World, key: jax.Array, params: Any) -> tuple[jax.Array, State]:
    obs, state = simulator.reset(world, key, params)
    return item_features(obs, params), state


def _bandit_step(world: World, key: jax.Array, state: State, action: jax.Array, params: Any) -> tuple[TimeStep, State]:
    expected = simulator.expected_rewards(state, params)
    result, state = simulator.step(world, key, state, action, params)
    obs = item_features(result.obs, params)
    oracle = expected.max()
    measured = {"expected_reward": expected[action], "oracle_reward": oracle, "optimal": expected[action] >= oracle}
    info = {**result.info, **{name: jnp.float32(value) for name, value in measured.items()}}
    return result._replace(obs=obs, next_obs=obs, info=info), state
