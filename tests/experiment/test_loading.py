"""What a finished run's folder gives back."""

import numpy as np
import pytest
from resuming import OPTIONS, as_written
from toys import own, same_bits

import rljax


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run without checkpoints along the way."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    return rljax.run(own, config, out=out, **OPTIONS), out


def test_a_folder_always_holds_its_final_states(config, finished, monkeypatch, capsys):
    """Elsewhere, too, and without a word of bits: loading trains nothing."""
    result, out = finished
    monkeypatch.setattr("rljax.experiment.resume.cpu_threads", lambda: 1000)
    loaded = rljax.load(out, algorithm=own, config=config)
    assert len(repr(loaded)) < 1000
    assert "3 seeds" in repr(loaded)
    assert capsys.readouterr() == ("", "")
    restored, states, algorithm, metrics, evaluations, summary = loaded
    assert restored == config
    assert algorithm is own
    assert same_bits(states, result.states)
    for name, rows in result.metrics.items():
        np.testing.assert_array_equal(metrics[name], rows)
    np.testing.assert_array_equal(evaluations.returns, result.eval_returns)
    np.testing.assert_array_equal(evaluations.env_steps, result.eval_steps)
    assert as_written(summary["final_return"]) == as_written(result.summary["final_return"])


def test_the_best_policy_needs_no_checkpoints(config, finished):
    result, out = finished
    obs = np.zeros((1, 1))
    loaded = rljax.best(out, algorithm=own, config=config)
    assert loaded(None, obs) == result.best(None, obs)
    one = rljax.policy(out, result.best_seed, algorithm=own, config=config)
    assert one(None, obs) == result.best(None, obs)


def test_a_folder_without_states_says_what_to_do(config, finished, tmp_path):
    _, out = finished
    (tmp_path / "x").mkdir()
    (tmp_path / "x/config.json").write_bytes((out / "config.json").read_bytes())
    with pytest.raises(rljax.UsageError, match="has no states yet: `rljax resume"):
        rljax.load(tmp_path / "x", algorithm=own, config=config)
