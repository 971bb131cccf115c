"""Draw the states of environments: `frames`, with a renderer for each of those below, and text for all others.

A renderer is a pure function `(states, params, world) -> uint8 [T, H, W, 3]` of NumPy states stacked over time, the
environment's params, and the suite's object that it was made from, which has its map.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.envs import Env
from rljax.envs.unwrapping import innermost_state, world_of
from rljax.errors import UsageError, located
from rljax.report.render import classic, grids, minatar, text

RENDERERS: dict[str, Callable[[Any, Any, Any], np.ndarray]] = {
    "CartPole-v1": classic.cart_pole,
    "Acrobot-v1": classic.acrobot,
    "MountainCar-v0": classic.mountain_car,
    "MountainCarContinuous-v0": classic.mountain_car,
    "Pendulum-v1": classic.pendulum,
    "Asterix-MinAtar": minatar.game,
    "Breakout-MinAtar": minatar.game,
    "Freeway-MinAtar": minatar.game,
    "Seaquest-MinAtar": minatar.game,
    "SpaceInvaders-MinAtar": minatar.game,
    "FrozenLake-misc": grids.frozen_lake,
    "Taxi-v3": grids.taxi,
    "CliffWalking-v1": grids.cliff_walking,
    "GridWorld-misc": grids.grid_world,
    "Catch-bsuite": grids.catch,
    "DeepSea-bsuite": grids.deep_sea,
    "MetaMaze-misc": grids.rooms,
    "FourRooms-misc": grids.rooms,
}

_AT_ONCE = 64  # pictures, since they are painted in floats


def frames(env: Env, states: Any) -> np.ndarray:
    """Draw states stacked over time: uint8 pictures `[T, H, W, 3]`.

    An environment's own `render` comes first, then the renderer of its id, then text.

    Args:
        env: the environment, in any wrappers.
        states: those of `rljax.evaluation.record`, of one episode: a pytree `[T, ...]`.

    Raises:
        UsageError: the environment's own `render` raises an error, or returns no pictures.
    """
    states, params = jax.tree.map(on_host, innermost_state(states)), jax.tree.map(on_host, env.params)
    if env.render is not None:
        return _rendered(env, states, params)
    world = world_of(env)
    if world is None or env.name not in RENDERERS:
        return text.pages(states)
    renderer, times = RENDERERS[env.name], len(jax.tree.leaves(states)[0])
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i : i + _AT_ONCE], states) for i in range(0, times, _AT_ONCE)]
    return np.concatenate([renderer(part, params, world) for part in parts])


def on_host(leaf: Any) -> Any:
    """An array as NumPy's, except keys, which are JAX's."""
    is_key = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else np.asarray(leaf)


def _rendered(env: Env, states: Any, params: Any) -> np.ndarray:
    """The pictures of the environment's own `render`."""
    assert env.render is not None
    wanted = f"{env.name}'s render must return a picture, uint8 [H, W, 3], of the same size for every state"
    pictures: list[np.ndarray] = []
    for time in range(len(jax.tree.leaves(states)[0])):
        try:
            picture = np.asarray(env.render(jax.tree.map(lambda leaf, time=time: leaf[time], states), params))
        except Exception as error:  # of the user's code
            raise UsageError(f"{env.name} could not be drawn by its render: {located(error)}.") from error
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise UsageError(f"{wanted}, and returned {picture.dtype} {list(picture.shape)}.")
        if pictures and picture.shape != pictures[0].shape:
            raise UsageError(f"{wanted}, and returned {list(pictures[0].shape)}, then {list(picture.shape)}.")
        pictures.append(picture)
    return np.stack(pictures)
