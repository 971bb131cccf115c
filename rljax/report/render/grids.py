"""Renderers of worlds of cells: an agent among walls, goals and holes.

Each is `(states, params, world) -> uint8 [T, H, W, 3]`, of states stacked over time.
"""

from typing import Any

import numpy as np

from rljax.report.render.shapes import BLACK, WHITE, Colour, box, cells, disc, finished, paint, repeated

CELL = 40  # pixels of a cell
# Colours of Okabe and Ito 2008, which colour-blind people can tell apart.
ORANGE, SKY, GREEN, YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
BLUE, RED, PURPLE = (0, 114, 178), (213, 94, 0), (204, 121, 167)
FLOOR, WALL, LINE, START = (245, 245, 245), (70, 70, 70), (215, 215, 215), (225, 225, 225)


def _background(tiles: np.ndarray, colours: list[Colour], size: int) -> np.ndarray:
    return cells(np.asarray(tiles), colours, size, LINE)


def _agent(pictures: np.ndarray, place: Any, size: int) -> None:
    """Paint the agent as a disc with an outline; its place is a row and a column."""
    y, x = (np.asarray(place, np.float32) + 0.5) * size
    paint(pictures, disc(pictures, x, y, 0.3 * size), BLACK)
    paint(pictures, disc(pictures, x, y, 0.3 * size - 1.5), RED)


def _square(pictures: np.ndarray, place: Any, size: int, colour: Colour) -> None:
    """Paint a goal as a square inside its cell."""
    y, x = (np.asarray(place, np.float32) + 0.5) * size
    paint(pictures, box(pictures, x, y, 0.7 * size, 0.7 * size), colour)


def _cell_size(rows: int, columns: int) -> int:
    """Pixels of a cell, fewer for large worlds."""
    return int(np.clip(300 // max(rows, columns), 6, CELL))


def frozen_lake(states: Any, params: Any, world: Any) -> np.ndarray:
    """Ice with dark holes, and a green goal."""
    tiles = np.asarray(world.desc)  # START, FROZEN, HOLE, GOAL
    size = _cell_size(*tiles.shape)
    ground = _background(tiles, [(200, 215, 225), (225, 240, 250), (225, 240, 250), (225, 240, 250)], size)
    pictures = repeated(ground, len(states.position))
    for row, column in np.argwhere(tiles == 2):
        paint(pictures, disc(pictures, (column + 0.5) * size, (row + 0.5) * size, 0.4 * size), BLUE)
    for row, column in np.argwhere(tiles == 3):
        _square(pictures, (row, column), size, GREEN)
    _agent(pictures, np.divmod(states.position, tiles.shape[1]), size)
    return finished(pictures)


TAXI_CELL = 25  # as in Gymnasium, at half its size: 11 columns, every second one for walls, and 7 rows
TAXI_STOPS = (RED, GREEN, YELLOW, BLUE)


def taxi(states: Any, params: Any, world: Any) -> np.ndarray:
    """Walls, four coloured stops, the taxi, its passenger as a dark dot, and the destination with a dark frame."""
    from rljax.envs import toy_text

    size, times = TAXI_CELL, len(states.index)
    walls = np.zeros((7, 11), int)
    walls[[0, -1], :] = walls[:, [0, -1]] = 1
    walls[1:6, 2:9:2] = ~toy_text.EAST_FREE[:, :4]
    pictures = repeated(cells(walls, [FLOOR, WALL], size), times)
    cell, passenger, destination = np.unravel_index(states.index, (25, 5, 4))

    def centre(row: Any, column: Any) -> tuple[Any, Any]:
        return (2 * column + 1.5) * size, (row + 1.5) * size

    stops = [centre(row, column) for row, column in toy_text.STOPS]
    for (stop_x, stop_y), colour in zip(stops, TAXI_STOPS, strict=True):
        paint(pictures, box(pictures, stop_x, stop_y, size - 2, size - 2), colour)
    goal_x, goal_y = np.array(stops)[destination].T
    paint(pictures, box(pictures, goal_x, goal_y, size, size), BLACK)
    paint(pictures, box(pictures, goal_x, goal_y, size - 6, size - 6), np.array(TAXI_STOPS)[destination])
    x, y = centre(cell // 5, cell % 5)
    for grow, paint_of in ((2, BLACK), (0, ORANGE)):
        paint(pictures, box(pictures, x, y + 1, 18 + grow, 9 + grow), paint_of)
        paint(pictures, box(pictures, x, y - 4, 10 + grow, 8 + grow), paint_of)
    places = np.array([*stops, (0, 0)])[passenger]
    rider_x, rider_y = np.where(passenger == toy_text.ABOARD, np.stack([x, y - 3]), places.T)
    paint(pictures, disc(pictures, rider_x, rider_y, 4.5), WHITE)
    paint(pictures, disc(pictures, rider_x, rider_y, 3.5), BLACK)
    return finished(pictures)


def cliff_walking(states: Any, params: Any, world: Any) -> np.ndarray:
    """The cliff between the start and the green goal."""
    tiles = np.zeros((4, 12), int)
    tiles[3] = [1, *[2] * 10, 0]
    size = 30
    pictures = repeated(_background(tiles, [(190, 225, 180), (200, 200, 200), (70, 45, 45)], size), len(states.index))
    _square(pictures, (3, 11), size, GREEN)
    _agent(pictures, np.divmod(states.index, 12), size)
    return finished(pictures)


def grid_world(states: Any, params: Any, world: Any) -> np.ndarray:
    """A maze with its start and its green goal."""
    tiles = np.asarray(world.tiles)
    size = _cell_size(*tiles.shape)
    kinds = np.select([tiles == "#", tiles == "S"], [1, 2], 0)
    pictures = repeated(_background(kinds, [FLOOR, WALL, START], size), len(states.index))
    _square(pictures, np.argwhere(tiles == "G")[0], size, GREEN)
    _agent(pictures, np.divmod(states.index, tiles.shape[1]), size)
    return finished(pictures)


def catch(states: Any, params: Any, world: Any) -> np.ndarray:
    """A falling ball and the paddle that is to catch it."""
    size = 24
    pictures = repeated(_background(np.zeros((world.rows, world.columns), int), [FLOOR], size), len(states.ball_x))
    x, y = (states.paddle_x + 0.5) * size, (states.paddle_y + 0.5) * size
    paint(pictures, box(pictures, x, y, size - 2, 0.5 * size), BLUE)
    _agent(pictures, (states.ball_y, states.ball_x), size)
    return finished(pictures)


def deep_sea(states: Any, params: Any, world: Any) -> np.ndarray:
    """A diver who sinks a row a step, to the treasure in the last column or to the ground."""
    size = _cell_size(world.size, world.size)
    lower = np.tri(world.size, dtype=int)  # cells that can be reached
    pictures = repeated(_background(lower, [(160, 190, 210), (205, 228, 240)], size), len(states.row))
    _square(pictures, (world.size - 1, world.size - 1), size, YELLOW)
    _agent(pictures, np.minimum((states.row, states.column), world.size - 1), size)
    return finished(pictures)


def rooms(states: Any, params: Any, world: Any) -> np.ndarray:
    """The agent and the green goal among walls, of FourRooms and MetaMaze."""
    free = np.asarray(world.env_map).astype(int)
    size = _cell_size(*free.shape)
    pictures = repeated(_background(free, [WALL, FLOOR], size), len(states.pos))
    _square(pictures, states.goal.T, size, GREEN)
    _agent(pictures, states.pos.T, size)
    return finished(pictures)
