"""Renderer of the MinAtar games: every channel of their picture of 10 by 10 cells has a colour.

It is `(states, params, world) -> uint8 [T, H, W, 3]`, of states stacked over time.
"""

import functools
from typing import Any

import jax
import numpy as np

from rljax.report.render.grids import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, YELLOW
from rljax.report.render.shapes import WHITE, Colour, cells

CELL = 24
BACKGROUND, DIM = (20, 20, 28), (70, 70, 90)
# Of Freeway's cars, slow ones first.
_SPEEDS = ((60, 80, 110), (70, 100, 140), (80, 125, 170), (90, 150, 200), (110, 180, 230))
# Of the channels in order; of several in one cell the first is seen.
COLOURS: dict[str, tuple[Colour, ...]] = {
    "Asterix-MinAtar": (YELLOW, RED, DIM, GREEN),  # player, enemy, trail, treasure
    "Breakout-MinAtar": (YELLOW, WHITE, DIM, SKY),  # paddle, ball, trail, brick
    "Freeway-MinAtar": (YELLOW, RED, *_SPEEDS),  # chicken, car, trails
    # front and back of the submarine, its bullet, trail, enemy's bullet, fish, enemy, oxygen, divers on board, diver
    "Seaquest-MinAtar": (YELLOW, ORANGE, WHITE, DIM, RED, GREEN, PURPLE, SKY, BLUE, (240, 180, 200)),
    "SpaceInvaders-MinAtar": (YELLOW, GREEN, GREEN, GREEN, WHITE, RED),  # cannon, aliens, bullets
}


def game(states: Any, params: Any, world: Any) -> np.ndarray:
    """A game as its player sees it."""
    times = len(states.time)
    padded = jax.tree.map(lambda leaf: leaf[np.minimum(np.arange(-(-times // 64) * 64), times - 1)], states)
    channels = np.asarray(_observed(world, padded))[:times] > 0  # padded, so that one program serves all lengths
    tiles = np.where(channels.any(axis=-1), channels.argmax(axis=-1) + 1, 0)
    return cells(tiles, [BACKGROUND, *COLOURS[world.name]], CELL)


@functools.partial(jax.jit, static_argnums=0)
def _observed(world: Any, states: Any) -> jax.Array:
    return jax.vmap(world.get_obs)(states)
