"""Text, for states that no renderer draws: what each part of them is."""

from typing import Any

import jax
import numpy as np

WIDTH, LINE, MOST_LINES, MOST_LETTERS = 300, 16, 12, 44


def lines(state: Any) -> list[str]:
    """One line for each array of a state, small ones with their numbers."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        text = f"{name}: {_shown(leaf)}" if name else _shown(leaf)
        found.append(text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}...")
    hidden = len(found) - MOST_LINES
    return found if hidden <= 0 else [*found[: MOST_LINES - 1], f"and {hidden + 1} more arrays"]


def _shown(leaf: Any) -> str:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return "a key"
    values = np.asarray(leaf)
    if values.size > 8:
        shape = " x ".join(map(str, values.shape))
        numbers = values.astype(np.float64)
        return f"{shape}, from {numbers.min():.4g} to {numbers.max():.4g}"
    with np.printoptions(precision=3, suppress=True):
        return " ".join(str(values).split())


def pages(states: Any) -> np.ndarray:
    """Pictures of states stacked over time, uint8 `[T, H, W, 3]`."""
    from PIL import Image, ImageDraw, ImageFont

    times = len(jax.tree.leaves(states)[0])
    texts = [lines(jax.tree.map(lambda leaf, time=time: leaf[time], states)) for time in range(times)]
    height = LINE * (max(map(len, texts)) + 1)
    font, pictures = ImageFont.load_default(12), np.empty((times, height, WIDTH, 3), np.uint8)
    for picture, written in zip(pictures, texts, strict=True):
        page = Image.new("RGB", (WIDTH, height), "white")
        ImageDraw.Draw(page).multiline_text((8, LINE // 2), "\n".join(written), "black", font, spacing=4)
        picture[:] = np.asarray(page)
    return pictures
