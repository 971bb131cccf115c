"""What the benchmarks report is right: operations counted, exponents fitted, the loop that they compare with."""

import importlib
import json
import pathlib
import sys

import bars
import compiling
import floors
import jax
import jax.numpy as jnp
import learning
import minatar
import numpy as np
import peers
import pytest
import random_policy
import scaling
import script
import tables
import thousands
import throughput

import rljax
from rljax import planning, ppo

SCRIPTS = (bars, compiling, learning, minatar, peers, scaling, tables, thousands, throughput)


def test_operations_count_products_in_loops_as_often_as_they_run():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    product = 2 * 3 * 4 * 5
    assert floors.product_operations(lambda a, b: jnp.tanh(a @ b), a, b) == product
    assert floors.product_operations(jax.vmap(jnp.matmul, (0, None)), jnp.ones((7, 3, 4)), b) == 7 * product

    def looped(a, b):
        return jax.lax.scan(lambda x, _: (x + jax.jit(jnp.matmul)(a, b), ()), jnp.zeros((3, 5)), length=6)[0]

    assert floors.product_operations(looped, a, b) == 6 * product
    branch = lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) @ b.T @ b)  # noqa: E731
    assert floors.product_operations(branch, a, b) == product  # what the cheaper side takes is a floor
    kernel, image = jnp.ones((3, 3, 2, 8)), jnp.ones((1, 10, 10, 2))

    def convolution(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert floors.product_operations(convolution, image, kernel) == 2 * 8 * 8 * 8 * 3 * 3 * 2


def test_operations_of_ppo_equal_those_of_its_layers():
    config = ppo.Config(env=rljax.make("CartPole-v1"))
    key, state = jax.random.key(0), jax.eval_shape(ppo.init, jax.random.key(0), config)
    counted = floors.product_operations(ppo.update, key, state, config) / config.steps_per_update
    hidden = 2 * (4 * 64 + 64 * 64)
    actor, critic = hidden + 2 * 64 * 2, hidden + 2 * 64
    # Acting; values of observations; an epoch forward, back to weights, and back to hidden layers. The last successor.
    once, backward = actor + critic, (actor - 2 * 4 * 64) + (critic - 2 * 4 * 64)
    assert counted >= actor + critic + 4 * (2 * once + backward) + critic / 128
    assert counted <= 2 * once + 4 * (2 * once + backward) + once / 128  # the compiler drops what is not used


def test_the_exponent_of_a_power_law():
    rows = [{"x": x, "seconds_per_update": 3.0 * x**0.7} for x in (1, 4, 16, 64)]
    assert scaling.exponent(rows) == pytest.approx(0.7)


def test_the_random_policy_is_uniform():
    config = random_policy.Config(env=rljax.make("CartPole-v1"), num_envs=64, total_steps=64 * 256)
    result = rljax.run(random_policy, config, seeds=1, evaluations=0, eval_episodes=500, progress=False)
    assert result.summary["final_return"]["mean"] == pytest.approx(22.1, abs=2)  # Gymnasium's, over 10,000 episodes
    trained = result.metrics["episode_return"][0]
    assert np.nanmean(trained) == pytest.approx(22.1, abs=2)


def test_a_check_fails_if_a_ratio_has_halved_and_names_it(tmp_path, monkeypatch, capsys):
    row = {"algorithm": "ppo", "environment": "CartPole-v1", "seeds": 16, "env_steps_per_second": 1.0, "spread": 0.0}
    row |= {"of_stepping": 0.1, "of_products": 0.4, "compile_seconds": 1.0, "megabytes_of_each": 1.0}
    monkeypatch.setattr(throughput, "RESULTS", tmp_path)
    monkeypatch.setattr(throughput, "CHECKED", {("ppo", "CartPole-v1"): 20_000})
    monkeypatch.setattr(throughput, "checked_rows", lambda repeats: [row])
    for was, failures in ((0.15, 0), (0.25, 1)):
        baseline = {"device": jax.devices()[0].device_kind, "tolerance": 0.5, "rows": [{**row, "of_stepping": was}]}
        (tmp_path / "baseline.json").write_text(json.dumps(baseline))
        assert throughput.check() == failures
    assert "ppo on CartPole-v1 is at 10.0% of stepping and was at 25.0%" in capsys.readouterr().out
    (tmp_path / "baseline.json").write_text(json.dumps({**baseline, "device": "H9"}))
    with pytest.raises(rljax.UsageError, match="no baseline of this device"):
        throughput.check()


def test_a_bar_is_compared_with_the_fastest_peer(tmp_path, monkeypatch):
    monkeypatch.setattr(bars, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    rows = [
        {"peer": peer, "way": way, "env_steps_per_second": speed, "times_as_fast_is_rljax": 300.0 / speed}
        for peer, way, speed in (
            ("rljax", "README", 300.0),
            ("rljax", "README, mixed precision", 360.0),
            ("slow", "README", 100.0),
            ("quick", "README", 160.0),
            ("slow", "a process a core", 250.0),
        )
    ]
    rows[0]["device"] = "2 x cpu"
    rows.append({"peer": "broken", "way": "README", "failure": "hung"})
    (tmp_path / "results" / "peers.json").write_text(json.dumps({"ppo_cartpole_many": {"cores": 2, "rows": rows}}))
    (tmp_path / "results" / "tables.json").write_text(json.dumps({"agents": 10_000, "times_as_fast": 150.2}))
    readme, per_core, table = bars.on_cpu("")
    assert (readme.measured, readme.mixed, readme.met, readme.source) == (
        "1.88x", "2.25x", "yes", "quick, as in its README",
    )  # fmt: skip
    assert (per_core.measured, per_core.mixed, per_core.met) == ("1.20x", "1.44x", "in mixed precision")
    assert (table.bar, table.measured, table.mixed, table.met) == ("1,000x", "150x", "", "no")
    (tmp_path / "results" / "zen9").mkdir()
    rows[1]["times_as_fast_is_rljax"] = 1.2
    (tmp_path / "results" / "zen9" / "peers.json").write_text(
        json.dumps({"ppo_cartpole_many": {"cores": 4, "rows": rows}})
    )
    bars.main([])
    _, first, second = (tmp_path / "SPEED.md").read_text().split("## ")
    assert (first.splitlines()[0], second.splitlines()[0]) == ("CPU of 2 cores", "ZEN9, CPU of 4 cores")
    assert "| 1.88x | 2.25x | yes |" in first
    assert "| 150x |  | no |" in first
    assert "| 1.88x | 1.56x | yes |" in second
    assert "150x" not in second


def test_bars_of_a_gpu_have_a_separate_table(tmp_path, monkeypatch):
    monkeypatch.setattr(bars, "HERE", tmp_path)
    (tmp_path / "results" / "h9").mkdir(parents=True)
    claim = {"source": "their README", "device": "A1"}
    of_many = {"agents": 2048, "env_steps_of_each": 1000, "times_the_claim": 1.5, "claim": claim}
    rows = [
        {"peer": peer, "way": way, "seeds": 8, "env_steps": 80, "times_as_fast_is_rljax": r}
        for peer, way, r in (("rljax", bars.README, 1.0), ("rljax", bars.MIXED, 0.8), ("x", bars.README, 1.2))
    ]
    rows.append({"peer": "broken", "way": bars.README, "seeds": 8, "failure": "out of memory"})
    for name, content in (("thousands", of_many), ("peers", {"ppo_cartpole_many": {"rows": rows}})):
        (tmp_path / "results" / "h9" / f"{name}.json").write_text(json.dumps(content))
    claimed, peer = bars.on_gpu("h9")
    assert (claimed.measured, claimed.met, claimed.source) == ("1.50x", "no", "their README, on an A1")
    assert (peer.measured, peer.mixed, peer.met, peer.source) == ("1.20x", "1.50x", "yes", "x on the same GPU")
    bars.main([])
    assert "## H9" in (tmp_path / "SPEED.md").read_text()


@pytest.mark.slow
def test_thousands_of_agents_are_timed_and_compared_with_the_claim(tmp_path, capsys):
    out = tmp_path / "thousands.json"
    thousands.main(["--seeds", "2", "--steps", "1024", "--repeats", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    assert (result["agents"], result["env_steps_of_each"], result["repeats"]) == (2, 1024, 2)
    seconds = result["seconds"]
    assert 0.0 < seconds["fastest"] <= seconds["median"] <= seconds["slowest"]
    assert result["env_steps_per_second"] == pytest.approx(2 * 1024 / seconds["median"])
    assert result["times_the_claim"] == pytest.approx(result["env_steps_per_second"] / (2048 * 500_000 / 98))
    assert 8.0 < result["final_return"]["mean"] <= 500.0
    assert json.loads(capsys.readouterr().out) == result


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
    tables.main(["--agents", "1000", "--steps", "10000"])
    result = json.loads((tmp_path / "tables.json").read_text())
    assert result["vmapped"]["success_mean"] > 0.5
    assert result["mebibytes"] < 100
    assert result["times_as_fast"] > 10


def test_an_axis_of_scaling_joins_only_those_of_the_same_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "RESULTS", tmp_path / "results" / "scaling.json")
    monkeypatch.setattr(scaling, "along", lambda axis: {"rows": [axis]})

    def held():
        return json.loads(scaling.RESULTS.read_text())["axes"]

    with pytest.raises(rljax.UsageError, match="There is no axis 'an axis that there is not'"):
        scaling.main(["an axis that there is not"])
    assert not scaling.RESULTS.exists()
    scaling.main(["seeds"])
    scaling.main(["width"])
    assert held() == {"seeds": {"rows": ["seeds"]}, "width": {"rows": ["width"]}}
    scaling.RESULTS.write_text(scaling.RESULTS.read_text().replace('"cores": ', '"cores": 1'))
    scaling.main(["devices"])
    assert held() == {"devices": {"rows": ["devices"]}}


@pytest.mark.parametrize("benchmark", SCRIPTS, ids=lambda benchmark: benchmark.__name__)
def test_help_measures_and_writes_nothing(benchmark, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("benchmark", "options", "sentence"),
    [
        (thousands, ["--out", "/proc/no/x.json"], "'/proc/no' cannot be a folder"),
        (thousands, ["--repeats", "0"], "'0' is not an integer of at least 1"),
        (tables, ["--steps", "ten"], "'ten' is not an integer"),
        (throughput, ["--check", "--seeds", "4"], "have fixed rows"),
        (throughput, ["--check", "--baseline"], "not allowed with"),
        (compiling, ["--cache", ""], "a folder needs a name"),
        (peers, ["--seeds", "-1"], "'-1' is not an integer"),
    ],
)
def test_an_invalid_option_is_refused_before_anything_runs(benchmark, options, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(options)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_failed_script_prints_a_sentence_and_returns_a_code(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(bars, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["a script"])

    def interrupted(_):
        raise KeyboardInterrupt

    for main, code, sentence in (
        (lambda _: 1, 1, ""),
        (interrupted, 130, "stopped; all of it is kept."),
        (lambda _: script.read(tmp_path / "broken.json"), 2, "broken.json cannot be read"),
        (lambda _: script.read(tmp_path / "empty.json"), 2, "empty.json does not hold results"),
        (lambda _: script.write(tmp_path, {"a": 1}), 2, "cannot be written"),
        (bars.main, 2, "There are no results"),
        (lambda _: learning.main(["nobody"]), 2, "There is no line for nobody"),
    ):
        with pytest.raises(SystemExit) as ended:
            script.run(main, "all of it is kept.")
        assert ended.value.code == code
        assert sentence in capsys.readouterr().err
    assert script.read(tmp_path / "none.json") is None


def test_seeds_that_do_not_divide_are_all_trained(monkeypatch):
    class Worker:
        def __init__(self, python, script, job, core, more):
            self.job = job

        def hear(self, seconds):
            return {"first_seconds": 1.0, "env_steps": 10 * self.job["seeds"]}

    monkeypatch.setattr(peers, "Worker", Worker)
    monkeypatch.setattr(peers, "CORES", [0, 1, 2])
    one = peers.Contestant("rljax", peers.PER_CORE, {**peers.PPO, "seeds": 8}, "python")
    one.prepare()
    assert [worker.job["seeds"] for worker in one.workers] == [3, 3, 2]
    assert one.about["env_steps"] == 80


def test_a_peer_on_another_device_or_without_a_complete_run_is_reported(capsys):
    def contestant(peer, device):
        one = peers.Contestant(peer, peers.README, {**peers.DQN, "seeds": 1}, "python")
        one.about, one.seconds, one.returns = {"device": device, "env_steps": 10, "first_seconds": 3.0}, [1.0], [9.0]
        one.about["versions"] = {}
        return one

    field = [contestant("rljax", "2 x cpu"), contestant("rejax", "1 x H9"), contestant("sbx-rl", "1 x H9")]
    peers.check_devices(field)
    assert [bool(one.failure) for one in field] == [False, True, False]  # SBX brings its own build of PyTorch and JAX
    row = peers.row(peers.TASKS["dqn_cartpole"], field[2])
    assert row["return_iqm"] == 9.0
    assert "no return of a whole run" in row["differs"]  # but of those that were timed
    field[2].returns_of = 50_152
    assert "return of one run of 50,152" in peers.row(peers.TASKS["dqn_cartpole"], field[2])["differs"]
    field[2].returns, field[2].returns_of = [], 0
    row = peers.row(peers.TASKS["dqn_cartpole"], field[2])
    assert "return_iqm" not in row
    assert "no return of a whole run" in row["differs"]


def worker(monkeypatch, name):
    monkeypatch.syspath_prepend(pathlib.Path(peers.__file__).parent / "peer_workers")
    return importlib.import_module(name)


@pytest.mark.parametrize(("name", "build"), [("with_rljax", "step_at_random"), ("with_gymnax", "build")])
def test_random_steps_are_counted_correctly(monkeypatch, name, build):
    """CartPole pays 1 for every step, so the mean reward is 1 if exactly the steps taken are counted."""
    job = peers.RANDOM | {"num_envs": 16, "num_steps": 25, "steps": 1_000}
    program = getattr(worker(monkeypatch, name), build)(job)
    assert program.env_steps == (800 if name == "with_rljax" else 992)  # whole slices, whole steps of all
    assert float(program.returns(program.start(3)())[0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("seeds", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_training_steps_are_counted_correctly(monkeypatch, seeds):
    job = peers.DQN | {"seeds": seeds, "steps": 70, "prefill": 40, "hidden": [8], "batch": 4, "episodes": 1}
    program = worker(monkeypatch, "with_rljax").learn(job)
    state = program.start(1)()
    taken = np.asarray(state.replay.added).sum() * job["num_envs"]
    assert program.env_steps == taken == 68 * seeds
    assert np.shape(program.returns(state)) == (seeds,)
