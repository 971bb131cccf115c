"""What a run prints."""

import numpy as np
import pytest

from rljax.report import console
from rljax.report.statistics import summarize


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
    summary = {"algo": "own", "env": "walk", "seeds": len(returns), "env_steps": 10, "final_return": final}
    console.print_summary(summary | {"env_steps_per_second": 5.0, "compile_seconds": 1.0, "diverged": []})
    assert cells in capsys.readouterr().out
    with console.progress_bar("own", 10, True) as show:
        show(10, 5.0, returns[0])
    digits = {0.7421: "0.742", -99.96: "-100.0"}.get(returns[0], "nan")
    assert f"return {digits}." in capsys.readouterr().err
