"""Moving pictures: panels side by side with captions, as GIF or MP4."""

import base64
import dataclasses
import io
import math
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import UsageError
from rljax.report import files

FORMATS = (".gif", ".mp4")
_CAPTION, _GAP = 38, 6  # pixels
_NARROWEST = 225  # of a panel, so that its captions fit
_COLOURS = 128  # of a GIF


class Panel(NamedTuple):
    """One of the pictures next to each other."""

    pictures: np.ndarray
    """uint8 `[T, H, W, 3]`; a panel that is shorter than others stays at its last one."""
    title: str
    captions: Sequence[str]
    """What is written below the title, `[T]`."""


@dataclasses.dataclass(frozen=True, repr=False)
class Animation:
    """Pictures, shown one after the other; a notebook displays them."""

    pictures: np.ndarray
    """uint8 `[T, H, W, 3]`."""
    fps: int
    """Pictures a second."""

    def gif(self) -> bytes:
        """The contents of a GIF, which repeats."""
        from PIL import Image

        every = max(len(self.pictures) // 12, 1)
        sample = Image.fromarray(np.concatenate(list(self.pictures[::every])))
        palette = sample.quantize(_COLOURS)
        none = Image.Dither.NONE
        images = [Image.fromarray(one).quantize(palette=palette, dither=none) for one in self.pictures]
        written = io.BytesIO()
        milliseconds = [round(1000 / self.fps / 10) * 10] * (len(images) - 1)
        durations = [*milliseconds, 1000]  # the end stays for a second
        images[0].save(
            written, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False
        )
        return written.getvalue()

    def save(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Write a GIF or an MP4, as the file's name says.

        Raises:
            UsageError: the name has another ending, the file cannot be written, or MP4 needs a missing package.
        """
        path = checked_path(path)
        if path.suffix.lower() == ".mp4":
            files.replace(path, self._write_mp4)
        else:
            contents = self.gif()
            files.replace(path, lambda part: part.write_bytes(contents))
        return path

    def _write_mp4(self, path: pathlib.Path) -> None:
        import imageio_ffmpeg

        height, width = (size // 2 * 2 for size in self.pictures.shape[1:3])  # the codec needs even ones
        settings = ["-f", "mp4", "-movflags", "+faststart"]
        writer = imageio_ffmpeg.write_frames(
            str(path), (width, height), fps=self.fps, macro_block_size=2, output_params=settings, quality=7
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX's: what is forked becomes ffmpeg
                writer.send(None)
            for picture in self.pictures:
                writer.send(np.ascontiguousarray(picture[:height, :width]))
        finally:
            writer.close()

    def __repr__(self) -> str:
        times, height, width, _ = self.pictures.shape
        return f"Animation({times} pictures of {width} x {height} at {self.fps} a second)"

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.gif()).decode()
        return f"<img alt='animation' src='data:image/gif;base64,{data}'>"


def checked_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a GIF or MP4 that can be written; raise `UsageError` before anything is computed for it."""
    try:
        path = pathlib.Path(path)
    except TypeError:
        raise UsageError(f"The animation's file must be a path such as policy.gif, got {path!r}.") from None
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} must end with .gif or .mp4, the formats of animations.")
    if not os.path.isdir(path.parent):
        raise UsageError(f"{path} cannot be written, since there is no folder {path.parent}: create it.")
    if os.path.isdir(path):
        raise UsageError(f"{path} cannot be written, since it is a folder: choose another name.")
    if path.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            raise UsageError(
                "MP4 needs the package imageio-ffmpeg: pip install 'rljax-engine[mp4]', or write a .gif."
            ) from None
    return path


def side_by_side(panels: Sequence[Panel], fps: int, columns: int | None = None) -> Animation:
    """Put panels next to each other, in rows of `columns` (by default three or four), with their captions."""
    columns = columns or {5: 3, 6: 3}.get(len(panels), min(len(panels), 4))
    rows = math.ceil(len(panels) / columns)
    times = max(len(panel.pictures) for panel in panels)
    height = max(panel.pictures.shape[1] for panel in panels)
    width = max(_NARROWEST, *(panel.pictures.shape[2] for panel in panels))
    whole = np.full(
        (times, rows * (height + _CAPTION + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 225, np.uint8
    )
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        top, left = _GAP + row * (height + _CAPTION + _GAP), _GAP + column * (width + _GAP)
        whole[:, top : top + height + _CAPTION, left : left + width] = 255
        lasting = np.minimum(np.arange(times), len(panel.pictures) - 1)
        _, high, wide, _ = panel.pictures.shape
        y, x = top + _CAPTION + (height - high) // 2, left + (width - wide) // 2
        whole[:, y : y + high, x : x + wide] = panel.pictures[lasting]
        captions = _written(panel, width)
        whole[:, top : top + _CAPTION, left : left + width] = captions[lasting]
    return Animation(whole, fps)


def _written(panel: Panel, width: int) -> np.ndarray:
    """The captions as pictures, uint8 `[T, _CAPTION, width, 3]`."""
    from PIL import Image, ImageDraw, ImageFont

    title, small = ImageFont.load_default(14), ImageFont.load_default(12)
    pages = []
    for caption in panel.captions:
        page = Image.new("RGB", (width, _CAPTION), "white")
        draw = ImageDraw.Draw(page)
        draw.text((6, 3), _fitting(panel.title, title, width - 12), "black", title)
        draw.text((6, 21), _fitting(caption, small, width - 12), (80, 80, 80), small)
        pages.append(np.asarray(page))
    return np.stack(pages)


def _fitting(text: str, font: Any, width: int) -> str:
    """The text, cut short if it is wider than that."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
