"""Signals that stop a run, and a device that does not answer."""

import json
import signal
import threading

import pytest
from toys import own

import rljax
from rljax.experiment import history, interrupts
from rljax.report import console


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_writes_the_results_so_far(config, tmp_path, monkeypatch, number):
    """The signal arrives while a chunk runs; the chunk lands, files are written, and the result is in the exception."""
    add_chunk, before = history.Record.add_chunk, signal.getsignal(number)

    def interrupt(self, *arguments):
        add_chunk(self, *arguments)
        if self.updates >= 10:
            for _ in range(1 if number == signal.SIGINT else 3):  # `timeout` sends each of its signals twice
                signal.raise_signal(number)

    monkeypatch.setattr(history.Record, "add_chunk", interrupt)
    out = tmp_path / "stopped"
    with pytest.raises(rljax.Interrupted) as stopped:
        rljax.run(own, config, seeds=2, evaluations=25, eval_episodes=5, progress=False, out=out)
    assert stopped.value.signal == number
    done = stopped.value.result.metrics["env_steps"].shape[1]
    assert 10 <= done < 50
    summary = json.loads((out / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["env_steps"] == done * 10
    assert "\n" not in str(stopped.value)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_handlers_of_the_user_are_kept(config, monkeypatch, number, handler):
    """As nohup ignores SIGHUP, and a launcher of batch jobs handles SIGTERM."""
    before, add_chunk = signal.signal(number, handler), history.Record.add_chunk

    def interrupt(self, *arguments):
        add_chunk(self, *arguments)
        signal.raise_signal(number)

    monkeypatch.setattr(history.Record, "add_chunk", interrupt)
    try:
        result = rljax.run(own, config, evaluations=0, eval_episodes=2, progress=False)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert result.summary["env_steps"] == 500


def test_a_run_that_hangs_is_reported(monkeypatch):
    said, sentences = threading.Event(), []

    def say(sentence):
        sentences.append(sentence)
        said.set()

    monkeypatch.setattr(console, "say", say)
    monkeypatch.setattr(interrupts, "STALL_SECONDS", 0.01)
    with interrupts.watched():
        assert said.wait(600)
    assert "A device has not responded" in sentences.pop()
    monkeypatch.setattr(interrupts, "STALL_SECONDS", 3600.0)
    others = set(threading.enumerate())
    with interrupts.watched():
        (timer,) = set(threading.enumerate()) - others
    timer.join(600)  # it has been cancelled, and ends
    assert not timer.is_alive()
    assert sentences == []


def test_run_works_in_a_thread_without_signals(config):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(rljax.run(own, config, evaluations=0, eval_episodes=2, progress=False))
    )
    thread.start()
    thread.join()
    assert results[0].summary["env_steps"] == 500
