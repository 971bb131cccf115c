"""Animations: panels side by side, GIFs and MP4s that read back, and mistakes in one sentence."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

import rljax
from rljax.report import animation
from rljax.report.animation import Animation, Panel


def panel(times, colour, height=40, width=60):
    pictures = np.full((times, height, width, 3), colour, np.uint8)
    return Panel(pictures, "title", [f"return {time}" for time in range(times)])


@pytest.fixture(scope="module")
def three():
    return animation.side_by_side([panel(4, 10), panel(2, 200, 30), panel(1, 100)], fps=20, columns=2)


def test_panels_are_in_rows_and_short_ones_stay(three):
    times, height, width, _ = three.pictures.shape
    assert (times, height, width) == (4, 2 * (40 + 38 + 6) + 6, 2 * (225 + 6) + 6)
    top, left = 6 + 38, 6 + (225 - 60) // 2
    assert (three.pictures[:, top : top + 40, left : left + 60] == 10).all()
    assert (three.pictures[:, top + 5 : top + 35, left + 231 : left + 291] == 200).all()  # in the middle, to the end
    assert (three.pictures[0] != three.pictures[3]).any()  # the caption
    assert (three.pictures[3, :38, 231:] == three.pictures[1, :38, 231:]).all()
    assert [animation.side_by_side([panel(1, 0)] * n, 1).pictures.shape[1] // 84 for n in (1, 4, 5, 6, 8)] == [
        1,
        1,
        2,
        2,
        2,
    ]


def test_a_gif_reads_back(three, tmp_path):
    assert three.save(tmp_path / "x.gif") == tmp_path / "x.gif"
    assert (tmp_path / "x.gif").read_bytes() == three.gif()
    with Image.open(io.BytesIO(three.gif())) as image:
        assert (image.n_frames, image.size) == (4, three.pictures.shape[2:0:-1])
        assert image.info["loop"] == 0
        image.seek(1)
        assert image.info["duration"] == 50
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - three.pictures[1]).mean() < 3
        image.seek(3)
        assert image.info["duration"] == 1000
    assert "data:image/gif;base64," in three._repr_html_()
    assert repr(three) == "Animation(4 pictures of 468 x 174 at 20 a second)"


def test_an_mp4_reads_back(three, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    three.save(tmp_path / "x.mp4")
    read = ffmpeg.read_frames(str(tmp_path / "x.mp4"))
    meta = next(read)
    assert (meta["size"], meta["fps"]) == ((468, 174), 20)
    pictures = [np.frombuffer(picture, np.uint8).reshape(174, 468, 3).astype(int) for picture in read]
    assert len(pictures) == 4
    assert np.abs(pictures[3] - three.pictures[3]).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_mistakes_are_sentences(three, tmp_path, monkeypatch):
    for path, words in (
        (tmp_path / "x.png", "must end with .gif or .mp4"),
        (tmp_path / "missing/x.gif", "no folder"),
        (3, "must be a path such as policy.gif, got 3"),
    ):
        with pytest.raises(rljax.UsageError, match=words):
            three.save(path)
    (tmp_path / "x.gif").mkdir()
    with pytest.raises(rljax.UsageError, match="it is a folder"):
        three.save(tmp_path / "x.gif")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(rljax.UsageError, match=r"pip install 'rljax-engine\[mp4\]'"):
        Animation(three.pictures, 9).save(tmp_path / "x.mp4")


def test_long_captions_are_cut():
    long = animation.side_by_side([Panel(np.zeros((1, 9, 9, 3), np.uint8), "seed " * 20, ["return " * 20])], 1)
    assert (long.pictures[0, :, -6:] == 225).all()  # nothing on the margin
