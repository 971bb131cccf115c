"""Runs that do not fit into memory together: planned in batches, halved if a batch still does not fit."""

import json
import signal

import jax
import numpy as np
import pytest
import toys
from toys import changed_train, own, same_bits

import rljax
from rljax import dqn
from rljax.backend import devices
from rljax.experiment import batching, compilation, loop
from rljax.experiment.history import Record

OPTIONS = {"seeds": 10, "evaluations": 2, "eval_episodes": 3, "devices": 1}


@pytest.fixture(scope="module")
def config():
    return own.Config(env=toys.walk, num_updates=20, width=100)


@pytest.fixture(scope="module")
def trained(config):
    """All runs at once, and the bytes that they need."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        needs = watch(monkeypatch)
        whole = rljax.run(own, config, progress=False, **OPTIONS)
    ((lanes, memory),) = needs
    assert lanes == 10
    assert memory > 2 * 10 * 100 * 4  # states come in and go out
    return whole, memory


def watch(monkeypatch):
    """Lanes and bytes of every batch that is planned from now on."""
    needs, lanes_that_fit = [], batching.lanes_that_fit

    def note(experiment, batch, memory, available):
        needs.append((batch.lanes, memory))
        return lanes_that_fit(experiment, batch, memory, available)

    monkeypatch.setattr(batching, "lanes_that_fit", note)
    return needs


def same_but_for_rounding(left, right):
    for x, y in zip(jax.tree.leaves(left.states), jax.tree.leaves(right.states), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    np.testing.assert_allclose(left.eval_returns, right.eval_returns, rtol=1e-6)
    assert left.metrics["env_steps"].tolist() == right.metrics["env_steps"].tolist()
    np.testing.assert_allclose(
        left.summary["final_return"]["per_seed"], right.summary["final_return"]["per_seed"], rtol=1e-6
    )


def test_a_memory_limit_splits_runs_into_batches(config, trained, monkeypatch, capsys):
    whole, memory = trained
    needs = watch(monkeypatch)
    result = rljax.run(own, config, progress=False, memory_limit=int(memory * 0.45), **OPTIONS)
    same_but_for_rounding(result, whole)
    assert [lanes for lanes, _ in needs] == [10, 4, 4, 4]
    assert all(need <= memory * 0.45 for _, need in needs[1:])
    assert "3 batches of 4" in capsys.readouterr().err


def test_runs_with_large_replay_buffers_train_in_turn_on_a_cpu(monkeypatch):
    """Over two devices, in batches of as many as have small replays together, at least one a device."""
    if len(jax.devices()) < 2:
        pytest.skip("JAX shows one device only")
    config = dqn.Config(env=rljax.make("CartPole-v1"), total_steps=400, prefill_steps=200, buffer_size=1000)
    state = jax.eval_shape(dqn.init, jax.random.key(0), config)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.replay))
    runs, envs = (jax.make_mesh((2,), (axis,)) for axis in ("runs", "envs"))
    assert compilation.side_by_side(state, 10, runs) == 10
    for at_once, lanes in ((0, 2), (3, 2), (5, 4), (10, 10), (50, 10)):
        monkeypatch.setattr(compilation, "COPIED_BYTES", int((at_once + 0.5) * size))
        assert compilation.side_by_side(state, 10, runs) == lanes
        assert compilation.side_by_side(state, 10, envs) == 10
    monkeypatch.setattr(compilation, "COPIED_BYTES", int(5.5 * size))
    needs = watch(monkeypatch)
    result = rljax.run(dqn, config, **{**OPTIONS, "devices": 2, "evaluations": 0, "progress": False})
    assert [count for count, _ in needs] == [4, 4, 4]
    assert result.metrics["env_steps"][:, -1].tolist() == [200 + config.num_updates * config.steps_per_update] * 10
    assert all(len(np.unique(x, axis=0)) == 10 for x in jax.tree.leaves(result.states.params))  # no seed twice


def press_where(monkeypatch, function, where, condition):
    """Ctrl-C at each call of a function that fits."""
    called = getattr(where, function)

    def press(*given):
        if condition(*given):
            signal.raise_signal(signal.SIGINT)
        return called(*given)

    monkeypatch.setattr(where, function, press)


def test_an_interrupt_before_a_later_batch_loses_nothing(config, trained, monkeypatch, tmp_path, capsys):
    """Runs of earlier batches are complete; the message counts those not begun, which `resume` trains."""
    monkeypatch.setattr(compilation, "side_by_side", lambda *_: 4)
    press_where(monkeypatch, "lanes_that_fit", batching, lambda experiment, batch, *_: batch.runs.seeds[0] == 4)
    out = tmp_path / "x"
    stopped = "Stopped after 8 of 20 updates on average, 6 of 10 runs not begun"
    with pytest.raises(rljax.Interrupted, match=stopped) as of:
        rljax.run(own, config, out=out, checkpoint_every=60, **OPTIONS)
    said = capsys.readouterr()
    assert "3 batches of 4" in said.err
    assert "4 of 10 seeds" in said.out
    result = of.value.result
    assert result.summary["interrupted"]
    assert result.summary["final_return"]["per_seed"] == pytest.approx(
        trained[0].summary["final_return"]["per_seed"][:4], rel=1e-6
    )
    np.testing.assert_allclose(result.eval_returns, trained[0].eval_returns[:4], rtol=1e-6)
    assert (out / "learning_curve.png").exists()
    monkeypatch.undo()
    same_but_for_rounding(rljax.resume(out, algorithm=own, config=config, progress=False), trained[0])


def test_an_interrupt_within_a_later_batch_stops_that_batch(config, trained, monkeypatch, capsys):
    monkeypatch.setattr(compilation, "side_by_side", lambda *_: 4)
    press_where(monkeypatch, "add_chunk", Record, lambda record, *_: record.runs.seeds[0] == 4)
    with pytest.raises(rljax.Interrupted, match="2 of 10 runs not begun") as of:
        rljax.run(own, config, **OPTIONS)
    result = of.value.result
    assert "8 of 10 seeds" in capsys.readouterr().out
    np.testing.assert_allclose(result.eval_returns[:4], trained[0].eval_returns[:4], rtol=1e-6)
    assert np.isnan(result.eval_returns[4:, -1]).all()
    np.testing.assert_allclose(result.metrics["env_steps"][:4], trained[0].metrics["env_steps"][:4])


def test_a_batch_that_runs_out_of_memory_is_halved(config, trained, monkeypatch, capsys):
    sizes = []

    def fail_if_large(arguments):
        sizes.append(len(arguments["record"].runs))
        if sizes[-1] > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes.")

    monkeypatch.setattr(loop, "train", changed_train(fail_if_large))
    same_but_for_rounding(rljax.run(own, config, progress=False, **OPTIONS), trained[0])
    assert sizes == [10, 5, 3, 2, 5, 3, 2]
    assert "do not fit into memory" in capsys.readouterr().err


def test_one_run_that_does_not_fit_is_a_usage_error(config, monkeypatch):
    def never(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")

    monkeypatch.setattr(loop, "train", never)
    with pytest.raises(rljax.UsageError, match="One run needs more memory"):
        rljax.run(own, config, progress=False, **OPTIONS)

    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else.")

    monkeypatch.setattr(loop, "train", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        rljax.run(own, config, progress=False, **OPTIONS)


@pytest.mark.parametrize("used", [1, 2])
def test_a_limit_below_one_run_is_a_usage_error(config, monkeypatch, used):
    if len(jax.devices()) < used:
        pytest.skip("JAX shows one device only")
    needs = watch(monkeypatch)
    options = {**OPTIONS, "seeds": 2, "devices": used, "progress": False}
    rljax.run(own, config, **{**options, "seeds": used})
    ((_, memory),) = needs
    of_all = used * memory
    words = rf"One run needs {devices.readable(memory)} on each of {used} devices.*raise it, or lower"
    for limit in (10, of_all - 1):
        with pytest.raises(rljax.UsageError, match=words) as error:
            rljax.run(own, config, memory_limit=limit, **options)
        assert "\n" not in str(error.value)
    assert rljax.run(own, config, memory_limit=of_all, **options).metrics["env_steps"].shape == (2, 20)
    monkeypatch.setattr(devices, "available_bytes", lambda *_: 10)  # what is free is only an estimate
    assert rljax.run(own, config, memory_limit=of_all, **options).metrics["env_steps"].shape == (2, 20)


def test_batches_resume_with_the_same_layout(config, trained, tmp_path, monkeypatch):
    """Stopped in the second of three batches, which are then the same three batches."""

    def stop_at_the_third(arguments):
        if arguments["record"].runs.seeds[0] == 8:
            raise RuntimeError("stopped")

    limit = {"memory_limit": int(trained[1] * 0.45), "checkpoint_every": 0, "progress": False}
    batched = rljax.run(own, config, out=tmp_path / "y", **limit, **OPTIONS)
    monkeypatch.setattr(loop, "train", changed_train(stop_at_the_third))
    with pytest.raises(RuntimeError, match="stopped") as error:
        rljax.run(own, config, out=tmp_path / "x", **limit, **OPTIONS)
    assert "of 8 of 10 runs, are in" in error.value.__notes__[0]
    assert "`rljax resume" in error.value.__notes__[0]
    summary = json.loads((tmp_path / "x/summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["final_return"]["per_seed"] == batched.summary["final_return"]["per_seed"][:8]
    curves = [(tmp_path / name / "curves.csv").read_text().splitlines() for name in "xy"]
    assert curves[0] == curves[1][: 1 + 8 * 3]
    monkeypatch.undo()
    needs = watch(monkeypatch)
    assert len(list((tmp_path / "x/checkpoints").iterdir())) == 2
    resumed = rljax.resume(tmp_path / "x", algorithm=own, config=config, progress=False)
    assert [lanes for lanes, _ in needs] == [4]  # the third batch, laid out as the others were
    assert same_bits(resumed.states, batched.states)
    same_but_for_rounding(resumed, trained[0])
    loaded = rljax.load(tmp_path / "x", algorithm=own, config=config)
    assert same_bits(loaded.states, batched.states)


def test_a_run_larger_than_the_machine_is_refused_before_it_trains(config, tmp_path, monkeypatch):
    """Also without a limit, and also one that began on a larger machine."""
    states = 4 * config.width + 4
    trained = []
    monkeypatch.setattr(loop, "train", lambda *_: trained.append(1))
    for total in (states - 1, states):
        monkeypatch.setattr(devices, "total_bytes", lambda _, total=total: total)
        monkeypatch.setattr(devices, "available_bytes", lambda *_, total=total: total)
        for seeds in (1, 3):
            with pytest.raises(rljax.UsageError, match=f"One run needs .* devices, which have {total} bytes each"):
                rljax.run(own, config, progress=False, **{**OPTIONS, "seeds": seeds})
    assert trained == []
    monkeypatch.undo()
    rljax.run(own, config, progress=False, out=tmp_path / "x", checkpoint_every=1e6, **OPTIONS)
    monkeypatch.setattr(devices, "total_bytes", lambda _: 1000)
    with pytest.raises(rljax.UsageError, match="no longer fit into memory"):
        rljax.resume(tmp_path / "x", algorithm=own, env=toys.walk, progress=False)
