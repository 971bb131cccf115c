"""What a run prints."""

import io
import sys

import numpy as np
import pytest

from rljax.report import console, live
from rljax.report.statistics import compare, summarize

SUMMARY = {
    **{"algo": "own", "env": "walk", "eval_policy": "greedy", "eval_env": None, "env_steps": 10},
    **{"env_steps_per_second": 5.0, "compile_seconds": 1.0},
}
STATUS = live.Status(5, 7.0, 0.25, [], "seed {}".format)


@pytest.mark.parametrize(
    ("returns", "cells"),
    [
        ([0.7421, 0.7402, 0.75], "0.744 │ needs 5 seeds │  0.742 │      0.740"),
        ([-99.96, 9.0, 9.0], "-27.3 │ needs 5 seeds │    9.0 │     -100.0"),
        ([np.nan], "nan │ needs 5 seeds │    nan │        nan"),
    ],
)
def test_small_returns_are_printed_with_more_decimals(returns, cells, capsys):
    final = summarize(np.array(returns))
    summary = {**SUMMARY, "seeds": len(returns), "final_return": final, "final_measures": {}, "diverged": []}
    console.print_summary(summary)
    assert cells in capsys.readouterr().out


@pytest.mark.parametrize("stream", [None, "broken"])
def test_a_terminal_that_is_gone_ends_nothing(monkeypatch, stream):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(5, "Input/output error")

        isatty = flush = lambda self: True

    monkeypatch.setattr(sys, "stderr", None if stream is None else Broken())
    console.say("a sentence.")
    with live.view("own", 10, True) as show:
        show(STATUS)
    console.show_cursor()


def test_where_the_best_is_not_the_first_row_the_reason_is_printed(capsys):
    """On the even seeds the first configuration is better, on all seeds the second."""
    finals = [np.array([5.0, 0.0, 5.0, 0.0]), np.array([4.0, 9.0, 4.0, 9.0])]
    configurations = [
        {
            "configuration": i,
            "values": {"rate": i},
            "updates": 2,
            "num_updates": 2,
            "diverged": [],
            "final_return": summarize(final),
            "final_measures": {},
        }
        for i, final in enumerate(finals)
    ]
    summary = {**SUMMARY, "seeds": 4, "interrupted": False}
    for order, differs in ((finals, True), (finals[:1] * 2, False)):
        console.print_summary(summary | {"configurations": configurations[: 1 + differs], **compare(order)})
        assert ("The table's first row is another" in capsys.readouterr().out) == differs
