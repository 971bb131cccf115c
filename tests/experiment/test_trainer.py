"""What is shown while batches train one after the other."""

import contextlib

import numpy as np
import pytest
import toys
from toys import own

import rljax
from rljax.experiment import compilation, loop
from rljax.report import live


def test_the_progress_bar_counts_the_updates_of_all_runs(monkeypatch):
    """Four runs in two batches, with their rate and the latest return, after each chunk of four updates."""
    shown = []

    @contextlib.contextmanager
    def view(description, num_updates, is_shown):
        assert (description, num_updates, is_shown) == ("own on walk x 4", 4 * 10, False)
        yield shown.append

    monkeypatch.setattr(live, "view", view)
    monkeypatch.setattr(compilation, "side_by_side", lambda *_: 2)
    monkeypatch.setattr(loop, "train", toys.in_chunks_of(4))
    config = own.Config(env=toys.walk, num_updates=10)
    result = rljax.run(own, config, seeds=4, evaluations=0, eval_episodes=2, devices=1, progress=False)
    updates = [status.updates for status in shown]
    rates = [status.env_steps_per_second for status in shown]
    assert sorted(set(updates)) == [*updates]
    assert (updates[0], updates[-1]) == (2 * 1, 4 * 10)
    # Each batch's last rate is of all its updates: 2 runs x 100 steps.
    ends = [rates[i] for i, done in enumerate(updates) if done in (20, 40)]
    assert result.summary["train_seconds"] == pytest.approx(sum(200 / rate for rate in ends))
    final = result.metrics["episode_return"]
    assert shown[-1].training_return == pytest.approx(final[2:, 10 - (updates[-1] - updates[-2]) // 2 :].mean())
    assert np.isfinite(rates).all()
