"""`rljax.run`: the bits of a plain `jit(vmap(train))`, the files it writes, and the errors it raises."""

import csv
import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from toys import own, same_bits

import rljax
from rljax import core, evaluation, ppo
from rljax.config import with_values
from rljax.experiment import compilation


@pytest.fixture(scope="module")
def config():
    env = rljax.make("CartPole-v1", max_steps_in_episode=60)  # in longer ones rounding tips the pole
    return ppo.Config(env=env, total_steps=640, num_envs=4, num_steps=16, num_minibatches=2, hidden_sizes=(16,))


@pytest.fixture(scope="module")
def bare(config):
    """Five runs by a plain `jit(vmap(train))`."""
    keys = jax.random.split(jax.random.key(5), 5)
    return jax.jit(jax.vmap(ppo.train, (0, None)))(keys, config)


@pytest.fixture(scope="module")
def full(config, tmp_path_factory):
    """The same five runs with everything on, on one device."""
    out = tmp_path_factory.mktemp("runs") / "full"
    result = rljax.run(ppo, config, seeds=5, seed=5, out=out, evaluations=3, eval_episodes=30, progress=True, devices=1)
    return result, out


def test_run_gives_the_same_bits_as_a_plain_vmap(full, bare):
    result, _ = full
    states, metrics = bare
    assert same_bits(result.states, states)
    assert set(result.metrics) == set(metrics)
    for name, rows in metrics.items():
        np.testing.assert_array_equal(result.metrics[name], rows, err_msg=name)


def test_evaluations_and_files_do_not_change_the_bits(config, bare):
    result = rljax.run(ppo, config, seeds=5, seed=5, evaluations=0, eval_episodes=30, progress=False, devices=1)
    assert same_bits(result.states, bare[0])
    assert result.eval_returns.shape == (5, 0)


def test_several_devices_give_the_same_results_to_rounding(config, full):
    """Five seeds on two devices: one lane more, dropped again."""
    if len(jax.devices()) < 2:
        pytest.skip("JAX shows one device only")
    result = rljax.run(ppo, config, seeds=5, seed=5, evaluations=0, eval_episodes=30, progress=False, devices=2)
    for got, want in zip(jax.tree.leaves(result.states.params), jax.tree.leaves(full[0].states.params), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-4)
    assert result.summary["device"].startswith("2 x")
    np.testing.assert_allclose(result.metrics["entropy"], full[0].metrics["entropy"], atol=1e-3)


def test_another_learning_rate_reuses_the_compiled_programs(config, full):
    before = compilation.latest()
    changed = with_values(config, {"learning_rate.start": 1e-2})
    result = rljax.run(ppo, changed, seeds=5, seed=5, evaluations=3, eval_episodes=30, progress=False, devices=1)
    assert compilation.latest() is before
    assert not same_bits(result.states.params, full[0].states.params)


def test_run_writes_its_files(config, full):
    result, out = full
    assert {path.name for path in out.iterdir()} == {
        *("checkpoints", "config.json", "curves.csv", "learning_curve.png", "metrics.csv", "summary.json")
    }
    summary = json.loads((out / "summary.json").read_text())
    assert {
        *("algo", "env", "seeds", "total_steps", "env_steps_per_second", "compile_seconds"),
        *("train_seconds", "device", "versions", "final_return"),
    } <= set(summary)
    assert (summary["algo"], summary["env"], summary["seeds"]) == ("ppo", "CartPole-v1", 5)
    assert set(summary["final_return"]) >= {"iqm", "ci95", "mean", "median", "min", "max", "per_seed"}
    assert len(summary["final_return"]["per_seed"]) == 5
    assert summary["final_return"]["ci95"][0] <= summary["final_return"]["iqm"] <= summary["final_return"]["ci95"][1]
    assert summary["env_steps"] == 640

    rows = list(csv.DictReader((out / "curves.csv").open()))
    assert len(rows) == 5 * 4
    assert [int(row["env_steps"]) for row in rows[:4]] == [0, 192, 448, 640]
    np.testing.assert_allclose([float(row["return"]) for row in rows], result.eval_returns.ravel(), rtol=1e-5)

    about = json.loads((out / "config.json").read_text())
    assert about["config"]["env"]["params"]["gravity"] == 9.8
    assert about["config"]["learning_rate"] == "linear(0.00025, 0.0)"


def test_final_returns_are_greedy_evaluations(config, full):
    """Recomputed without `rljax.run`: the same keys, the same policy, 30 episodes."""
    result, _ = full
    keys = jax.vmap(lambda key: jax.random.split(core.training_keys(key)[2])[1])(jax.random.split(jax.random.key(5), 5))

    @jax.jit
    @jax.vmap
    def returns(key, state):
        batches = [
            evaluation.evaluate(jax.random.fold_in(key, i), config.env, ppo.act(state, config), 20) for i in range(2)
        ]
        return jnp.concatenate(batches)[:30].mean()

    np.testing.assert_allclose(result.summary["final_return"]["per_seed"], returns(keys, result.states), rtol=1e-4)


def test_evaluations_use_their_numbers_keys():
    """The first and the last one, by hand: of untrained and of trained policies, with noise in the rewards."""
    config = own.Config(env=toys.walk, num_updates=6)
    result = rljax.run(own, config, seeds=2, evaluations=2, eval_episodes=3, progress=False, devices=1)
    for seed, key in enumerate(jax.random.split(jax.random.key(0), 2)):
        key_init, _, key_evaluation = core.training_keys(key)
        key_curve = jax.random.split(key_evaluation)[0]
        trained = jax.tree.map(lambda x, seed=seed: x[seed], result.states)
        for number, state in ((0, own.init(key_init, config)), (2, trained)):
            key_episodes = jax.random.fold_in(key_curve, number)
            returns = evaluation.evaluate(key_episodes, config.env, own.act(state, config), 3)
            np.testing.assert_allclose(result.eval_returns[seed, number], returns.mean(), rtol=1e-5)


# --- when something goes wrong -------------------------------------------------------------------------------------


@pytest.fixture
def own_config():
    return own.Config(env=toys.walk)


def test_a_custom_algorithm_runs(own_config):
    result = rljax.run(own, own_config, seeds=3, evaluations=2, eval_episodes=5, progress=False)
    assert result.metrics["env_steps"].shape == (3, 50)
    assert result.states.step.shape == (3,)
    assert result.summary["algo"] == "own"


def test_a_metric_may_be_an_array(own_config, tmp_path):
    """Also where a run is frozen, and read from a checkpoint."""

    def update(key, state, config):
        following, metrics = own.update(key, state, config)
        return following, {**metrics, "params": following.params, "table": jnp.arange(6).reshape(2, 3) + state.step}

    arrays = SimpleNamespace(__name__="arrays", init=own.init, act=own.act, update=update)
    poisoned = dataclasses.replace(own_config, num_updates=8, poison_at=3)
    options: dict[str, Any] = {"seeds": 3, "evaluations": 2, "eval_episodes": 2}
    result = rljax.run(arrays, poisoned, out=tmp_path / "x", checkpoint_every=60, **options)
    assert result.metrics["params"].shape == (3, 8, 2)
    for rows, params in zip(result.metrics["params"], np.asarray(result.states.params), strict=True):
        np.testing.assert_array_equal(rows[np.isfinite(rows)][-2:], params)
    well = np.setdiff1d(np.arange(3), [run["seed"] for run in result.summary["diverged"]])
    assert 0 < len(well) < 3
    tables = np.arange(8)[:, None, None] + np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(result.metrics["table"][well], np.broadcast_to(tables, (len(well), 8, 2, 3)))
    resumed = rljax.resume(tmp_path / "x", algorithm=arrays, config=poisoned, progress=False)
    np.testing.assert_array_equal(resumed.metrics["params"], result.metrics["params"])
    assert (tmp_path / "x/curves.csv").read_text().splitlines()[0] == "seed,update,env_steps,return,length"


def test_a_full_disk_loses_no_result(own_config, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    import pathlib

    real = pathlib.Path.write_text
    monkeypatch.setattr(
        pathlib.Path, "write_text", lambda self, *a, **k: real(self, *a, **k) if "config" in self.name else full()
    )
    with pytest.raises(rljax.UsageError, match="No space left on device") as error:
        rljax.run(own, own_config, seeds=2, evaluations=2, eval_episodes=5, progress=False, out=tmp_path / "x")
    assert error.value.result.metrics["env_steps"].shape == (2, 50)
    assert "The run continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seeds": 0}, "seeds"),
        ({"evaluations": -1}, "evaluations"),
        ({"eval_episodes": 0}, "eval_episodes"),
        ({"devices": 99}, "devices"),
        ({"seeds": 1.5}, "seeds"),
        ({"seeds": True}, "seeds must be an integer, got True"),
        ({"out": 5}, "out must be the path of a folder, got 5"),
    ],
)
def test_invalid_arguments_are_refused(own_config, arguments: dict[str, Any], word):
    with pytest.raises(rljax.UsageError, match=word) as error:
        rljax.run(own, own_config, progress=False, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stack", [np.array, jnp.array])
def test_a_stack_of_configs_is_refused(own_config, stack):
    with pytest.raises(rljax.UsageError, match=r"rate must be one number, got an array of shape \(2,\): try several"):
        rljax.run(own, dataclasses.replace(own_config, rate=stack([0.1, 0.2])), progress=False)


def test_objects_that_are_not_algorithms_are_refused(own_config):
    with pytest.raises(rljax.UsageError, match="no init"):
        rljax.run(json, own_config)
    with pytest.raises(rljax.UsageError, match="own needs its own Config: the one given has no env"):
        rljax.run(own, SimpleNamespace())
    with pytest.raises(rljax.UsageError, match="no env"):
        rljax.run(SimpleNamespace(init=len, update=len, act=len), SimpleNamespace())
    with pytest.raises(rljax.UsageError, match="dqn needs its own Config: the one given has no "):
        rljax.run(rljax.dqn, rljax.preset("ppo", "CartPole-v1"))
