"""What is shown while a run trains."""

import io
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from rljax.report import live

EARLY = live.Status(5, 1234.5, 0.25, [np.arange(8.0)], "seed {}".format)
LATE = EARLY._replace(
    updates=10,
    training_return=np.nan,
    evaluations=[np.arange(8.0), np.full(8, 5.0), np.r_[20.0:28.0]],
    solved=2,
    diverged=1,
)


class Terminal(io.StringIO):
    """Keeps what is drawn; `compiling` is set once that word is."""

    def __init__(self):
        super().__init__()
        self.compiling = threading.Event()

    def write(self, text):
        if "compiling" in text:
            self.compiling.set()
        return super().write(text)

    def isatty(self):
        return True


def test_cells_say_what_each_number_is():
    """The interquartile mean of 20 to 27 is that of 22 to 25."""
    cells = live.cells(LATE)
    low, high = cells["greedy return"].removeprefix("23.5 (").removesuffix(")").split(" to ")
    assert 20 <= float(low) < 23.5 < float(high) <= 27
    assert cells["so far"] == "▁▂█"
    assert (cells["worst"], cells["best"]) == ("20.0 (seed 0)", "27.0 (seed 7)")
    assert (cells["solved"], cells["diverged"]) == ("2", "1")
    assert "training return" not in cells
    assert live.cells(EARLY)["training return"] == "0.250"
    assert live.cells(EARLY)["env steps/s"] == "1,234"


@pytest.mark.parametrize("evaluations", [[], [np.array([np.nan, np.nan])]])
def test_cells_without_a_finite_return(evaluations):
    assert list(live.cells(EARLY._replace(evaluations=evaluations))) == ["env steps/s", "training return"]


def test_sparks_show_the_latest_values():
    assert live.sparks(np.array([])) == ""
    assert live.sparks(np.array([3.0, np.nan, 3.0])) == "▁▁"
    assert live.sparks(np.r_[100.0, np.zeros(23), 7.0]) == "▁" * 23 + "█"


def test_a_pipe_gets_a_line_at_every_tenth(capsys):
    with live.view("own", 10, True) as show:
        for status in (EARLY, EARLY, LATE):
            show(status)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "rljax: own: compiling."
    assert said[1].startswith("rljax: own: 50%, 1,234 env steps/s, greedy return 3.500 (")
    assert said[1].endswith("training return 0.250.")
    assert said[2].startswith("rljax: own: 100%")
    assert len(said) == 3


def test_a_quiet_run_shows_nothing(capsys):
    with live.view("own", 10, False) as show:
        show(LATE)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_what_it_waits_for(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with live.view("own", 10, True) as show:
        assert terminal.compiling.wait(600)
        before = len(terminal.getvalue())
        show(EARLY)
    drawn = terminal.getvalue()[before:]
    for text in ("50%", "1,234", "training return", "0.250", "0.000 (seed 0)"):
        assert text in drawn


def test_a_notebook_replaces_what_it_shows_without_widgets(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=shown.append)
    display = SimpleNamespace(display=lambda one, display_id: shown.append(one) or handle)
    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with live.view("<own>", 10, True) as show:
        show(EARLY)
    pages = [one._repr_html_() for one in shown]
    assert pages[0] == "<div>&lt;own&gt; <progress value='0.0000' max='1'></progress> compiling</div>"
    assert "value='0.5000'" in pages[1]
    assert ">training return</th>" in pages[1]
    assert ">0.250</td>" in pages[1]
    assert repr(shown[0]) == "<own>: compiling"  # where there is no HTML
    assert repr(shown[1]).startswith("<own>: 50%, env steps/s 1,234")
