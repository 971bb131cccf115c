"""The throughput benchmark's plain loop learns what the compiled program learns, so that the two may be compared."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

import rljax
from rljax import planning

_PATH = pathlib.Path(__file__).parent.parent / "benchmarks" / "tables.py"
_SPEC = importlib.util.spec_from_file_location("tables", _PATH)
tables = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tables)


def test_the_plain_loop_finds_the_optimum_of_a_lake_that_is_not_slippery():
    config = rljax.preset("q_learning", rljax.make("FrozenLake-misc", is_slippery=False), total_steps=20_000)
    model = rljax.envs.tabular_model(config.env)
    values = tables.plain_loop(model, config, 100, seed=0)
    optimum = planning.value_iteration(model, config.discount)
    start = int(np.argmax(model.start))
    assert values[start].max() == pytest.approx(0.99**5, rel=1e-2)  # six steps to the goal
    np.testing.assert_allclose(values[start].max(), optimum.values[start], rtol=1e-2)
    assert float(planning.expected_return(model, planning.greedy(values), 100)) == pytest.approx(1.0)


@pytest.mark.slow
def test_many_tables_in_one_program_learn_and_are_faster_than_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULT", tmp_path / "tables.json")
    tables.main(["1000", "10000"])
    result = json.loads((tmp_path / "tables.json").read_text())
    assert result["vmapped"]["success_mean"] > 0.5
    assert result["mebibytes"] < 100
    assert result["times_as_fast"] > 10
