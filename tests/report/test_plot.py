"""Pictures of learning curves."""

import struct
import warnings

import numpy as np
import pytest

import rljax
from rljax.report import plot


def png_size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def test_learning_curve_is_drawn(tmp_path):
    from matplotlib import image

    steps = np.linspace(0, 2e6, 6)
    returns = np.linspace(0, 400, 6) + np.random.default_rng(0).normal(scale=30, size=(5, 6))
    path = tmp_path / "learning_curve.png"
    plot.learning_curve(path, steps, returns, "ppo on CartPole-v1")
    width, height = png_size(path)
    assert 800 <= width <= 2000
    assert 400 <= height <= 1500
    assert 10_000 < path.stat().st_size < 500_000
    pixels = image.imread(path)[..., :3]
    blue = (pixels[..., 2] > 0.6) & (pixels[..., 0] < 0.3)
    assert pixels[0, 0].min() == 1.0
    # The line of the interquartile mean crosses most of the width and rises through most of the height.
    rows, columns = np.nonzero(blue)
    assert np.ptp(columns) > 0.7 * width
    assert np.ptp(rows) > 0.4 * height
    assert rows[columns < np.quantile(columns, 0.1)].mean() > rows[columns > np.quantile(columns, 0.9)].mean()


def test_learning_curve_of_one_seed_with_a_gap_gives_no_warning(tmp_path):
    path = tmp_path / "learning_curve.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.learning_curve(path, np.array([0, 500, 1000]), np.array([[1.0, np.nan, 3.0]]), "one seed")
    assert path.stat().st_size > 5_000


def test_a_picture_that_cannot_be_written_is_a_usage_error(tmp_path):
    with pytest.raises(rljax.UsageError, match="could not be written"):
        plot.learning_curve(tmp_path / "missing" / "learning_curve.png", np.arange(2), np.ones((2, 2)), "nowhere")


def test_a_figure_is_shown_by_a_notebook_without_pyplot():
    figure = plot.learning_curve(None, np.arange(2), np.ones((2, 2)), "shown")
    assert figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert figure._repr_png_()[16:24] == (700).to_bytes(4) + (420).to_bytes(4)
