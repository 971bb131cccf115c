"""Antialiased shapes on T pictures at once: coverages `[T, H, W]` from signed distances, painted over each other.

Coordinates are pixels, x to the right and y down, and may differ from picture to picture: numbers or `[T]`.
"""

from typing import Any

import numpy as np

Colour = tuple[int, int, int]

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)


def blank(times: int, height: int, width: int, colour: Colour = WHITE) -> np.ndarray:
    """T pictures of one colour, float32 `[T, H, W, 3]`."""
    return np.full((times, height, width, 3), colour, np.float32)


def repeated(picture: np.ndarray, times: int) -> np.ndarray:
    """T copies of one picture `[H, W, 3]`, to paint on."""
    return np.repeat(picture[None].astype(np.float32), times, axis=0)


def finished(pictures: np.ndarray) -> np.ndarray:
    """The pictures as uint8 `[T, H, W, 3]`."""
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def paint(pictures: np.ndarray, coverage: np.ndarray, colour: Any) -> None:
    """Paint a colour, or one for each picture `[T, 3]`, over the pictures where the coverage is not zero."""
    touched = coverage.any(axis=0)
    if not touched.any():
        return
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    colours = np.asarray(colour, np.float32).reshape(-1, 1, 1, 3)
    pictures[box] += coverage[box][..., None] * (colours - pictures[box])


def _pixels(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The x and y of all pixels' centres, `[1, H, W]`."""
    y, x = np.mgrid[: pictures.shape[1], : pictures.shape[2]].astype(np.float32)[:, None] + np.float32(0.5)
    return x, y


def _each(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32).reshape(-1, 1, 1)


def _covered(distance: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    coverage = np.clip(0.5 - distance, 0.0, 1.0)
    return np.broadcast_to(coverage, pictures.shape[:3])


def disc(pictures: np.ndarray, x: Any, y: Any, radius: Any) -> np.ndarray:
    """The coverage of discs."""
    across, down = _pixels(pictures)
    return _covered(np.hypot(across - _each(x), down - _each(y)) - _each(radius), pictures)


def bar(pictures: np.ndarray, x: Any, y: Any, angle: Any, length: Any, width: Any, back: Any = 0.0) -> np.ndarray:
    """The coverage of bars that leave (x, y) in the direction (cos angle, sin angle), and begin `back` before it."""
    across, down = _pixels(pictures)
    across, down = across - _each(x), down - _each(y)
    cos, sin = np.cos(_each(angle)), np.sin(_each(angle))
    along, aside = across * cos + down * sin, down * cos - across * sin
    half = (_each(length) + _each(back)) / 2
    ahead = np.abs(along - half + _each(back)) - half
    return _covered(np.maximum(ahead, np.abs(aside) - _each(width) / 2), pictures)


def box(pictures: np.ndarray, x: Any, y: Any, width: Any, height: Any) -> np.ndarray:
    """The coverage of upright rectangles around the centre (x, y)."""
    return bar(pictures, np.asarray(x) - np.asarray(width) / 2, y, 0.0, width, height)


def arc(pictures: np.ndarray, x: Any, y: Any, radius: Any, width: float, start: float, sweep: float) -> np.ndarray:
    """The coverage of arcs of circles, clockwise on the picture from the angle `start` over `sweep`."""
    across, down = _pixels(pictures)
    across, down = across - _each(x), down - _each(y)
    ring = np.abs(np.hypot(across, down) - _each(radius)) - width / 2
    inside = np.mod(np.arctan2(down, across) - start, 2 * np.pi) <= sweep
    return _covered(np.where(inside, ring, np.inf), pictures)


def cells(tiles: np.ndarray, colours: Any, size: int, border: Colour | None = None) -> np.ndarray:
    """Pictures of grids: tiles `[..., rows, columns]` are positions in `colours`, each a square of `size` pixels.

    Returns uint8 `[..., rows * size, columns * size, 3]`.
    """
    pictures = np.asarray(colours, np.uint8)[tiles]
    pictures = pictures.repeat(size, axis=-3).repeat(size, axis=-2)
    if border is not None:
        pictures[..., ::size, :, :] = border
        pictures[..., :, ::size, :] = border
    return pictures
