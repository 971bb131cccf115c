"""Renderers of the classic control tasks, with Gymnasium's geometry and colours at half its size.

Each is `(states, params, world) -> uint8 [T, H, W, 3]`, of states stacked over time.
"""

from typing import Any

import numpy as np

from rljax.report.render.shapes import BLACK, GREY, arc, bar, blank, box, disc, finished, paint

SIZE = 250  # pixels of a square picture
WIDTH, HEIGHT = 300, 200
YELLOW, TEAL, RED, WOOD, AXLE = (204, 204, 0), (0, 204, 204), (204, 77, 77), (202, 152, 101), (129, 132, 203)


def cart_pole(states: Any, params: Any, world: Any) -> np.ndarray:
    """A cart on a track, which is as wide as the picture, and its pole."""
    scale, ground = WIDTH / (2 * params.x_threshold), HEIGHT - 50
    pictures = blank(len(states.x), HEIGHT, WIDTH)
    x = states.x * scale + WIDTH / 2
    paint(pictures, box(pictures, WIDTH / 2, ground, WIDTH, 1), BLACK)
    paint(pictures, box(pictures, x, ground, 25, 15), BLACK)
    length = 2 * params.length * scale
    paint(pictures, bar(pictures, x, ground - 3.75, states.theta - np.pi / 2, length - 2.5, 5, back=2.5), WOOD)
    paint(pictures, disc(pictures, x, ground - 3.75, 2.5), AXLE)
    return finished(pictures)


def acrobot(states: Any, params: Any, world: Any) -> np.ndarray:
    """Two links that hang from the middle, and the line to reach, at the height of one link."""
    first, second = params.link_length_1, params.link_length_2
    scale, middle = SIZE / (2 * (first + second + 0.2)), SIZE / 2
    pictures = blank(len(states.joint_angle1), SIZE, SIZE)
    paint(pictures, box(pictures, middle, middle - scale, SIZE, 1), BLACK)
    angle = np.pi / 2 - states.joint_angle1  # on the picture, whose y is down
    elbow = middle + first * scale * np.cos(angle), middle + first * scale * np.sin(angle)
    for (x, y), direction, length in (
        ((middle, middle), angle, first),
        (elbow, angle - states.joint_angle2, second),
    ):
        paint(pictures, bar(pictures, x, y, direction, length * scale, 0.2 * scale), TEAL)
        paint(pictures, disc(pictures, x, y, 0.1 * scale), YELLOW)
    return finished(pictures)


def mountain_car(states: Any, params: Any, world: Any) -> np.ndarray:
    """A car between two hills and the flag; of both versions of the task."""
    scale = WIDTH / (params.max_position - params.min_position)
    pictures = blank(len(states.position), HEIGHT, WIDTH)

    def place(position: Any) -> tuple[Any, Any]:
        return (position - params.min_position) * scale, HEIGHT - (np.sin(3 * position) * 0.45 + 0.55) * scale

    columns = params.min_position + (np.arange(WIDTH) + 0.5) / scale
    slope = np.hypot(1, 1.35 * np.cos(3 * columns))  # so that the line is as thick where it is steep
    distance = np.abs(np.arange(HEIGHT)[:, None] + 0.5 - place(columns)[1]) / slope
    paint(pictures, np.broadcast_to(np.clip(0.8 - distance, 0, 1).astype(np.float32), pictures.shape[:3]), BLACK)
    x, y = place(states.position)
    angle = -np.arctan(1.35 * np.cos(3 * states.position))
    up = np.sin(angle), -np.cos(angle)  # away from the hill
    y = y - 5  # the wheels' centres
    paint(pictures, bar(pictures, x + 5 * up[0], y + 5 * up[1], angle, 10, 10, back=10), BLACK)
    for along in (-5, 5):
        paint(pictures, disc(pictures, x + along * np.cos(angle), y + along * np.sin(angle), 4), GREY)
    flag, foot = place(params.goal_position)
    paint(pictures, box(pictures, flag, foot - 12.5, 1, 25), BLACK)
    paint(pictures, box(pictures, flag + 6, foot - 22, 12, 6), YELLOW)
    return finished(pictures)


def pendulum(states: Any, params: Any, world: Any) -> np.ndarray:
    """A rod, and the last torque as a half circle, whose size grows with it; its dot is where it turns to."""
    scale, middle = SIZE / 4.4, SIZE / 2
    pictures = blank(len(states.theta), SIZE, SIZE)
    angle = -states.theta - np.pi / 2  # zero is upright and grows against the clock
    paint(pictures, bar(pictures, middle, middle, angle, scale, 0.2 * scale), RED)
    for away in (0, scale):
        paint(pictures, disc(pictures, middle + away * np.cos(angle), middle + away * np.sin(angle), 0.1 * scale), RED)
    torque = np.clip(states.last_u / params.max_torque, -1, 1)
    radius, side = 0.5 * scale * np.abs(torque), np.sign(torque)
    paint(pictures, arc(pictures, middle, middle, radius, 1.5, 0.0, np.pi), BLACK)
    paint(pictures, disc(pictures, middle + radius * side, middle, 3.5), BLACK)
    paint(pictures, disc(pictures, middle, middle, 0.05 * scale), BLACK)
    return finished(pictures)
