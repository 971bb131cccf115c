"""Every line of the learning table, on 20 fresh seeds. Long: `make test-slow`."""

import importlib.util
import pathlib
import sys

import pytest

_PATH = pathlib.Path(__file__).parent.parent / "benchmarks" / "learning.py"
_SPEC = importlib.util.spec_from_file_location("learning", _PATH)
learning = importlib.util.module_from_spec(_SPEC)
sys.modules["learning"] = learning
_SPEC.loader.exec_module(learning)


@pytest.mark.slow
@pytest.mark.parametrize("claim", learning.CLAIMS, ids=lambda claim: "-".join(claim.what))
def test_the_preset_reaches_its_bar(claim):
    summary = learning.measure(claim)
    assert summary["diverged"] == []
    assert claim.bar <= summary["final_return"]["iqm"] <= claim.ceiling
    assert summary["final_return"]["min"] >= claim.floor
    assert sum(seed >= claim.bar for seed in summary["final_return"]["per_seed"]) >= claim.solved
