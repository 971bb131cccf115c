"""The exact model of a small recommender: the simulator's own functions on a grid of the person's state.

A state that falls between points of the grid becomes one of its neighbours, with probabilities that keep its mean. The
grid of a coordinate that nothing depends on has a single point.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Env
from rljax.envs.mdp import Model
from rljax.envs.recommender import simulator
from rljax.envs.recommender.simulator import State
from rljax.envs.recommender.views import world_of
from rljax.errors import UsageError, number

_MOST_STATES = 6000
# The normal's mean, variance and fourth moment, by three points (Abramowitz and Stegun 1964, table 25.10).
_WALK = ((-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6))


def tabular_model(env: Env, taste: int = 41, boredom: int = 5, satisfaction: int = 9) -> Model:
    """The exact model of a recommender with one dimension of taste and one item at a time.

    Its states are the points of the grid of (taste, context, satisfaction, boredom of each category), the last one
    fastest, and its actions the items; use a discount of 1. `rljax.planning.value_iteration` gives the best values, and
    `planning.greedy(model.rewards)` is the myopic policy.

    Args:
        env: a recommender without wrappers, candidate sets and history bonuses.
        taste: points of the grid of tastes, between the lowest and highest embedding and taste of the catalogue.
        boredom: points of the grid of each category's boredom.
        satisfaction: points of the grid of satisfaction.

    Raises:
        UsageError: the environment is another one, or the model would have more than 6,000 states.
    """
    world, params = world_of(env), env.params
    items = params.catalogue
    if world.slate != 1 or items.embeddings.shape[1] != 1 or env.legal_actions is not None or params.diversity_weight:
        raise UsageError(
            "A tabular recommender needs one dimension of taste, slate=1, candidates=None and no weight of diversity: "
            "make recommender/small."
        )
    axes = _axes(world, params, taste, boredom, satisfaction)
    sizes = tuple(map(len, axes))
    num_states, n = int(np.prod(sizes)), len(items.appeal)
    if num_states > _MOST_STATES:
        raise UsageError(f"The model would have {num_states} states, more than {_MOST_STATES}: use fewer points.")
    points = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=1)
    states = jax.vmap(lambda point: _state(point, world, n))(jnp.asarray(points, jnp.float32))
    rewards, chances, enjoyments = _of_states(states, params)

    transitions = np.zeros((num_states, n, num_states))
    ends = np.zeros((num_states, n, num_states))
    rows = np.arange(num_states)
    for item, is_click, (draw, weight) in itertools.product(range(n), (False, True), _walks(params)):
        moved, leaving = _moved(states, item, is_click, enjoyments[:, item], params)
        chance = np.asarray(chances[:, item] if is_click else 1 - chances[:, item], np.float64) * weight
        leaving = np.asarray(leaving, np.float64)
        coordinates = [np.asarray(moved.taste[:, 0], np.float64) + draw * float(params.walk)]
        coordinates += [np.asarray(moved.satisfaction), *np.asarray(moved.boredom).T]
        for context, change in _contexts(points[:, 1].astype(int), sizes[1], float(params.context_change)):
            for place, part in _neighbours(coordinates, [axes[0], *axes[2:]]):
                following = np.ravel_multi_index((place[0], context, *place[1:]), sizes)
                np.add.at(transitions[:, item], (rows, following), chance * change * part)
                np.add.at(ends[:, item], (rows, following), chance * change * part * leaving)
    return _with_end(transitions, ends, np.asarray(rewards), _start(axes, sizes, params))


@jax.jit
def _of_states(states: State, params: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Expected rewards, chances of a click and enjoyments `[S, n]`."""
    logits = jax.vmap(simulator.click_logits, (0, None))(states, params)
    rewards = jax.vmap(simulator.expected_rewards, (0, None))(states, params)
    return rewards, jax.nn.sigmoid(logits), jax.vmap(simulator.enjoyments, (0, None))(states, params)


@jax.jit
def _moved(
    states: State, item: jax.Array, is_click: jax.Array, enjoyments: jax.Array, params: Any
) -> tuple[State, jax.Array]:
    """The states `[S]` after showing an item, before the walk, and the chances `[S]` that the session ends."""
    slate = jnp.asarray(item)[None]
    after = jax.vmap(simulator.moved, (0, None, None, None, 0, None))(
        states, slate, slate[0], is_click, enjoyments, params
    )
    return after, simulator.ending(after.satisfaction, params)


def _walks(params: Any) -> tuple[tuple[float, float], ...]:
    return _WALK if params.walk else ((0.0, 1.0),)


def _axes(world: Any, params: Any, taste: int, boredom: int, satisfaction: int) -> list[np.ndarray]:
    """The grids of taste, context, satisfaction and each category's boredom."""
    for name, size in (("taste", taste), ("boredom", boredom), ("satisfaction", satisfaction)):
        number(name, size, integer=True, minimum=2)
    ends = np.concatenate([np.ravel(params.catalogue.embeddings), np.ravel(params.catalogue.tastes)])
    contexts = len(params.catalogue.contexts) if params.context_weight else 1
    remembers = bool(params.loyalty) and params.pace < 1
    return [
        np.linspace(ends.min(), ends.max(), taste),
        np.arange(contexts, dtype=float),
        np.linspace(0, 1, satisfaction) if remembers else np.array([simulator.START]),
        *([np.linspace(0, 1, boredom) if params.boredom else np.zeros(1)] * world.categories),
    ]


def _state(point: jax.Array, world: Any, n: int) -> State:
    length = world.steps
    nothing = simulator.History(jnp.full(length, n, jnp.int32), jnp.zeros(length), jnp.zeros(length))
    context, everything = point[1].astype(jnp.int32), jnp.ones(world.categories, bool)
    return State(point[:1], context, point[3:], point[2], nothing, jnp.ones(n, bool), everything)


def _contexts(now: np.ndarray, count: int, change: float) -> list[tuple[np.ndarray, Any]]:
    """Every next context `[S]` and its probability `[S]`."""
    return [(np.full_like(now, context), (1 - change) * (now == context) + change / count) for context in range(count)]


def _neighbours(coordinates: list[np.ndarray], axes: list[np.ndarray]) -> Any:
    """Places on a grid of D axes around coordinates, D arrays `[S]`, and their parts `[S]`, which sum to one."""
    ways = []
    for x, axis in zip(coordinates, axes, strict=True):
        if len(axis) == 1:
            ways.append([(np.zeros(len(x), int), np.ones(len(x)))])
            continue
        position = np.clip((x - axis[0]) / (axis[1] - axis[0]), 0, len(axis) - 1)
        low = np.minimum(position.astype(int), len(axis) - 2)
        ways.append([(low, low + 1 - position), (low + 1, position - low)])
    for combination in itertools.product(*ways):
        yield [place for place, _ in combination], np.prod([part for _, part in combination], axis=0)


def _start(axes: list[np.ndarray], sizes: tuple[int, ...], params: Any) -> np.ndarray:
    """Probabilities `[S]` of the first state."""
    start = np.zeros(int(np.prod(sizes)))
    tastes = np.asarray(params.catalogue.tastes[:, 0], np.float64)
    coordinates = [tastes, np.full_like(tastes, simulator.START), *np.zeros((len(axes) - 3, len(tastes)))]
    for place, part in _neighbours(coordinates, [axes[0], *axes[2:]]):
        for context in range(sizes[1]):
            following = np.ravel_multi_index((place[0], np.full(len(tastes), context), *place[1:]), sizes)
            np.add.at(start, following, part / len(tastes) / sizes[1])
    return start


def _with_end(transitions: np.ndarray, ends: np.ndarray, rewards: np.ndarray, start: np.ndarray) -> Model:
    """The model in which the part `ends` of each transition leads to one more state, where the session is over."""
    states, n, _ = transitions.shape
    whole = np.zeros((states + 1, n, states + 1), np.float32)
    whole[:states, :, :states] = transitions - ends
    whole[:states, :, states] = ends.sum(axis=2)
    whole[states, :, states] = 1.0
    terminated = np.zeros(whole.shape, bool)
    terminated[:, :, states] = True
    padded = np.concatenate([rewards, np.zeros((1, n))]).astype(np.float32)
    arrays = (whole, padded, terminated, np.append(start, 0.0).astype(np.float32))
    return Model(*map(jnp.asarray, arrays))
